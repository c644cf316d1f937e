"""Checks of an isoFLOP study: runs that are outliers, and parabolas that do not fit.

Both use a larger model: a parabola for each budget, and one cubic and one quartic term that all budgets share. On a loss
surface such as E + A/N^a + B/D^b all budgets have nearly the same shape about their minimum. A wide grid, which parabolas
do not fit, therefore shows in these two terms, and its ends are not mistaken for outliers.
"""

import math
from collections.abc import Sequence

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
    while suspects:
        tested = _predict(runs, groups, suspects, found.curvatures)
        if tested is None:
            return {}
        cleared = {index for index, (p, _) in tested.items() if p * len(runs) >= OUTLIER_LEVEL}
        if not cleared:
            return {index: loss for index, (_, loss) in tested.items()}
        suspects -= {max(cleared, key=lambda index: tested[index][0])}  # the least suspicious; then test again
    return {}


def _predict(
    runs: Runs, groups: Sequence[np.ndarray], suspects: set[int], curvatures: np.ndarray
) -> dict[int, tuple[float, float]] | None:
    """For every suspect its p-value and its predicted loss, from a least-squares fit of the other runs.

    The model is that of the module. A budget with too few other sizes for a parabola has a line instead, plus the curvature
    of the other budgets.
    """
    from scipy import special

    log_params = np.log(runs.params)
    rows: list[np.ndarray] = []
    held: list[np.ndarray] = []  # of suspects, in the order of the groups
    targets, known = [], []  # known: the part of a held loss that is not fitted
    misfit, fitted = 0.0, 0
    for number, (group, curvature) in enumerate(zip(groups, curvatures, strict=True)):
        kept = np.array([index for index in group if index not in suspects])
        own = len(kept) > 0 and distinct_sizes(runs.params[kept]) >= MIN_SIZES
        if own:
            design = ParabolaBasis(log_params[kept])
            loss = runs.loss[kept] - runs.loss[kept].mean()
            misfit += float(((loss - np.einsum("nk,k->n", design.basis, design.coefficients(loss))) ** 2).sum())
            fitted += len(kept) - 3
        for index in group:
            row = np.zeros(3 * len(groups) + 2)
            offset = 0.0
            if own:
                at = log_params[index : index + 1]
                row[3 * number : 3 * number + 3] = design.polynomials(at)[:, 0]
                row[-2:] = _higher_terms(design, at)[0]
            else:
                u = float(log_params[index] - log_params[group].mean())
                row[3 * number : 3 * number + 2] = 1, u
                offset = float(np.nan_to_num(curvature)) * u * u
            if index in suspects:
                held.append(row)
                known.append(offset)
            else:
                rows.append(row)
                targets.append(runs.loss[index] - offset)
    names = [int(index) for group in groups for index in group if index in suspects]
    if not rows:
        return None
    x, y, out = np.array(rows), np.array(targets), np.array(held)
    used = np.asarray(x.any(axis=0))
    used[-2:] &= len(x) - used[:-2].sum() - 2 >= 1  # too few runs for the shared terms
    size = np.sqrt((x[:, used] ** 2).sum(axis=0))
    x, out = x[:, used] / size, out[:, used] / size
    solution, _, rank, _ = np.linalg.lstsq(x, y, rcond=1e-10)
    degrees = len(x) - int(rank)
    if degrees < 1:
        return None
    deviation = max(math.sqrt(float(((y - x @ solution) ** 2).sum()) / degrees), SMALLEST * float(runs.loss.mean()))
    spread = np.einsum("ij,jk,ik->i", out, np.linalg.pinv(x.T @ x, rcond=1e-12, hermitian=True), out)
    predicted = out @ solution + np.array(known)
    off = np.abs(runs.loss[names] - predicted)
    p = 2 * special.stdtr(degrees, -off / (deviation * np.sqrt(1 + spread)))
    p = np.where(off > MISFITS * math.sqrt(misfit / max(1, fitted)), p, 1.0)
    return {name: (float(p[i]), float(predicted[i])) for i, name in enumerate(names)}
