"""Scaling laws: from a table of runs to power laws with intervals, predictions and figures."""
