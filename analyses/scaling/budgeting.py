"""What a budget has to pay for besides training, and the search for the best size under it.

    budget.tokens(log N)     the training tokens that are left for a model of N activated parameters
    best_size(loss, low, high) -> log N with the least loss, for many laws at once

A budget of C FLOPs pays for training on D tokens and for serving T tokens (Sardana et al. 2024, arXiv:2401.00448, whose
costs are 6 N D and 2 N T): (k1 N + k2) (D + T / 3) = C, for a forward pass is a third of training. Their problem, the least
C that reaches a loss, is the same one read the other way round.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
FORWARD = 1 / 3  # of the FLOPs of training on a token: the backward pass takes two more
POINTS = 33  # of a round of the search
NARROW = 1e-10  # width in log N that ends it
LARGEST = 1e100  # FLOPs


@dataclass(frozen=True)
class Budget:
    """C FLOPs at (k1 N + k2) for each trained token and a third of it for each served one."""

    flops: float
    k1: float
    k2: float = 0.0
    served_tokens: float = 0.0

    def tokens(self, log_params: Array) -> Array:
        """Training tokens left at these sizes; none or fewer where serving alone takes the budget."""
        return self.flops / self.per_token(log_params) - FORWARD * self.served_tokens

    def per_token(self, log_params: Array) -> Array:
        return np.exp(np.logaddexp(math.log(self.k1) + log_params, math.log(self.k2) if self.k2 else -np.inf))

    def serving_flops(self, log_params: float) -> float:
        return FORWARD * self.served_tokens * float(self.per_token(np.array(log_params)))

    @property
    def range(self) -> tuple[float, float] | None:
        """The logs of the smallest and the largest size worth a thought: one parameter, and one token of training.

        None where the budget pays for neither.
        """
        most = self.flops / (1 + FORWARD * self.served_tokens) - self.k2
        return (0.0, math.log(most / self.k1)) if most > self.k1 else None


def best_size(loss: Callable[[Array], Array], low: float, high: float, problems: int) -> Array:
    """(problems,) the log N between low and high at which loss, (problems, points) at (problems, points), is least.

    The loss has to fall, then to rise. Each round keeps the two intervals beside the best of POINTS sizes. Where losses differ
    by their rounding alone the size is known to about 1e-8.
    """
    left, right = np.full(problems, low), np.full(problems, high)
    part = np.linspace(0, 1, POINTS)
    for _ in range(40):
        at = left[:, None] + (right - left)[:, None] * part
        with np.errstate(all="ignore"):
            values = loss(at)
        best = np.where(np.isfinite(values), values, np.inf).argmin(axis=1)
        step = (right - left) / (POINTS - 1)
        center = at[np.arange(problems), best]
        left, right = np.maximum(left, center - step), np.minimum(right, center + step)
        if float((right - left).max()) < NARROW:
            break
    return 0.5 * (left + right)


def least_budget(least_loss: Callable[[float], float | None], target: float, precision: float = 1e-10) -> float | None:
    """The FLOPs at which least_loss(log FLOPs), which falls, is `target`; None where no budget reaches it.

    least_loss is None where a budget pays for nothing. precision is that of log FLOPs.
    """

    def above(at: float) -> bool:
        found = least_loss(at)
        return found is None or found > target

    low, high = 0.0, math.log(LARGEST)
    if above(high):
        return None
    while high - low > precision:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if above(middle) else (low, middle)
    return math.exp(high)
