"""A win rate with the effect of length taken out.

Dubois et al. 2024 (arXiv:2404.04475) fit the verdicts by a logistic model, log odds of winning = theta + phi * tanh(d / sd(d)),
d being the difference of the two answers' lengths, and report sigmoid(theta), as if they were equally long. Their model has a
third term for how hard each instruction is, fitted over a board of models: one model does not give it, and it is left out.
"""

from collections.abc import Sequence

import numpy as np

RIDGE = 1.0  # of theta and phi: an opponent that never wins would have them grow for ever
STEPS = 50


def length_controlled(wins: Sequence[float], differences: Sequence[float]) -> float:
    """The share of wins (each 0, 0.5 for a tie, or 1) at equal lengths; `differences` are ours less theirs, in characters."""
    won, lengths = np.asarray(wins, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    spread = lengths.std()
    inputs = np.stack([np.ones_like(won), np.tanh(lengths / spread) if spread > 0 else np.zeros_like(won)], axis=1)
    weights = np.zeros(2)
    for _ in range(STEPS):  # Newton's method
        chance = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (chance - won) + RIDGE * weights
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(-weights[0])))
