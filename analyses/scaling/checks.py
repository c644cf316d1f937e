"""Checks of an isoFLOP study before its law is believed: runs that are out of line, and parabolas that do not fit.

Both compare with a richer model: a parabola a budget and one cubic and one quartic term for all of them. On a loss
surface such as E + A/N^a + B/D^b every budget has nearly the same shape about its minimum, so a grid so wide that a
parabola misfits shows as these two terms, and its far ends are not mistaken for outliers.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from analyses.scaling.parabola import BudgetFit, Design, distinct_sizes
from analyses.scaling.runs import Runs

OUTLIER_LEVEL = 0.01  # probability that a clean study has any run taken for an outlier
CANDIDATE = 6.0  # robust standard deviations, which are small for few runs, that make a run worth testing
MISFITS = 5.0  # root mean squares of plain parabolas' residuals that an outlier exceeds
SMALLEST = 1e-7  # of the loss: less than this is rounding, not an outlier


def lack_of_fit(budgets: Sequence[BudgetFit]) -> float:
    """The p-value of the cubic and quartic terms; 1 where too few runs are left to test them."""
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
    if 1 - r * r < 1e-9:  # the same four sizes in every budget: one direction is all there is
        explained, used = float(b[0] ** 2), 1
    else:
        explained, used = float((b[0] ** 2 - 2 * r * b[0] * b[1] + b[1] ** 2) / (1 - r * r)), 2
    degrees += 2 - used
    left = max(total - explained, 0.0)
    if left <= 1e-18 * total:
        return 0.0
    return float(special.fdtrc(used, degrees, explained / used / (left / degrees)))


def _higher_terms(design: Design, log_params: np.ndarray) -> np.ndarray:
    """The third and fourth power of u less their parabolas over the design's sizes: (..., 2)."""
    u, at = design.log_params - design.center, log_params - design.center
    terms = [at**power - np.einsum("k...,k->...", design.polynomials(log_params), design.coefficients(u**power))
             for power in (3, 4)]  # fmt: skip
    return np.stack(terms, axis=-1)


def find_outliers(runs: Runs) -> dict[int, float]:
    """Indices of runs whose loss the others do not explain, and the loss that the others predict there.

    Candidates lie far from a robust parabola of their budget. A candidate is an outlier when its prediction from all that
    are none fails a t test, by Bonferroni over the runs, and lies farther off than parabolas misfit the others. Never so
    many that a budget is left with fewer than four sizes.
    """
    groups = [np.flatnonzero(runs.budget == index) for index in np.unique(runs.budget)]
    groups = [group for group in groups if len(group) > 4 and distinct_sizes(runs.params[group]) >= 4]
    if not groups:
        return {}
    suspects = _candidates(runs, groups)
    predicted: dict[int, float] = {}
    while suspects:
        tested = _predict(runs, groups, suspects)
        if tested is None:
            return {}
        cleared = {index for index, (p, _) in tested.items() if p * len(runs) >= OUTLIER_LEVEL}
        predicted = {index: loss for index, (_, loss) in tested.items()}
        if not cleared:
            return predicted
        suspects -= {max(cleared, key=lambda index: tested[index][0])}  # the least suspicious; then ask again
    return {}


def _candidates(runs: Runs, groups: Sequence[np.ndarray]) -> set[int]:
    log_params = np.log(runs.params)
    residuals = [_robust_residuals(log_params[group], runs.loss[group]) for group in groups]
    pooled = np.concatenate([np.sort(np.abs(residual))[3:] for residual in residuals])
    scale = 1.4826 * float(np.median(pooled)) if len(pooled) else 0.0
    suspects: set[int] = set()
    for group, residual in zip(groups, residuals, strict=True):
        limit = np.maximum(CANDIDATE * scale, SMALLEST * runs.loss[group])
        left = np.ones(len(group), dtype=bool)
        for index in np.argsort(-np.abs(residual), kind="stable")[: _spare(len(group))]:
            left[index] = False
            if abs(residual[index]) <= limit[index] or distinct_sizes(runs.params[group][left]) < 4:
                left[index] = True
            else:
                suspects.add(int(group[index]))
    return suspects


def _spare(runs: int) -> int:
    """How many runs of a budget may be out of line: less than half, and four are needed."""
    return max(0, min(runs - 4, (runs - 2) // 2))


def _robust_residuals(log_params: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """From the parabola through three runs that fits all but the spare ones best (least trimmed squares).

    Not least absolute deviations, which run through an outlier at the end of the sizes. Of many runs, triples are taken
    from an even selection.
    """
    order = np.argsort(log_params, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), 20)).astype(int)]
    i, j, k = np.array(list(combinations(chosen.tolist(), 3))).T
    u = log_params - log_params.mean()
    apart = (u[j] - u[i] > 1e-6) & (u[k] - u[j] > 1e-6)
    i, j, k = i[apart], j[apart], k[apart]
    if not len(i):
        return np.zeros_like(loss)
    y = loss - loss.mean()
    first, second = (y[j] - y[i]) / (u[j] - u[i]), (y[k] - y[j]) / (u[k] - u[j])
    bend = (second - first) / (u[k] - u[i])  # Newton's divided differences
    at = u[:, None]
    residuals = y[:, None] - (y[i] + (at - u[i]) * (first + (at - u[j]) * bend))
    kept = np.sort(residuals**2, axis=0)[: len(loss) - _spare(len(loss))]
    return residuals[:, kept.sum(axis=0).argmin()]


def _predict(runs: Runs, groups: Sequence[np.ndarray], suspects: set[int]) -> dict[int, tuple[float, float]] | None:
    """For every suspect the p-value of its loss and the predicted loss, from the runs that are none."""
    from scipy import special

    log_params = np.log(runs.params)
    trusted = [np.array([index for index in group if index not in suspects]) for group in groups]
    rows: list[np.ndarray] = []
    held: list[np.ndarray] = []  # of suspects, in the order of the groups
    targets = []
    misfit = 0.0
    for number, (group, kept) in enumerate(zip(groups, trusted, strict=True)):
        design = Design(log_params[kept])
        loss = runs.loss[kept] - runs.loss[kept].mean()
        misfit += float(((loss - np.einsum("nk,k->n", design.basis, design.coefficients(loss))) ** 2).sum())
        for index in group:
            row = np.zeros(3 * len(groups) + 2)
            at = log_params[index : index + 1]
            row[3 * number : 3 * number + 3] = design.polynomials(at)[:, 0]
            row[-2:] = _higher_terms(design, at)[0]
            (held if index in suspects else rows).append(row)
            if index not in suspects:
                targets.append(runs.loss[index])
    names = [int(index) for group in groups for index in group if index in suspects]
    x, y, out = np.array(rows), np.array(targets), np.array(held)
    higher = np.sqrt((x[:, -2:] ** 2).sum(axis=0))
    if len(x) - x.shape[1] < 1 or not (higher > 0).all():  # too few runs for the shared terms
        x, out = x[:, :-2], out[:, :-2]
    else:
        x, out = x.copy(), out.copy()
        x[:, -2:] /= higher
        out[:, -2:] /= higher
    solution, _, rank, _ = np.linalg.lstsq(x, y, rcond=1e-10)
    degrees = len(x) - int(rank)
    if degrees < 1:
        return None
    deviation = max(math.sqrt(float(((y - x @ solution) ** 2).sum()) / degrees), SMALLEST * float(y.mean()))
    spread = np.einsum("ij,jk,ik->i", out, np.linalg.pinv(x.T @ x, rcond=1e-12, hermitian=True), out)
    predicted = out @ solution
    t = np.abs(runs.loss[names] - predicted) / (deviation * np.sqrt(1 + spread))
    p = 2 * special.stdtr(degrees, -t)
    plain = math.sqrt(misfit / max(1, len(x) - 3 * len(groups)))
    p = np.where(np.abs(runs.loss[names] - predicted) > MISFITS * plain, p, 1.0)
    return {name: (float(p[i]), float(predicted[i])) for i, name in enumerate(names)}
