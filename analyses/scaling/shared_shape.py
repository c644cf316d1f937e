"""One shape for all budgets of an isoFLOP study: loss = l + c (u^2 + k3 u^3 + k4 u^4), u = log N - m.

Each budget has its own least loss l, minimum m and curvature c; k3 and k4 are shared. On E + A/N^a + B/D^b at C = k N D all
budgets have exactly one shape but for its height, whatever a and b, so that minima are not biased where a parabola's are.

    fit_shared_shape(budgets) -> SharedShape | str    or why there is none

The fit is by Gauss and Newton's method from the parabolas. A budget's three parameters are eliminated, so that the shared
ones are a problem of two unknowns (variable projection, Golub and Pereyra 1973). B budgets have n runs in all, ordered by
budget. Sums run in a fixed order without BLAS, as those of parabola.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.scaling.parabola import BudgetFit

MIN_DEGREES = 4  # of freedom of the noise: with fewer, Student's t makes the intervals useless
COLLINEAR = 1e-6  # 1 - r^2 of the shared terms, below which they are one: four sizes at the same places in every budget
STEPS, HALVINGS = 100, 30


@dataclass(frozen=True)
class SharedShape:
    """A fitted shape. `errors` and `shared_errors` are the derivatives of its parameters by K = 3 B + 2 independent errors
    with the variance of the noise: budget i has those of number 3 i to 3 i + 2 for itself, all have the last two."""

    least: np.ndarray  # (B,) losses at the minima
    minima: np.ndarray  # (B,) log N
    curvature: np.ndarray  # (B,)
    k3: float
    k4: float
    errors: np.ndarray  # (B, 3, K) of least, minimum and curvature
    shared_errors: np.ndarray  # (2, K) of k3 and k4
    runs: "Stacked"
    orthogonal: "Orthogonal"
    residuals: np.ndarray  # (n,)
    degrees: int

    @property
    def noise_variance(self) -> float:
        return float((self.residuals**2).sum()) / self.degrees


@dataclass(frozen=True)
class Stacked:
    """Runs of all budgets in a row, with losses above the mean of their budget."""

    log_flops: np.ndarray  # (B,)
    log_params: np.ndarray  # (n,)
    loss: np.ndarray  # (n,)
    level: np.ndarray  # (B,) that were subtracted, so that the digits of the differences are kept
    budget: np.ndarray  # (n,) numbers from 0, which never fall
    first: np.ndarray  # (B,) the first run of each budget

    @classmethod
    def of(cls, budgets: Sequence[BudgetFit]) -> "Stacked":
        sizes = [len(budget.runs) for budget in budgets]
        level = np.array([float(budget.runs.loss.mean()) for budget in budgets])
        number = np.repeat(np.arange(len(budgets)), sizes)
        log_params = np.log(np.concatenate([budget.runs.params for budget in budgets]))
        loss = np.concatenate([budget.runs.loss for budget in budgets]) - level[number]
        log_flops = np.log([budget.flops for budget in budgets])
        return cls(log_flops, log_params, loss, level, number, np.cumsum([0, *sizes[:-1]]))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(..., n) summed by budget: (..., B)."""
        return np.asarray(np.add.reduceat(values, self.first, axis=-1))

    def residuals(self, own: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """(n,) losses less those of the shape, whose budgets have own (3, B) least losses, minima and curvatures."""
        least, minimum, curvature = own[:, self.budget]
        u = self.log_params - minimum
        return self.loss - least - curvature * u * u * (1 + u * (shape[0] + u * shape[1]))


def fit_shared_shape(budgets: Sequence[BudgetFit]) -> SharedShape | str:
    """The least-squares shape of budgets with minima, or a sentence that says why they have none."""
    total_runs = sum(len(budget.runs) for budget in budgets)
    degrees = total_runs - 3 * len(budgets) - 2
    if degrees < MIN_DEGREES:
        need = 3 * len(budgets) + 2 + MIN_DEGREES
        return f"the {len(budgets)} usable budgets have {total_runs} runs, and a shared shape needs {need}"
    runs = Stacked.of(budgets)
    own = np.array([[budget.loss, budget.y, budget.curvature] for budget in budgets]).T
    own[0] -= runs.level
    found = _least_squares(runs, own)
    if isinstance(found, str):
        return found
    own, shape = found
    reason = _unsound(runs, budgets, own, shape)
    linear = Orthogonal.of(runs, own, shape)
    if reason is not None or linear is None:
        return reason or "the sizes of the budgets do not determine k3 and k4"
    errors, shared_errors = linear.effects()
    return SharedShape(
        own[0] + runs.level, own[1], own[2], float(shape[0]), float(shape[1]), errors, shared_errors,
        runs, linear, runs.residuals(own, shape), degrees,
    )  # fmt: skip


def _least_squares(runs: Stacked, own: np.ndarray) -> tuple[np.ndarray, np.ndarray] | str:
    """The budgets' parameters (3, B) and k3, k4 of the least-squares shape, from those of the parabolas."""
    shape = np.zeros(2)
    residuals = runs.residuals(own, shape)
    total, size = _sum_of_squares(residuals), math.sqrt(_sum_of_squares(runs.loss))
    for _ in range(STEPS):
        linear = Orthogonal.of(runs, own, shape)
        if linear is None:
            return "the sizes of the budgets lie so alike that they do not tell k3 from k4"
        own_step, shape_step = linear.steps(residuals)
        for halving in range(HALVINGS):
            new = own + own_step * 0.5**halving, shape + shape_step * 0.5**halving
            with np.errstate(all="ignore"):
                residuals_there = runs.residuals(*new)
                found = _sum_of_squares(residuals_there)
            if found <= total * (1 + 1e-14):
                break
        else:
            return own, shape
        gain, total = total - found, found
        (own, shape), residuals = new, residuals_there
        if gain <= 1e-13 * total or math.sqrt(total) < 1e-13 * size:
            return own, shape
    return "its fit does not converge: the losses do not determine k3 and k4"


def _sum_of_squares(values: np.ndarray) -> float:
    total = float((values * values).sum())
    return total if math.isfinite(total) else math.inf


@dataclass(frozen=True)
class Orthogonal:
    """The derivatives of the losses made orthonormal by Gram and Schmidt's method: each budget's own, then the shared ones.

    The derivatives by own parameters are q r, those by k3 and k4 are q mixed + left, and left = shared factor.
    """

    runs: Stacked
    q: np.ndarray  # (3, n), orthonormal over the runs of each budget
    r: np.ndarray  # (3, 3, B), upper triangular
    mixed: np.ndarray  # (3, 2, B)
    shared: np.ndarray  # (2, n), orthonormal over all runs, and orthogonal to q
    factor: np.ndarray  # (2, 2), upper triangular

    @classmethod
    def of(cls, runs: Stacked, own: np.ndarray, shape: np.ndarray) -> "Orthogonal | None":
        """At own (3, B) and shape (2,); None where the derivatives are not independent."""
        _, minimum, curvature = own[:, runs.budget]
        u = runs.log_params - minimum
        slope = -curvature * u * (2 + u * (3 * shape[0] + 4 * shape[1] * u))
        columns = [np.ones_like(u), slope, u * u * (1 + u * (shape[0] + u * shape[1]))]
        columns += [curvature * u**3, curvature * u**4]
        q, r, mixed = np.empty((3, len(u))), np.zeros((3, 3, len(runs.level))), np.zeros((3, 2, len(runs.level)))
        with np.errstate(all="ignore"):
            for i in range(3):
                r[i, i] = np.sqrt(runs.sums(columns[i] ** 2))
                q[i] = columns[i] / r[i, i][runs.budget]
                for j in range(i + 1, 5):
                    part = runs.sums(q[i] * columns[j])
                    columns[j] = columns[j] - q[i] * part[runs.budget]
                    if j < 3:
                        r[i, j] = part
                    else:
                        mixed[i, j - 3] = part
            size = np.abs(r).max(axis=(0, 1))
            independent = np.isfinite(r).all() and (np.abs(r[[0, 1, 2], [0, 1, 2]]) > 1e-10 * size).all()
            left, factor = np.stack(columns[3:]), np.zeros((2, 2))
            factor[0, 0] = math.sqrt(_sum_of_squares(left[0]))
            before = _sum_of_squares(left[1])
            shared = left / factor[0, 0]
            factor[0, 1] = float((shared[0] * left[1]).sum())
            rest = left[1] - factor[0, 1] * shared[0]
            factor[1, 1] = math.sqrt(_sum_of_squares(rest))
            shared[1] = rest / factor[1, 1]
        told_apart = factor[0, 0] > 0 and factor[1, 1] ** 2 > COLLINEAR * before
        if not (independent and np.isfinite(factor).all() and told_apart):
            return None
        return cls(runs, q, r, mixed, shared, factor)

    def steps(self, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The changes of own (3, B) and shared (2,) parameters that explain the residuals (n,) best."""
        first, second = (self.shared * residuals).sum(axis=1)
        k4 = second / self.factor[1, 1]
        shape = np.array([(first - self.factor[0, 1] * k4) / self.factor[0, 0], k4])
        target = self.runs.sums(self.q * residuals) - self.mixed[:, 0] * shape[0] - self.mixed[:, 1] * shape[1]
        own = np.einsum("ijb,jb->ib", self._inverse(), target)
        return own, shape

    def rest(self, values: np.ndarray) -> np.ndarray:
        """(n,) without what the derivatives explain of it."""
        for _ in range(2):  # once more for what rounding left
            values = values - (self.q * self.runs.sums(self.q * values)[:, self.runs.budget]).sum(axis=0)
            for one in self.shared:
                values = values - float((one * values).sum()) * one
        return values

    def _inverse(self) -> np.ndarray:
        """Of r: (3, 3, B)."""
        r, inverse = self.r, np.zeros_like(self.r)
        for i in range(3):
            inverse[i, i] = 1 / r[i, i]
        inverse[0, 1] = -r[0, 1] * inverse[0, 0] * inverse[1, 1]
        inverse[1, 2] = -r[1, 2] * inverse[1, 1] * inverse[2, 2]
        inverse[0, 2] = (r[0, 1] * r[1, 2] * inverse[1, 1] - r[0, 2]) * inverse[0, 0] * inverse[2, 2]
        return inverse

    def effects(self) -> tuple[np.ndarray, np.ndarray]:
        """SharedShape's errors (B, 3, K) and shared_errors (2, K)."""
        (a, b), (_, c) = self.factor
        budgets = len(self.runs.level)
        own, shape = np.zeros((budgets, 3, 3 * budgets + 2)), np.zeros((2, 3 * budgets + 2))
        shape[:, -2:] = [[1 / a, -b / (a * c)], [0, 1 / c]]
        inverse = self._inverse()
        for index in range(budgets):
            own[index, :, 3 * index : 3 * index + 3] = inverse[:, :, index]
        own[:, :, -2:] = -np.einsum("ijb,jkb,kl->bil", inverse, self.mixed, shape[:, -2:])
        return own, shape


def _unsound(runs: Stacked, budgets: Sequence[BudgetFit], own: np.ndarray, shape: np.ndarray) -> str | None:
    """Why a shape is none: a minimum outside of the sizes, or a second one within them."""
    for index, (budget, (_, minimum, curvature)) in enumerate(zip(budgets, own.T, strict=True)):
        at = runs.log_params[runs.budget == index]
        if not (curvature > 0 and at.min() < minimum < at.max()):
            return f"budget {budget.flops:.4g} has no minimum of that shape inside its sizes"
        u = np.linspace(at.min(), at.max(), 50) - minimum
        if not (2 + u * (3 * shape[0] + 4 * shape[1] * u) > 0).all():
            return f"it would have a second minimum inside the sizes of budget {budget.flops:.4g}"
    return None
