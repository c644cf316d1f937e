"""The best activated parameters, sparsity and tokens for a budget, with a memory limit and served tokens.

The law says that more experts cost no FLOPs and never hurt. So there is no best sparsity without a limit: R is at most the
largest ratio of the runs, beyond which nothing was measured (Clark et al. 2022 found that gains end), and N R is at most the
parameters that a memory holds. Where the memory binds, R = M / N, and the law in N is A / (M^gamma N^(alpha - gamma)).
"""

from dataclasses import dataclass

import numpy as np

from analyses.scaling.budgeting import Array, Budget, best_size
from analyses.scaling.sparsity.surface import Form


@dataclass(frozen=True)
class Limits:
    """Of the ratio R, as in the runs, and of the total parameters N R."""

    low: float
    high: float
    memory: float | None = None  # parameters
    more: tuple[float, ...] = ()  # the covariates' values, as logs


@dataclass(frozen=True)
class Best:
    """(R,) each, for R laws: logs of N, R and D, and the loss."""

    x: Array
    r: Array
    y: Array
    loss: Array


def optimum(form: Form, theta: Array, budget: Budget, limits: Limits) -> Best | None:
    """The best under each law theta (R, p); None where the budget, or the memory, has room for nothing."""
    span = budget.range
    if span is None:
        return None
    low, high = span
    if limits.memory is not None:
        high = min(high, float(np.log(limits.memory / limits.low)))
    if high <= low:
        return None

    def loss(x: Array) -> Array:
        return best_ratio(form, theta, budget, limits, x)[2]

    x = best_size(loss, low, high, len(theta))[:, None]
    r, y, least = best_ratio(form, theta, budget, limits, x)
    return Best(x[:, 0], r[:, 0], y[:, 0], least[:, 0])


def best_ratio(form: Form, theta: Array, budget: Budget, limits: Limits, x: Array) -> tuple[Array, Array, Array]:
    """For sizes x (R, m) the best r within the limits, the y that the budget buys and the loss, (R, m) each.

    Both powers are exponentials of linear functions of r, so the loss is convex in r: its minimum is where the derivative is
    zero, or at an end.
    """
    with np.errstate(all="ignore"):  # no tokens are left at some sizes
        y = np.log(budget.tokens(x))
    dx, dy = x - form.centre[0], y - form.centre[2]
    column = {name: theta[:, index, None] for index, name in enumerate(form.names)}
    zero = np.zeros_like(theta[:, :1])
    chi, omega, zeta = (column.get(name, zero) for name in ("chi", "omega", "zeta"))
    first, second = column["A"] - column["alpha"] * dx, column["B"] - column["beta"] * dy
    for name, value in zip(form.covariates, limits.more, strict=True):
        first = first - column[name] * value
    falls, also = column["gamma"] + chi * dx, omega + zeta * dy
    low = np.log(limits.low) - form.centre[1]
    top = np.full_like(dx, np.log(limits.high))
    if limits.memory is not None:
        top = np.minimum(top, np.log(limits.memory) - x)
    high = np.maximum(top - form.centre[1], low)
    with np.errstate(all="ignore"):
        inner = (first - second + np.log(np.abs(falls) / np.abs(also))) / (falls - also)
    opposed = falls * also < 0
    r = np.where(opposed, np.clip(inner, low, high), np.where(falls + also > 0, high, low))
    loss = np.exp(column["E"]) + np.exp(first - falls * r) + np.exp(second - also * r)
    return r + form.centre[1], y, np.where(np.isfinite(y), loss, np.inf)
