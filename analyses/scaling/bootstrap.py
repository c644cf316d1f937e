"""Residual and case bootstrap of the quadratic method, all resamples at once.

R resamples, n runs of a budget, B budgets. The case bootstrap draws runs within each budget. The residual bootstrap draws
residuals, corrected for leverage, from all budgets. Sums run in a fixed order without BLAS, so that a seed gives the same
bits for any number of threads. 10,000 resamples of 100 runs take a few hundredths of a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.scaling.isoflop import slope_and_level
from analyses.scaling.parabola import BudgetFit

REDRAWS = 50
DRAWN_TOGETHER = 2**17  # draws at a time: 1 MiB


@dataclass(frozen=True)
class Resamples:
    """The logs x, y, z of compute, N_opt and D_opt, and the least loss: (R, B) each, NaN where there is no minimum."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    loss: np.ndarray

    def law(self, of: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The exponent, the mean log of "params" or "tokens" and the mean log compute of each resample with all minima."""
        y = self.y if of == "params" else self.z
        whole = np.isfinite(self.x).all(axis=1) & np.isfinite(y).all(axis=1)
        return slope_and_level(self.x[whole], y[whole])

    @property
    def without_minimum(self) -> float:
        """The share of resamples that have a budget without a minimum."""
        return 1 - float((np.isfinite(self.x) & np.isfinite(self.y)).all(axis=1).mean())


def residual_bootstrap(budgets: Sequence[BudgetFit], resamples: int, generator: np.random.Generator) -> Resamples:
    """Fits losses that are the fitted parabola plus residuals drawn with replacement from all budgets."""
    pool = np.concatenate([_corrected_residuals(budget) for budget in budgets])
    pool = pool - pool.mean()

    def coefficients(budget: BudgetFit) -> np.ndarray:
        assert budget.design is not None
        runs, changes = len(budget.runs), []
        for size in _chunks(resamples, runs):
            drawn = pool[generator.integers(0, len(pool), (size, runs), dtype=np.int32)]
            changes.append(budget.design.coefficients(drawn))
        return budget.g + np.concatenate(changes)

    return _draws(budgets, [coefficients(budget) for budget in budgets])


def case_bootstrap(budgets: Sequence[BudgetFit], resamples: int, generator: np.random.Generator) -> Resamples:
    """Fits runs drawn with replacement within each budget. A draw with fewer than three sizes is drawn again."""
    return _draws(budgets, [_case_coefficients(budget, resamples, generator) for budget in budgets])


def _corrected_residuals(budget: BudgetFit) -> np.ndarray:
    """The residuals divided by sqrt(1 - leverage), so that they have the variance of the noise."""
    free = 1 - budget.leverage
    return np.where(free > 1e-9, budget.residuals / np.sqrt(np.maximum(free, 1e-9)), 0.0)


def _case_coefficients(budget: BudgetFit, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """The least-squares parabola of every resample, in the basis of the budget's sizes: (resamples, 3)."""
    assert budget.design is not None
    runs, basis = len(budget.runs), budget.design.basis
    products = np.stack([basis[:, i] * basis[:, j] for i in range(3) for j in range(i, 3)], axis=1)
    columns = np.concatenate([products, basis * budget.residuals[:, None]], axis=1)
    sizes, size = np.unique(budget.runs.params, return_inverse=True)
    sums, flat = [], []
    for several in _chunks(resamples, runs):
        counts = _counts(runs, several, generator)
        sums.append(np.einsum("rn,nk->kr", counts, columns))
        flat.append(_distinct(counts, size, len(sizes)) < 3)
    moments, again = np.concatenate(sums, axis=1), np.flatnonzero(np.concatenate(flat))
    for _ in range(REDRAWS):
        if not len(again):
            break
        counts = _counts(runs, len(again), generator)
        moments[:, again] = np.einsum("rn,nk->kr", counts, columns)
        again = again[_distinct(counts, size, len(sizes)) < 3]
    a00, a01, a02, a11, a12, a22, b0, b1, b2 = moments
    # Cramer's rule: the basis is orthonormal for the whole set, so a resample's matrix is not far from the identity.
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    with np.errstate(all="ignore"):
        determinant = a00 * c00 + a01 * c01 + a02 * c02
        determinant = np.where(determinant > 1e-12, determinant, np.nan)
        change = [c00 * b0 + c01 * b1 + c02 * b2, c01 * b0 + c11 * b1 + c12 * b2, c02 * b0 + c12 * b1 + c22 * b2]
        return budget.g + np.stack(change, axis=-1) / determinant[:, None]


def _chunks(resamples: int, runs: int) -> list[int]:
    """How many resamples are drawn at a time. The draws are the same; what is held fits a cache."""
    each = max(1, DRAWN_TOGETHER // runs)
    return [min(each, resamples - first) for first in range(0, resamples, each)]


def _counts(runs: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each run is drawn: (resamples, runs) as float64."""
    drawn = generator.integers(0, runs, (resamples, runs), dtype=np.int32)
    places = drawn + np.arange(0, resamples * runs, runs)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * runs).reshape(resamples, runs).astype(np.float64)


def _distinct(counts: np.ndarray, size: np.ndarray, sizes: int) -> np.ndarray:
    """How many distinct sizes each resample has."""
    if sizes == counts.shape[1]:
        return (counts > 0).sum(axis=1)
    of_size = np.add.reduceat(
        counts[:, np.argsort(size, kind="stable")], np.searchsorted(np.sort(size), np.arange(sizes)), axis=1
    )
    return (of_size > 0).sum(axis=1)


def _draws(budgets: Sequence[BudgetFit], coefficients: Sequence[np.ndarray]) -> Resamples:
    columns = []
    with np.errstate(all="ignore"):
        for budget, g in zip(budgets, coefficients, strict=True):
            places = np.stack(budget.places(g))
            places[:, ~(g[:, 2] > 0)] = np.nan  # opens downward
            columns.append(places)
    x, y, z, loss = np.stack(columns, axis=-1)
    return Resamples(x, y, z, loss)


def percentiles(values: np.ndarray, confidence: float) -> list[float]:
    """The central interval with this share of the values; NaN for fewer than 20 values."""
    if len(values) < 20:
        return [math.nan, math.nan]
    largest = 1e300  # between infinite values there is no quantile
    ends = np.quantile(np.clip(values, -largest, largest), [(1 - confidence) / 2, (1 + confidence) / 2])
    return [float(ends[0]), float(ends[1])]
