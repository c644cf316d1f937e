"""One budget of an isoFLOP study: its parabola of loss in log N, the minimum, and their derivatives.

C training FLOPs, N activated parameters, D tokens, n runs. Sums run in a fixed order and never use BLAS, so results are the
same to the last bit for any number of threads.

    ParabolaBasis(log N)   orthonormal polynomials over these sizes, which lose no digits
    fit_budget(runs, ...)  -> BudgetFit: minimum, curvature, residuals, derivatives by the coefficients
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from analyses.scaling.cost import CostRule
from analyses.scaling.runs import Runs

SURFACE_EXPONENT = 0.36  # of N and D on a loss surface: Hoffmann et al. fitted again, arXiv:2404.10102, 0.348 and 0.366


@dataclass(frozen=True)
class ParabolaBasis:
    """Orthonormal polynomials p0, p1, p2 of u = log N - center over one budget's sizes, in which its parabola is written.

    p1 = u / s1 and p2 = (u^2 - a u - b) / s2 follow from the three-term recurrence. `basis` (n, 3) has their values at the
    runs. Under independent noise the coefficients g of a parabola g0 p0 + g1 p1 + g2 p2 are uncorrelated, and each has the
    variance of the noise.
    """

    log_params: np.ndarray  # (n,)

    @cached_property
    def center(self) -> float:
        return float(self.log_params.mean())

    @cached_property
    def recurrence(self) -> tuple[float, float, float, float]:
        u = self.log_params - self.center
        u = u - u.mean()  # the mean that rounding left
        s1 = math.sqrt(float((u * u).sum()))
        a = float((u * u * u).sum()) / s1**2
        b = s1**2 / len(u)
        p2 = u * u - a * u - b
        return s1, a, b, math.sqrt(float((p2 * p2).sum()))

    @cached_property
    def basis(self) -> np.ndarray:
        return self.polynomials(self.log_params).T

    def polynomials(self, log_params: np.ndarray) -> np.ndarray:
        """p0, p1, p2 at these sizes: (3, ...)."""
        s1, a, b, s2 = self.recurrence
        u = np.asarray(log_params) - self.center
        return np.stack([np.full_like(u, len(self.log_params) ** -0.5), u / s1, (u * u - a * u - b) / s2])

    def coefficients(self, loss: np.ndarray) -> np.ndarray:
        """The least-squares parabola of losses (..., n): (..., 3)."""
        return np.einsum("...n,nk->...k", loss, self.basis)

    def vertex(self, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log N at the minimum, the loss there, and the curvature c of loss = least + c (log N - minimum)^2."""
        s1, a, b, s2 = self.recurrence
        u = a / 2 - g[..., 1] / g[..., 2] * (s2 / (2 * s1))
        least = g[..., 0] * len(self.log_params) ** -0.5 + g[..., 1] / s1 * u + g[..., 2] / s2 * (u * u - a * u - b)
        return self.center + u, least, g[..., 2] / s2

    def gradients(self, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The derivatives by g of log N at the minimum, and of the loss there: (3,) each."""
        s1, _, _, s2 = self.recurrence
        half = s2 / (2 * s1)
        minimum = np.array([0.0, -half / g[2], half * g[1] / g[2] ** 2])
        return minimum, self.polynomials(self.vertex(g)[0])  # the derivative of the loss by log N is 0 at the minimum


@dataclass(frozen=True)
class CMin:
    """The least compute that reaches the same loss: C_min = C / (1 + B / B_crit(L)), B_crit = b_star / L^(1/alpha_b).

    B is the batch in tokens and L the least loss of the budget. Kaplan et al. 2020, arXiv:2001.08361, section 5.1.
    """

    b_star: float = 2e8  # tokens
    alpha_b: float = 0.21

    def log_factor(self, batch_tokens: float, loss: np.ndarray) -> np.ndarray:
        """log(C_min / C)."""
        return -np.log1p(batch_tokens / self.b_star * loss ** (1 / self.alpha_b))

    def slope(self, batch_tokens: float, loss: float) -> float:
        """The derivative of log_factor by the loss."""
        ratio = batch_tokens / self.b_star * loss ** (1 / self.alpha_b)
        return -ratio / (1 + ratio) / (self.alpha_b * loss)


@dataclass(frozen=True)
class BudgetFit:
    """The parabola of one budget, and its minimum. `design` is None where there are too few sizes for a parabola.

    x, y and z are the logs of compute (C, or C_min), N_opt and D_opt. `g` are the coefficients of the parabola.

    What moves a minimum are errors of variance one in units of the noise: those of the coefficients, 3 a budget, K in all.
    A budget knows its own; `jointly` sets them among those of all budgets. ShapedBudget (shaped.py) shares some with others.
    """

    shared_terms: ClassVar[int] = 0  # parameters of all budgets together, beside 3 for each

    flops: float  # geometric mean of its runs
    batch_tokens: float
    runs: Runs
    design: ParabolaBasis | None
    g: np.ndarray
    log_tokens: np.ndarray  # (3,) log D as a parabola of log N - center, by powers, where runs follow no cost rule
    cost: CostRule
    c_min: CMin | None

    @cached_property
    def _vertex(self) -> tuple[float, float, float]:
        assert self.design is not None
        return tuple(map(float, self.design.vertex(self.g)))  # type: ignore[return-value]

    def curve(self, log_params: np.ndarray) -> np.ndarray:
        """The fitted losses at these sizes."""
        assert self.design is not None
        return np.einsum("k,k...->...", self.g, self.design.polynomials(log_params))

    def rows(self, log_params: np.ndarray) -> np.ndarray:
        """The derivatives of the fitted losses at these sizes (n,) by the errors: (n, 3)."""
        assert self.design is not None
        return self.design.polynomials(log_params).T

    @cached_property
    def leverage(self) -> np.ndarray:
        """(n,) of its runs: by how much a fitted loss follows its own."""
        return (self.rows(np.log(self.runs.params)) ** 2).sum(axis=1)

    def jointly(self, by_own: np.ndarray, index: int, budgets: int) -> np.ndarray:
        """Derivatives by the errors of budget number `index` of so many, (..., 3), as those by the errors of all (..., K)."""
        joint = np.zeros((*by_own.shape[:-1], 3 * budgets))
        joint[..., 3 * index : 3 * index + 3] = by_own
        return joint

    @property
    def loss(self) -> float:
        return self._vertex[1]

    @property
    def curvature(self) -> float:
        return self._vertex[2]

    @property
    def opens_upward(self) -> bool:
        return self.g[2] > 0

    @property
    def sizes(self) -> int:
        return distinct_sizes(self.runs.params)

    @property
    def interior(self) -> bool:
        """Whether the minimum lies strictly inside the sampled sizes."""
        return bool(np.log(self.runs.params.min()) < self.y < np.log(self.runs.params.max()))

    @cached_property
    def residuals(self) -> np.ndarray:
        assert self.design is not None
        return self.runs.loss - np.einsum("nk,k->n", self.design.basis, self.g)

    def places(self, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z and the least loss for coefficients (..., 3)."""
        assert self.design is not None
        y, loss, _ = self.design.vertex(g)
        x = self.log_compute_at(loss)
        return x, y, self.log_tokens_at(x, y), loss

    def log_compute_at(self, loss: np.ndarray) -> np.ndarray:
        """log C, or log C_min of these least losses."""
        x = np.full(np.shape(loss), math.log(self.flops))
        if self.c_min is not None:
            with np.errstate(invalid="ignore"):
                x = x + self.c_min.log_factor(self.batch_tokens, loss)
        return x

    def log_tokens_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """log of the tokens that exp(x) FLOPs buy at exp(y) parameters."""
        assert self.design is not None
        if self.cost.holds:
            return x - self.cost.log_flops_per_token(y)
        u, (c0, c1, c2) = y - self.design.center, self.log_tokens
        return x - math.log(self.flops) + c0 + u * (c1 + u * c2)

    @cached_property
    def place(self) -> tuple[float, float, float]:
        y, loss, _ = self._vertex
        x = self.log_compute_at(np.array(loss))
        return float(x), y, float(self.log_tokens_at(x, np.array(y)))

    @property
    def x(self) -> float:
        return self.place[0]

    @property
    def y(self) -> float:
        return self.place[1]

    @property
    def z(self) -> float:
        return self.place[2]

    @cached_property
    def coefficient_bias(self) -> np.ndarray:
        """How far a loss surface, fitted by a parabola, would move the coefficients: (3,).

        On E + A/N^r + B/D^r with D = C / 6N the loss exceeds its minimum by 2 c (cosh(r u) - 1) / r^2, where u is the distance
        from the minimum in log N. To second order this is the parabola c u^2. The rest is fitted here.
        """
        assert self.design is not None
        u, r = self.design.log_params - self.y, SURFACE_EXPONENT
        with np.errstate(over="ignore", invalid="ignore"):
            bias = self.design.coefficients(self.curvature * (2 * (np.cosh(r * u) - 1) / r**2 - u * u))
        return bias if np.isfinite(bias).all() else np.zeros(3)

    @cached_property
    def _vertex_gradients(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.design is not None
        return self.design.gradients(self.g)

    @property
    def loss_gradient(self) -> np.ndarray:
        """The derivatives of the least loss by the errors: (3,)."""
        return self._vertex_gradients[1]

    @cached_property
    def gradients(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The derivatives of x, y and z by the errors: (3,) each."""
        dy, dloss = self._vertex_gradients
        dx = np.zeros_like(dy) if self.c_min is None else self.c_min.slope(self.batch_tokens, self.loss) * dloss
        return dx, dy, dx + self.tokens_slope(self.y) * dy

    def tokens_slope(self, y: float) -> float:
        """The derivative of log_tokens_at by y."""
        assert self.design is not None
        if not self.cost.holds:
            return float(self.log_tokens[1] + 2 * self.log_tokens[2] * (y - self.design.center))
        return -float(self.cost.slope(np.array(y)))


def fit_budget(runs: Runs, c_min: CMin | None = None) -> BudgetFit:
    """The parabola of one budget's runs; its design is None for fewer than 3 distinct sizes."""
    log_params = np.log(runs.params)
    flops, batch = _typical(runs.flops), _typical(runs.batch_tokens)
    if distinct_sizes(runs.params) < 3:
        return BudgetFit(flops, batch, runs, None, np.zeros(3), np.zeros(3), runs.cost, c_min)
    design = ParabolaBasis(log_params)
    # Subtracting a typical loss first keeps the digits of the differences, which are what is fitted.
    offset = float(runs.loss.mean())
    g = design.coefficients(runs.loss - offset)
    g[0] += offset * math.sqrt(len(log_params))
    # Tokens at the budget's mean FLOPs, so that runs that cost a little more or less count as one budget.
    log_tokens = np.log(runs.tokens) + (math.log(flops) - np.log(runs.flops))
    return BudgetFit(flops, batch, runs, design, g, _powers(design, design.coefficients(log_tokens)), runs.cost, c_min)


def distinct_sizes(params: np.ndarray) -> int:
    """The number of different sizes. A size within a millionth of the next smaller one counts as the same."""
    return 1 + int((np.diff(np.sort(np.log(params))) > 1e-6).sum())


def _typical(values: np.ndarray) -> float:
    """The geometric mean; exactly the value where they are all the same."""
    return float(values[0]) if (values == values[0]).all() else math.exp(float(np.log(values).mean()))


def bounded_exp(value: float) -> float:
    """exp, infinite where it is too large for a float."""
    return math.exp(value) if value < 709 else math.inf


def _powers(design: ParabolaBasis, g: np.ndarray) -> np.ndarray:
    """The coefficients of 1, u and u^2 instead of those of the orthonormal polynomials."""
    s1, a, b, s2 = design.recurrence
    second = g[2] / s2
    return np.array([g[0] * len(design.log_params) ** -0.5 - second * b, g[1] / s1 - second * a, second])
