"""Scores of models: tables, comparisons, and figures against length and depth."""
