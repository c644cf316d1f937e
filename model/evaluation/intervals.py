"""How sure a score is: 95% intervals over the documents it was measured on.

A share of right answers has Wilson's interval (1927), which is sound at 0 and at 1, where the usual standard error is 0; any
other mean has the percentiles of a bootstrap over documents; the difference of two models on the same documents is paired.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Z = 1.959963984540054  # of 95%
ROUNDS = 2000


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% interval of a mean; (nan, nan) of nothing."""
    if not values:
        return math.nan, math.nan
    if all(value in (0, 1) for value in values):
        return wilson(sum(value == 1 for value in values), len(values))
    return bootstrap(values, seed=seed)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Of `right` out of n, as shares."""
    if n == 0:
        return math.nan, math.nan
    share, z2 = right / n, Z * Z / n
    centre = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n)) / (1 + z2)
    return (0.0 if right == 0 else centre - half), (1.0 if right == n else centre + half)


def bootstrap(
    values: Sequence[Any], statistic: Callable[[list[Any]], float] | None = None, *, seed: int = 0, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Percentiles of a statistic, the mean by default, over documents drawn again and again."""
    generator = np.random.default_rng(seed)
    n = len(values)
    if statistic is None:
        array = np.asarray(values, dtype=np.float64)
        drawn = [array[generator.integers(n, size=n)].mean() for _ in range(rounds)]
    else:
        drawn = [statistic([values[i] for i in generator.integers(n, size=n)]) for _ in range(rounds // 10)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def paired(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of ours - theirs over the same documents, and its 95% interval.

    Documents are drawn with both of their scores. Where all differences are alike, as of a model with itself, the interval is
    that one number: it says nothing of documents that were not asked.
    """
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if len(differences) == 0:
        return math.nan, math.nan, math.nan
    return float(differences.mean()), *bootstrap(differences.tolist(), seed=seed)
