"""The quadratic method with the shape that all budgets share: its minima and laws instead of those of parabolas.

shaped(fit) -> IsoflopFit, None    or the fit as it was, and a finding that says why it has no shared shape
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from analyses.scaling.findings import Finding
from analyses.scaling.isoflop import MISFIT_LEVEL, IsoflopFit, doubts, fit_power_law
from analyses.scaling.parabola import BudgetFit
from analyses.scaling.refusals import refuse_laws
from analyses.scaling.shape_misfit import shape_misfit
from analyses.scaling.shared_shape import SharedShape, fit_shared_shape

SHAPE_MISFIT = (
    "the shared shape misfits the losses beyond their noise (p = {p:.1g}): drop the sizes farthest from the minimum, or read "
    "--method parametric beside it"
)
OF_PARABOLAS = {"lack_of_fit", "power_law_misfit", "weak_curvature"}


@dataclass(frozen=True)
class ShapedBudget(BudgetFit):
    """A budget whose loss is l + c (u^2 + k3 u^3 + k4 u^4). `design` and `g` remain those of its parabola.

    Its errors are the K of the whole shape, and so are the derivatives by them: (K,) each, where a parabola has (3,).
    """

    shape: SharedShape
    number: int  # of this budget there

    shared_terms: ClassVar[int] = 2

    @cached_property
    def _vertex(self) -> tuple[float, float, float]:
        one = self.number
        return float(self.shape.minima[one]), float(self.shape.least[one]), float(self.shape.curvature[one])

    def curve(self, log_params: np.ndarray) -> np.ndarray:
        u = log_params - self.y
        return self.loss + self.curvature * u * u * (1 + u * (self.shape.k3 + u * self.shape.k4))

    def rows(self, log_params: np.ndarray) -> np.ndarray:
        u, c, (k3, k4) = log_params - self.y, self.curvature, (self.shape.k3, self.shape.k4)
        own = [np.ones_like(u), -c * u * (2 + u * (3 * k3 + 4 * k4 * u)), u * u * (1 + u * (k3 + k4 * u))]
        shared = [c * u**3, c * u**4]
        return np.einsum("pn,pk->nk", np.stack(own + shared), np.concatenate([self._errors, self.shape.shared_errors]))

    def jointly(self, by_own: np.ndarray, index: int, budgets: int) -> np.ndarray:
        return by_own

    @property
    def _errors(self) -> np.ndarray:
        return self.shape.errors[self.number]

    @cached_property
    def residuals(self) -> np.ndarray:
        return self.shape.residuals[self.shape.runs.budget == self.number]

    @cached_property
    def coefficient_bias(self) -> np.ndarray:
        return np.zeros(self.shape.errors.shape[-1])  # the shape is a surface's own

    @cached_property
    def _vertex_gradients(self) -> tuple[np.ndarray, np.ndarray]:
        return self._errors[1], self._errors[0]


def shaped(fit: IsoflopFit) -> tuple[IsoflopFit, Finding | None]:
    """A fit that has laws, with those of the shared shape instead. Without one it stays, and a finding says why."""
    shape = fit_shared_shape(fit.usable)
    if isinstance(shape, str):
        return fit, fallback(shape)
    usable = shaped_budgets(fit.usable, shape)
    params_law, tokens_law = fit_power_law(usable, "params"), fit_power_law(usable, "tokens")
    refusal = refuse_laws([(law.exponent, law.log_coefficient) for law in (params_law, tokens_law)])
    if refusal is not None:
        return fit, fallback(refusal.reason)
    misfit_p = shape_misfit(shape)
    misfit = Finding("shape_misfit", SHAPE_MISFIT.format(p=misfit_p)) if misfit_p < MISFIT_LEVEL else None
    kept = tuple(one for one in fit.findings if one.code not in OF_PARABOLAS)
    new = {id(old): one for old, one in zip(fit.usable, usable, strict=True)}
    return replace(
        fit,
        budgets=tuple(new.get(id(budget), budget) for budget in fit.budgets),
        usable=usable,
        params_law=params_law,
        tokens_law=tokens_law,
        findings=(*kept, *doubts(usable, params_law, misfit)),
        misfit_p=misfit_p,
    ), None


def fallback(reason: str) -> Finding:
    return Finding("shape_fallback", f"parabolas instead of a shape that all budgets share: {reason}")


def shaped_budgets(budgets: Sequence[BudgetFit], shape: SharedShape) -> tuple[ShapedBudget, ...]:
    """The budgets that the shape was fitted to, with its minima."""
    return tuple(
        ShapedBudget(**{field.name: getattr(budget, field.name) for field in fields(BudgetFit)}, shape=shape, number=i)
        for i, budget in enumerate(budgets)
    )
