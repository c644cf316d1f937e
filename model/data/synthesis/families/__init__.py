"""What the embedded writer can ask and answer by itself: one module for each group of families, `catalog` has them all.

A family draws a problem of a wanted difficulty from a piece of text, knows its answer by construction, and gives the check that
recomputes it. Nothing is imported here.
"""
