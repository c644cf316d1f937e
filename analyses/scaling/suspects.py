"""Runs of an isoFLOP study that may be outliers, also where a budget has several of them.

    find_suspects(log_params, loss, groups, log_flops) -> Suspects(runs, curvatures)

Each budget is first fitted by least trimmed squares (Rousseeuw 1984): the parabola that fits most of its runs best. With
three bad runs of seven this can be a wrong parabola, but then its curvature differs from that of the other budgets. Such a
budget is fitted again with the curvature of the others. Only a line is left to fit then, for which the majority of the runs
is enough. checks.find_outliers tests the suspects.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analyses.scaling.parabola import ParabolaBasis, distinct_sizes

CANDIDATE = 6.0  # a run that is so many robust standard deviations off is a suspect
SMALLEST = 1e-7  # of the loss: less than this is rounding, not an outlier
SAME_CURVE = 1.5  # factor within which a budget's curvature is that of the others
STEEPEST = 0.5  # power of C by which curvatures change at most; on Hoffmann et al.'s surface they fall as C^-0.18
TOGETHER = 2**16  # residuals of candidates that are held at once: half a MiB
MIN_SIZES = 4  # that a parabola needs, and one more to tell about noise


@dataclass(frozen=True)
class Suspects:
    """runs: the indices of the suspects. curvatures (budgets,): for each budget that of the others, or NaN."""

    runs: set[int]
    curvatures: np.ndarray


@dataclass(frozen=True)
class _Trimmed:
    """One budget's parabola by least trimmed squares: which runs are off, whether the others fit, and its curvature."""

    residuals: np.ndarray
    off: np.ndarray  # (n,) bool
    explains: bool
    curvature: float


def find_suspects(
    log_params: np.ndarray, loss: np.ndarray, groups: Sequence[np.ndarray], log_flops: np.ndarray
) -> Suspects:
    """The suspects. log_params and loss are (n,), groups the indices of each budget's runs, log_flops is (budgets,)."""
    residuals = [_parabola_residuals(log_params[group], loss[group]) for group in groups]
    scale = _scale(residuals, 3)
    fits = [_trimmed(log_params[group], loss[group], residual, scale)
            for group, residual in zip(groups, residuals, strict=True)]  # fmt: skip
    curvatures = _curvatures_of_others(fits, log_flops)
    lines = [_line_residuals(log_params[group], loss[group], curvature)
             for group, curvature in zip(groups, curvatures, strict=True)]  # fmt: skip
    scale = max(scale, _scale(lines, 2))  # the shared curvature may fit all budgets badly
    suspects: set[int] = set()
    for group, fit, shared, residual in zip(groups, fits, curvatures, lines, strict=True):
        off = np.abs(residual) > _limit(scale, loss[group])
        clean = fit.explains and not fit.off.any()
        alike = 1 / SAME_CURVE < fit.curvature / shared < SAME_CURVE
        if clean or not off.any() or (fit.explains and alike):
            off = fit.off
        suspects |= {int(index) for index in group[off]}
    return Suspects(suspects, curvatures)


def _limit(scale: float, loss: np.ndarray) -> np.ndarray:
    return np.maximum(CANDIDATE * scale, SMALLEST * loss)


def _scale(residuals: Sequence[np.ndarray], exact: int) -> float:
    """A robust standard deviation of all residuals. Each fit goes exactly through `exact` runs, which do not count."""
    pooled = np.concatenate([np.sort(np.abs(residual))[exact:] for residual in residuals])
    return 1.4826 * float(np.median(pooled)) if len(pooled) else 0.0


def _spare(runs: int) -> int:
    """The number of runs that a budget's parabola may leave out: less than half, and four have to remain."""
    return max(0, min(runs - MIN_SIZES, (runs - 2) // 2))


def _trimmed(log_params: np.ndarray, loss: np.ndarray, residual: np.ndarray, scale: float) -> _Trimmed:
    limit = _limit(scale, loss)
    off = np.zeros(len(loss), dtype=bool)
    for index in np.argsort(-np.abs(residual), kind="stable")[: _spare(len(loss))]:
        off[index] = True
        if abs(residual[index]) <= limit[index] or distinct_sizes(np.exp(log_params[~off])) < MIN_SIZES:
            off[index] = False
    design = ParabolaBasis(log_params[~off])
    second = design.recurrence[3]
    curvature = float(design.coefficients(loss[~off] - loss.mean())[2]) / second if second > 0 else math.nan
    return _Trimmed(residual, off, bool((np.abs(residual) <= limit)[~off].all()), curvature)


def _curvatures_of_others(fits: Sequence[_Trimmed], log_flops: np.ndarray) -> np.ndarray:
    """(budgets,) for each budget the curvature that the others have at its C: Theil and Sen's line of log curvature in log C.

    The line is that of the budgets without suspects, or of all where there are fewer than three of them.
    """
    curvature = np.array([fit.curvature for fit in fits])
    sound = np.array([fit.explains and not fit.off.any() for fit in fits]) & (curvature > 0)
    found = np.full(len(fits), np.nan)
    for index in range(len(fits)):
        others = np.arange(len(fits)) != index
        chosen = sound & others if (sound & others).sum() >= 3 else (curvature > 0) & others
        if not chosen.any():
            continue
        x, y = log_flops[chosen] - log_flops[index], np.log(curvature[chosen])
        i, j = np.triu_indices(len(x), 1)
        apart = np.abs(x[j] - x[i]) > 1e-6
        slope = float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0
        slope = min(max(slope, -STEEPEST), STEEPEST)
        found[index] = np.exp(np.median(y - slope * x))
    return found


def _parabola_residuals(log_params: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The residuals (n,) of the parabola through three runs that fits all but the spare runs best (least trimmed squares).

    Least absolute deviations would go through an outlier at the end of the sizes.
    """
    i, j, k = _elements(log_params, 3)
    u = log_params - log_params.mean()
    apart = (u[j] - u[i] > 1e-6) & (u[k] - u[j] > 1e-6)
    i, j, k = i[apart], j[apart], k[apart]
    if not len(i):
        return np.zeros_like(loss)
    y = loss - loss.mean()
    first, second = (y[j] - y[i]) / (u[j] - u[i]), (y[k] - y[j]) / (u[k] - u[j])
    bend = (second - first) / (u[k] - u[i])  # Newton's divided differences

    def residuals(fits: slice) -> np.ndarray:
        a, b = u - u[i[fits], None], u - u[j[fits], None]
        return y - (y[i[fits], None] + a * (first[fits, None] + b * bend[fits, None]))

    return _best(residuals, len(i), len(loss), len(loss) - _spare(len(loss)))


def _line_residuals(log_params: np.ndarray, loss: np.ndarray, curvature: float) -> np.ndarray:
    """The residuals (n,) of the parabola of this curvature, through two runs, that fits most runs best; 0 for NaN."""
    u = log_params - log_params.mean()
    y = loss - curvature * u * u
    i, j = _elements(u, 2)
    apart = u[j] - u[i] > 1e-6
    i, j = i[apart], j[apart]
    if not len(i) or not np.isfinite(curvature):
        return np.zeros_like(loss)

    def residuals(fits: slice) -> np.ndarray:
        one, other = i[fits, None], j[fits, None]
        return y - (y[one] + (u - u[one]) * (y[other] - y[one]) / (u[other] - u[one]))

    return _best(residuals, len(i), len(y), len(y) // 2 + 1)


def _elements(log_params: np.ndarray, size: int) -> list[np.ndarray]:
    """All sets of so many runs, in order of size. Of more than 20 runs, an even selection is used."""
    order = np.argsort(log_params, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), 20)).astype(int)]
    return list(np.array(list(combinations(chosen.tolist(), size))).T)


def _best(residuals: Callable[[slice], np.ndarray], fits: int, runs: int, kept: int) -> np.ndarray:
    """Of the residuals (fits, runs) the row whose `kept` smallest are the least. They are found some fits at a time."""
    each, scores = max(1, TOGETHER // runs), []
    for first in range(0, fits, each):
        squares = residuals(slice(first, first + each)) ** 2
        squares.partition(kept - 1, axis=1)
        scores.append(squares[:, :kept].sum(axis=1))
    best = int(np.concatenate(scores).argmin())
    return residuals(slice(best, best + 1))[0]
