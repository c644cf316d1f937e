"""The parametric scaling law L(N, D) = E + A / N^alpha + B / D^beta: fitted, resampled, and minimised for a budget.

Hoffmann et al. 2022 (arXiv:2203.15556, approach 3). N parameters, D tokens, L loss in nats per token; E is the loss of an
infinite model on infinite data. A budget of C FLOPs is spent by C = (k1 N + k2) D, written cost = (k1, k2): (6, 0) is the
usual rule, (9.59, 2.3e8) that of the Hunyuan-Large report (arXiv:2411.02265) for N activated parameters.

    fit_parametric(params (n,), tokens (n,), loss (n,)) -> ParametricFit(surface, objective, residuals (n,), warnings, ...)
    bootstrap_parametric(fit, the same three) -> ParametricResamples(surfaces (R, 5), objective (R,), ...)
    optimum(surface, flops, cost) -> (params, tokens), of the shape of flops
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from analyses.scaling.laws import Surface
from analyses.scaling.refusals import TIED, no_surface
from analyses.scaling.surface_solver import WIDEST, Array, Points, project, random_starts, solve, solve_from_near
from model.errors import HunyuanError

Cost = tuple[float, float]

PARAMETERS = ("E", "A", "B", "alpha", "beta")
AGREEMENT = 1e-3  # of objectives that count as the same optimum: so much, as a sum of absolute residuals of log-loss
# Huber's minimiser for such a delta exceeds the least sum of absolute residuals by at most half of delta for each of the
# points within it, of which there are about five.
LAD_DELTA = 1e-8
DRAWN_TOGETHER = 2**23  # weights of resamples held at once: 64 MiB


@dataclass(frozen=True)
class ParametricFit:
    surface: Surface
    objective: float  # the sum over runs of Huber's loss, or of absolute values, of the residuals
    residuals: Array  # (n,) log of the fitted loss less log loss, in the order of the runs given
    starts: int
    agreeing: int  # starts whose objective is within AGREEMENT of the least
    evaluations: int  # of objective and derivatives, by all starts together
    warnings: tuple[str, ...]  # what a reader of the surface should know, one sentence each


@dataclass(frozen=True)
class ParametricResamples:
    surfaces: Array  # (R, 5) columns E, A, B, alpha, beta
    objective: Array  # (R,)
    converged: Array  # (R,) bool

    @property
    def unconverged(self) -> int:
        return int(np.sum(~self.converged))

    @property
    def exponents(self) -> Array:
        """(R, 2): exponents of N_opt and D_opt in C, as Surface.exponents."""
        alpha, beta = self.surfaces[:, 3], self.surfaces[:, 4]
        return np.column_stack([beta, alpha]) / (alpha + beta)[:, None]


def fit_parametric(
    params: Array,
    tokens: Array,
    loss: Array,
    *,
    generator: np.random.Generator,
    starts: int = 20,
    delta: float = 1e-3,
    lad: bool = False,
) -> ParametricFit:
    """The surface that minimises the sum of Huber's loss (delta) of the residuals of log-loss, or with lad of their absolute
    values.

    It is the best of several random starts, each followed to its local minimum. The order of the runs does not matter.
    HunyuanError says why the runs cannot determine a surface. Warnings say which of its terms they hardly determine.
    """
    points = _points(params, tokens, loss)
    if starts < 1 or not delta > 0:
        raise HunyuanError(f"{starts} starts with delta {delta:g} are none: give at least one, and a positive delta")
    begin = project(points, random_starts(points, starts, generator))
    with _threads() as run:
        solution = solve(points, np.ones((1, len(points.x))), begin, run=run, **_target(delta, lad))
    objective = _objectives(points, np.ones((1, len(points.x))), solution.theta, solution.objective, lad)
    best = int(np.nanargmin(objective))
    surface = Surface(*(float(value) for value in points.surfaces(solution.theta[best : best + 1])[0]))
    agreeing = int(np.sum(objective <= objective[best] + AGREEMENT * (1 if lad else delta)))
    notes = _warnings(points, solution.theta[best])
    if not solution.converged[best]:
        notes.append("the best start had not converged: the surface may be improved by more starts")
    if 2 * agreeing < starts:
        notes.append(f"only {agreeing} of {starts} starts reached this optimum: give more starts, or more runs")
    with np.errstate(all="ignore"):  # of a surface that is none, as a reader of its numbers sees
        residuals = np.log(surface.loss(np.asarray(params, float), np.asarray(tokens, float))) - np.log(loss)
    evaluations = int(solution.evaluations.sum())
    return ParametricFit(surface, float(objective[best]), residuals, starts, agreeing, evaluations, tuple(notes))


def bootstrap_parametric(
    fit: ParametricFit,
    params: Array,
    tokens: Array,
    loss: Array,
    *,
    generator: np.random.Generator,
    resamples: int,
    delta: float = 1e-3,
    lad: bool = False,
) -> ParametricResamples:
    """The surfaces of `resamples` sets of runs drawn with replacement. Each fit starts from the fit of all runs.

    A seed gives the same bytes for any order of the runs and any number of threads.
    """
    points = _points(params, tokens, loss)
    if resamples < 1 or not delta > 0:
        raise HunyuanError(
            f"{resamples} resamples with delta {delta:g} are none: give at least one, and a positive delta"
        )
    n = len(points.x)
    theta = points.theta(astuple(fit.surface))
    # Resamples move the surface by less than the residuals: a delta wider than their middle would lose the way.
    widest = min(WIDEST, 0.5 * float(np.median(np.abs(fit.residuals))))
    solved = []
    with _threads() as run:
        for first in range(0, resamples, max(1, DRAWN_TOGETHER // n)):
            size = min(max(1, DRAWN_TOGETHER // n), resamples - first)
            drawn = generator.integers(n, size=(size, n))
            counts = np.bincount((drawn + n * np.arange(size)[:, None]).ravel(), minlength=size * n)
            weights = counts.reshape(size, n).astype(float)
            begin = np.tile(theta, (size, 1))
            solution = solve_from_near(points, weights, begin, widest=widest, run=run, **_target(delta, lad))
            objective = _objectives(points, weights, solution.theta, solution.objective, lad)
            solved.append((points.surfaces(solution.theta), objective, solution.converged))
    return ParametricResamples(*(np.concatenate(column) for column in zip(*solved, strict=True)))


def _points(params: Array, tokens: Array, loss: Array) -> Points:
    columns = {"params": params, "tokens": tokens, "loss": loss}
    arrays = {name: np.asarray(column, dtype=float) for name, column in columns.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or arrays["loss"].ndim != 1:
        raise HunyuanError(
            f"params, tokens and loss must be three columns of one length, not of shapes {sorted(shapes)}"
        )
    for name, array in arrays.items():
        wrong = ~(np.isfinite(array) & (array > 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise HunyuanError(
                f"{name} of run {row + 1} is {array[row]:g}: leave out runs without a positive, finite value"
            )
    reason = no_surface(arrays["params"], arrays["tokens"], arrays["loss"])
    if reason is not None:
        raise HunyuanError(reason)
    return Points.of(*arrays.values())


def _target(delta: float, lad: bool) -> dict[str, Any]:
    """The delta and the tolerance of the solver: 1e-7 in the sum of |r|, which is about Huber's loss divided by delta."""
    delta = LAD_DELTA if lad else delta
    return {"delta": delta, "tolerance": 1e-7 * delta}


def _objectives(points: Points, weights: Array, theta: Array, huber: Array, lad: bool) -> Array:
    """(R,) sums of absolute residuals for lad, otherwise those of Huber's loss as they are."""
    if not lad:
        return huber
    terms = np.exp(theta[:, 1:2] - theta[:, 3:4] * points.x), np.exp(theta[:, 2:3] - theta[:, 4:5] * points.y)
    residuals = np.log(np.exp(theta[:, :1]) + terms[0] + terms[1]) - points.log_loss
    return np.einsum("rn->r", weights * np.abs(residuals))


def _warnings(points: Points, theta: Array) -> list[str]:
    """Signs that the runs do not determine the surface: a term that vanishes, or an exponent far from any law of scale."""
    notes = []
    surface = Surface(*points.surfaces(theta[None])[0])
    terms = {"E": np.exp(theta[0] - points.log_loss)}
    terms["A"] = np.exp(theta[1] - theta[3] * points.x - points.log_loss)
    terms["B"] = np.exp(theta[2] - theta[4] * points.y - points.log_loss)
    for name, term in terms.items():
        share = float(term.max())
        if share < 1e-2:
            notes.append(
                f"the term of {name} is at most {share:.1g} of the loss of any run: the runs do not determine it"
            )
    for name, exponent in (("alpha", surface.alpha), ("beta", surface.beta)):
        if not 0.01 < exponent < 2.5:
            notes.append(f"{name} = {exponent:.3g} is no law of scale: the runs do not determine a power of theirs")
    if abs(np.corrcoef(points.x, points.y)[0, 1]) > TIED:
        notes.append(
            "tokens follow from the size in these runs: terms of N and D cannot be told apart without other ratios"
        )
    return notes


@contextmanager
def _threads() -> Iterator[Callable[..., Any]]:
    """A map in two threads, where there are two processors: numpy computes outside the interpreter's lock."""
    if (os.cpu_count() or 1) < 2:
        yield map
        return
    with ThreadPoolExecutor(2) as executor:
        yield executor.map


def optimum(surface: Surface, flops: Array | float, cost: Cost) -> tuple[Array, Array]:
    """The N and D with the least loss on the surface for each budget. The surface's numbers may be arrays that broadcast.

    Let s = k1 N / (k1 N + k2), the share of the cost that grows with N. The derivative of the loss by log N is zero where
    alpha A / N^alpha = s beta B / D^beta, which has a closed form for k2 = 0. Otherwise Newton's method solves the logarithm of
    this equation. It converges from any start, since that is increasing and convex or concave in log N.
    """
    k1, k2 = _checked(surface, cost)
    budget = np.log(_positive(flops, "flops"))
    alpha, beta = surface.alpha, surface.beta
    constant = np.log(alpha * surface.A / (beta * surface.B)) + beta * budget
    size = (constant - beta * np.log(k1)) / (alpha + beta)
    for _ in range(100 if k2 else 0):
        linear = np.log(k1) + size
        total = np.logaddexp(linear, np.log(k2))
        share = np.exp(linear - total)
        excess = linear + alpha * size + (beta - 1) * total - constant
        move = excess / (1 + alpha + (beta - 1) * share)
        size = size - move
        if np.all(np.abs(move) <= 1e-14 * np.abs(size)):
            break
    params = np.exp(size)
    return params, np.exp(budget) / (k1 * params + k2)


def flat_region(surface: Surface, flops: Array | float, cost: Cost, tolerance: float) -> tuple[Array, Array]:
    """The smallest and the largest N whose loss for the budget is at most (1 + tolerance) times the least loss."""
    k1, k2 = _checked(surface, cost)
    if not tolerance > 0:
        raise HunyuanError(
            f"a tolerance of {tolerance:g} has no region: give a positive share of the loss, such as 0.01"
        )
    budget = _positive(flops, "flops")
    params, tokens = optimum(surface, budget, cost)
    highest = (1 + tolerance) * surface.loss(params, tokens)
    # The loss falls up to the optimum and rises after it; where one term alone has reached the highest loss, it is outside.
    ends = []
    room = highest - surface.E
    for outside in (
        np.log(surface.A / room) / surface.alpha,
        np.log(budget / k1) + np.log(room / surface.B) / surface.beta,
    ):
        inside = np.log(params)
        for _ in range(60):
            middle = 0.5 * (inside + outside)
            size = np.exp(middle)
            within = surface.loss(size, budget / (k1 * size + k2)) <= highest
            inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
        ends.append(np.exp(inside))
    return ends[0], ends[1]


def budget_for_loss(surface: Surface, loss: Array | float, cost: Cost) -> Array:
    """The FLOPs of the smallest budget whose optimum has this loss. HunyuanError at or below E.

    At an optimum of size N the loss is E + A / N^alpha (1 + alpha / (beta s)), with s as in `optimum`. Newton's method solves
    for log N, starting from the closed form for k2 = 0.
    """
    k1, k2 = _checked(surface, cost)
    target = _positive(loss, "loss")
    if np.any(target <= surface.E):
        raise HunyuanError(
            f"no budget reaches a loss of {target.min():g}: the surface stays above E = {surface.E:g} nats per token"
        )
    alpha, beta = surface.alpha, surface.beta
    above = np.log(target - surface.E)
    size = (np.log(surface.A * (1 + alpha / beta)) - above) / alpha
    for _ in range(100 if k2 else 0):
        fixed = alpha / beta * k2 / k1 * np.exp(-size)
        factor = 1 + alpha / beta + fixed
        move = (np.log(surface.A * factor) - alpha * size - above) / (alpha + fixed / factor)
        size = size + move
        if np.all(np.abs(move) <= 1e-14 * np.abs(size)):
            break
    params = np.exp(size)
    total = k1 * params + k2
    log_tokens = (np.log(beta * surface.B / (alpha * surface.A)) + alpha * size + np.log(k1 * params / total)) / beta
    return total * np.exp(log_tokens)


def _checked(surface: Surface, cost: Cost) -> Cost:
    positive = all(np.min(value) > 0 for value in (surface.A, surface.B, surface.alpha, surface.beta))
    if not positive or not np.min(surface.E) >= 0:
        raise HunyuanError(f"{surface} has no optimum: A, B, alpha and beta must be positive, and E not negative")
    if not cost[0] > 0 or not cost[1] >= 0:
        raise HunyuanError(
            f"a cost of ({cost[0]:g} N + {cost[1]:g}) D is none: give a positive and a non-negative number"
        )
    return cost


def _positive(values: Array | float, name: str) -> Array:
    array = np.asarray(values, dtype=float)
    if not np.all(np.isfinite(array) & (array > 0)):
        raise HunyuanError(
            f"{name} must be positive and finite, not {array[~(np.isfinite(array) & (array > 0))].flat[0]:g}"
        )
    return array
