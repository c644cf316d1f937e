"""Checks of an isoFLOP study: runs that are outliers, and parabolas that do not fit.

Both use a larger model: a parabola for each budget, and one cubic and one quartic term that all budgets share. On a loss
surface such as E + A/N^a + B/D^b all budgets have nearly the same shape about their minimum. A wide grid, which parabolas
do not fit, therefore shows in these two terms, and its ends are not mistaken for outliers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.scaling.parabola import BudgetFit, ParabolaBasis, distinct_sizes
from analyses.scaling.runs import Runs
from analyses.scaling.suspects import MIN_SIZES, SMALLEST, find_suspects

OUTLIER_LEVEL = 0.01  # probability that any run of a clean study is taken for an outlier
MISFITS = 5.0  # an outlier is more than so many root mean squares of the parabolas' residuals off


def lack_of_fit(budgets: Sequence[BudgetFit]) -> float:
    """The p-value of the shared cubic and quartic terms; 1 where there are too few runs to test them."""
    from scipy import special

    terms, residuals = [], []
    for budget in budgets:
        assert budget.design is not None
        terms.append(_higher_terms(budget.design, budget.design.log_params))
        residuals.append(budget.residuals)
    z, residual = np.concatenate(terms), np.concatenate(residuals)
    degrees = sum(len(budget.runs) - 3 for budget in budgets) - 2
    total = float((residual**2).sum())
    scale = float(np.mean([budget.loss for budget in budgets]))
    if degrees < 1 or total <= len(residual) * (1e-12 * scale) ** 2:
        return 1.0
    z = z / np.sqrt((z * z).sum(axis=0))
    r = float((z[:, 0] * z[:, 1]).sum())
    b = (z * residual[:, None]).sum(axis=0)
    if 1 - r * r < 1e-9:  # the same four sizes in every budget: the two terms are one
        explained, used = float(b[0] ** 2), 1
    else:
        explained, used = float((b[0] ** 2 - 2 * r * b[0] * b[1] + b[1] ** 2) / (1 - r * r)), 2
    degrees += 2 - used
    left = max(total - explained, 0.0)
    if left <= 1e-18 * total:
        return 0.0
    return float(special.fdtrc(used, degrees, explained / used / (left / degrees)))


def _higher_terms(design: ParabolaBasis, log_params: np.ndarray) -> np.ndarray:
    """u^3 and u^4 without the parabolas that fit them over the budget's sizes: (..., 2)."""
    u, at = design.log_params - design.center, log_params - design.center
    terms = [at**power - np.einsum("k...,k->...", design.polynomials(log_params), design.coefficients(u**power))
             for power in (3, 4)]  # fmt: skip
    return np.stack(terms, axis=-1)


def find_outliers(runs: Runs) -> dict[int, float]:
    """The indices of the outliers, and the losses that the other runs predict for them.

    The suspects come from suspects.py. One is an outlier if its loss differs from the prediction of the runs that are not
    suspected by a t test, with Bonferroni's correction for the number of runs, and by far more than the residuals of the
    parabolas. A budget may keep too few sizes for a parabola: if half of its runs are bad, it is not used.
    """
    groups = [np.flatnonzero(runs.budget == index) for index in np.unique(runs.budget)]
    groups = [group for group in groups if distinct_sizes(runs.params[group]) >= MIN_SIZES]
    if not groups:
        return {}
    log_flops = np.array([np.log(runs.flops[group]).mean() for group in groups])
    found = find_suspects(np.log(runs.params), runs.loss, groups, log_flops)
    suspects = set(found.runs)
    parts: dict[tuple[int, bytes], _Part] = {}
    while suspects:
        tested = _predict(runs, groups, suspects, found.curvatures, parts)
        if tested is None:
            return {}
        cleared = {index for index, (p, _) in tested.items() if p * len(runs) >= OUTLIER_LEVEL}
        if not cleared:
            return {index: loss for index, (_, loss) in tested.items()}
        suspects -= {max(cleared, key=lambda index: tested[index][0])}  # the least suspicious; then test again
    return {}


@dataclass(frozen=True)
class _Part:
    """One budget without its m suspects: its k other runs fitted, and what that predicts for the suspects.

    `shared` and `held_shared` are the terms that all budgets share, without what the budget's own fit explains of them.
    """

    residuals: np.ndarray  # (k,)
    shared: np.ndarray  # (k, 2)
    terms: int  # of its own fit
    rank: int
    parabola: bool
    predicted: np.ndarray  # (m,)
    spread: np.ndarray  # (m,) variance of the prediction, in variances of the noise
    held_shared: np.ndarray  # (m, 2)


def _part(log_params: np.ndarray, loss: np.ndarray, suspected: np.ndarray, curvature: float) -> _Part:
    """The fit of one budget. With too few other sizes for a parabola it is a line, plus the curvature of the other budgets."""
    kept = ~suspected
    if kept.any() and distinct_sizes(np.exp(log_params[kept])) >= MIN_SIZES:
        design, level = ParabolaBasis(log_params[kept]), float(loss[kept].mean())
        g = design.coefficients(loss[kept] - level)
        at = log_params[suspected]
        p = design.polynomials(at)
        return _Part(
            loss[kept] - level - np.einsum("nk,k->n", design.basis, g), _higher_terms(design, log_params[kept]), 3, 3, True,
            level + np.einsum("k,km->m", g, p), (p * p).sum(axis=0), _higher_terms(design, at),
        )  # fmt: skip
    u = log_params - log_params.mean()
    bend = float(np.nan_to_num(curvature)) * u * u
    x = np.stack([np.ones_like(u), u], axis=1)
    used = x[kept].any(axis=0)
    x = x[:, used] / np.sqrt((x[kept][:, used] ** 2).sum(axis=0))
    y = (loss - bend)[kept]
    line, _, rank, _ = np.linalg.lstsq(x[kept], y, rcond=1e-10)
    out = x[suspected]
    spread = np.einsum("ij,jk,ik->i", out, np.linalg.pinv(x[kept].T @ x[kept], rcond=1e-12, hermitian=True), out)
    return _Part(
        y - x[kept] @ line, np.zeros((len(y), 2)), int(used.sum()), int(rank), False,
        bend[suspected] + out @ line, spread, np.zeros((len(out), 2)),
    )  # fmt: skip


def _predict(
    runs: Runs,
    groups: Sequence[np.ndarray],
    suspects: set[int],
    curvatures: np.ndarray,
    parts: dict[tuple[int, bytes], _Part],
) -> dict[int, tuple[float, float]] | None:
    """For every suspect its p-value and its predicted loss, from a least-squares fit of the other runs.

    The model is that of the module. The shared terms are orthogonal to every budget's own, so that each budget is fitted by
    itself, once for each set of its suspects (`parts`), and the shared terms are fitted to what is left.
    """
    from scipy import special

    suspected = np.zeros(len(runs), dtype=bool)
    suspected[list(suspects)] = True
    found = []
    for number, (group, curvature) in enumerate(zip(groups, curvatures, strict=True)):
        key = number, suspected[group].tobytes()
        if key not in parts:
            parts[key] = _part(np.log(runs.params[group]), runs.loss[group], suspected[group], float(curvature))
        found.append(parts[key])
    residual, shared = (
        np.concatenate([part.residuals for part in found]),
        np.concatenate([part.shared for part in found]),
    )
    misfit = math.fsum(float((part.residuals**2).sum()) for part in found if part.parabola)
    fitted = sum(len(part.residuals) - 3 for part in found if part.parabola)
    predicted = np.concatenate([part.predicted for part in found])
    spread = np.concatenate([part.spread for part in found])
    rank = sum(part.rank for part in found)
    if not len(residual):
        return None
    if (
        len(residual) - sum(part.terms for part in found) - 2 >= 1 and shared.any()
    ):  # else too few runs for shared terms
        size = np.sqrt((shared**2).sum(axis=0))
        size[size == 0] = 1
        held = np.concatenate([part.held_shared for part in found]) / size
        shared = shared / size
        terms, _, more, _ = np.linalg.lstsq(shared, residual, rcond=1e-10)
        residual, rank, predicted = residual - shared @ terms, rank + int(more), predicted + held @ terms
        inverse = np.linalg.pinv(shared.T @ shared, rcond=1e-12, hermitian=True)
        spread = spread + np.einsum("ij,jk,ik->i", held, inverse, held)
    degrees = len(residual) - rank
    if degrees < 1:
        return None
    names = [int(index) for group in groups for index in group[suspected[group]]]
    deviation = max(math.sqrt(float((residual**2).sum()) / degrees), SMALLEST * float(runs.loss.mean()))
    off = np.abs(runs.loss[names] - predicted)
    p = 2 * special.stdtr(degrees, -off / (deviation * np.sqrt(1 + spread)))
    p = np.where(off > MISFITS * math.sqrt(misfit / max(1, fitted)), p, 1.0)
    return {name: (float(p[i]), float(predicted[i])) for i, name in enumerate(names)}
