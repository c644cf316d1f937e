"""Whether the losses of a study have a shape that all budgets share: its test for lack of fit.

shape_misfit(shape) -> the p-value of more terms, and, with seeds, of the means of sizes
"""

import numpy as np

from analyses.scaling.parabola import distinct_sizes
from analyses.scaling.shared_shape import SharedShape

MORE_TERMS = 4  # u^5, u^6, and changes of k3 and k4 with log C
DEPENDENT = 1e-3  # of a term's size, that the terms before it leave of it


def shape_misfit(shape: SharedShape) -> float:
    """The p-value of u^5, u^6 and a change of k3 and k4 with the order of the budgets, by an F test.

    Where sizes have several seeds, their means are compared with the shape by another (lack of fit against pure error, Draper
    and Smith 1998, section 2.1). The smaller of two p-values counts double.
    """
    runs, total = shape.runs, float((shape.residuals**2).sum())
    if total <= len(runs.loss) * (1e-12 * float(shape.least.max())) ** 2:
        return 1.0
    found = [p for p in (_more_terms(shape, total), _pure_error(shape, total)) if p is not None]
    return min(1.0, len(found) * min(found, default=1.0))


def _more_terms(shape: SharedShape, total: float) -> float | None:
    from scipy import special

    runs = shape.runs
    u = runs.log_params - shape.minima[runs.budget]
    shift = runs.log_flops - runs.log_flops.mean()
    terms = shape.curvature[runs.budget] * np.stack([u**5, u**6, shift[runs.budget] * u**3, shift[runs.budget] * u**4])
    basis: list[np.ndarray] = []
    for term in terms[: min(MORE_TERMS, shape.degrees - 2)]:
        rest = shape.orthogonal.rest(term)
        size = float((rest * rest).sum()) ** 0.5
        for _ in range(2):  # once more for what rounding left
            for one in basis:
                rest = rest - float((one * rest).sum()) * one
        left = float((rest * rest).sum()) ** 0.5
        if left > DEPENDENT * size > 0:
            basis.append(rest / left)
    if not basis:
        return None
    explained = sum(float((one * shape.residuals).sum()) ** 2 for one in basis)
    degrees = shape.degrees - len(basis)
    left = max(total - explained, 1e-18 * total)
    return float(special.fdtrc(len(basis), degrees, explained / len(basis) / (left / degrees)))


def _pure_error(shape: SharedShape, total: float) -> float | None:
    from scipy import special

    runs, pure, cells = shape.runs, 0.0, 0
    for index in range(len(runs.level)):
        of_budget = runs.budget == index
        params, residuals = np.exp(runs.log_params[of_budget]), shape.residuals[of_budget]
        _, size = np.unique(params, return_inverse=True)
        means = np.bincount(size, residuals) / np.bincount(size)
        pure, cells = pure + float(((residuals - means[size]) ** 2).sum()), cells + distinct_sizes(params)
    repeated = len(runs.loss) - cells
    free = shape.degrees - repeated
    if free < 1 or repeated < 1 or pure <= 1e-18 * total:
        return None
    return float(special.fdtrc(free, repeated, (total - pure) / free / (pure / repeated)))
