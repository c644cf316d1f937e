"""Many fits of L(N, D) = E + A / N^alpha + B / D^beta at once, by Newton's method with exact derivatives.

R problems (random starts, or bootstrap resamples) share n points but have their own weights of the points:

    theta (R, 5) = (log E, log A', log B', alpha, beta), A' and B' being the terms at the mean log N and log D;
    residual r = log(E + A' exp(-alpha x) + B' exp(-beta y)) - log loss, x and y being log N and log D less their means;
    objective (R,) = sum over points of weight * Huber(r), which is r^2 / 2 up to delta and delta (|r| - delta / 2) beyond.

The objective is a sum, as in Hoffmann et al. 2022 (arXiv:2203.15556, appendix D.3). A mean would be so small that optimizers
stop at their default tolerance too early (Besiroglu et al. 2024, arXiv:2404.10102). Where delta is far below the noise,
Huber's loss is nearly piecewise linear. Every problem therefore begins with a wide delta, which becomes narrower as steps
are accepted. Each problem has its own damping (Levenberg 1944, Marquardt 1963), and finished problems leave the batch. Sums
are numpy's own: the order of summation in BLAS may change with the number of threads.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

# Problems times points that are evaluated together: so many that a numpy call costs little, and so few that they fit a cache.
CELLS = 256 * 240
WIDEST = 0.1  # delta of the first steps from a random start; the residuals of a reasonable fit lie within it
NARROWING = 0.4  # factor of delta after an accepted step that predicted a decrease below SETTLED * delta
SETTLED = 0.03
LONGEST = np.array([2.0, 2.0, 2.0, 0.5, 0.5])  # of a step: e-foldings of E, A' and B', and exponents
ROUGH_DELTA = 1e-3  # well above the rounding of residuals in single precision
STEPS = 2000  # most evaluations of one problem; least absolute deviations of noisy runs take up to a thousand
EXACT = 1e-24  # an objective that is nothing but rounding
HOPELESS = 1e12  # damping at which steps are too short to matter


@dataclass(frozen=True)
class Points:
    """Runs in one canonical order, centred."""

    x: Array  # (n,) log N less its mean
    y: Array  # (n,) log D less its mean
    log_loss: Array  # (n,)
    centre: tuple[float, float]  # the means of log N and log D
    powers: tuple[Array, Array, Array]  # 1, -x, x^2; 1, -y, y^2; 1, -x, -y, x y: what derivatives are summed with

    @classmethod
    def of(cls, params: Array, tokens: Array, loss: Array) -> "Points":
        """Sorts the runs, since sums of floating point numbers depend on the order."""
        order = np.lexsort((loss, tokens, params))
        log_n, log_d = np.log(params[order]), np.log(tokens[order])
        centre = float(log_n.mean()), float(log_d.mean())
        x, y = log_n - centre[0], log_d - centre[1]
        one = np.ones_like(x)
        powers = np.stack([one, -x, x * x]), np.stack([one, -y, y * y]), np.stack([one, -x, -y, x * y])
        return cls(x, y, np.log(loss[order]), centre, powers)

    def single(self) -> "Points":
        """The same in single precision, which takes half the time and reaches the least objective to about 1e-8."""
        x, y, log_loss = (array.astype(np.float32) for array in (self.x, self.y, self.log_loss))
        in_x, in_y, in_both = (power.astype(np.float32) for power in self.powers)
        return Points(x, y, log_loss, self.centre, (in_x, in_y, in_both))

    def theta(self, surface: tuple[float, float, float, float, float]) -> Array:
        """(5,) from E, A, B, alpha, beta; a term of zero becomes one too small to matter."""
        logs = np.log(np.maximum(surface[:3], 1e-300))
        alpha, beta = surface[3:]
        return np.array([logs[0], logs[1] - alpha * self.centre[0], logs[2] - beta * self.centre[1], alpha, beta])

    def surfaces(self, theta: Array) -> Array:
        """(R, 5) columns E, A, B, alpha, beta of the law as it is written, infinite where A or B overflows."""
        alpha, beta = theta[:, 3], theta[:, 4]
        logs = theta[:, 0], theta[:, 1] + alpha * self.centre[0], theta[:, 2] + beta * self.centre[1]
        with np.errstate(over="ignore"):
            return np.column_stack([*(np.exp(value) for value in logs), alpha, beta])


@dataclass(frozen=True)
class Solution:
    theta: Array  # (R, 5)
    objective: Array  # (R,)
    converged: Array  # (R,) bool: Newton's predicted decrease fell below the tolerance
    evaluations: Array  # (R,) of objective and derivatives, those of refused steps included


def random_starts(points: Points, starts: int, generator: np.random.Generator) -> Array:
    """(R, 5) wide starts: exponents uniform in [0, 2.5], E below the least loss, A' and B' around it by two e-foldings."""
    exponents = generator.uniform(0, 2.5, (starts, 2))
    scales = points.log_loss.min() + np.column_stack(
        [np.log(generator.uniform(0.05, 1, starts)), generator.normal(-1, 2, (starts, 2))]
    )
    return np.column_stack([scales, exponents])


def project(points: Points, theta: Array) -> Array:
    """The starts with E, A' and B' replaced by the least-squares solution for their exponents, which is never negative.

    Given the exponents, the three are linear (variable projection, Golub and Pereyra 1973). Coordinate descent solves for
    them approximately. A term that becomes zero is set to a thousandth of the loss, so that it can grow again.
    """
    exponents = theta[:, 3:]
    parts = np.stack(
        [
            np.zeros((len(theta), len(points.x))),
            -exponents[:, :1] * points.x,
            -exponents[:, 1:] * points.y,
        ]
    )
    heights = parts.max(axis=2)  # each part is scaled to at most the loss, whatever its exponent
    basis = np.exp(parts - heights[:, :, None] - points.log_loss)
    gram = np.einsum("jrn,krn->jkr", basis, basis)
    target = np.einsum("jrn->jr", basis)
    scale = np.full(target.shape, 0.3 * np.exp(points.log_loss.min()))
    for _ in range(60):
        for j in range(3):
            fitted = np.einsum("kr,kr->r", gram[j], scale) - gram[j, j] * scale[j]
            scale[j] = np.maximum((target[j] - fitted) / gram[j, j], 0)
    floor = 1e-3 * np.exp(points.log_loss.min())
    return np.column_stack([(np.log(np.maximum(scale, floor)) - heights).T, exponents])


def evaluate(
    points: Points, weights: Array, theta: Array, delta: Array, following: Array, scratch: Array
) -> tuple[Array, Array, Array, Array]:
    """Objective (R,) for delta (R,); objective, gradient (R, 5) and Hessian (R, 5, 5) for the delta that follows it (R,).

    Let p be the share of each term in the predicted loss. By the logs of the terms, which are linear in theta, r has the
    gradient p and the Hessian diag(p) - p p^T. scratch (8, at least R, n) is overwritten: allocating memory for every step
    would take as long as the sums.
    """
    p0, p1, p2, r, clipped, slope, b1, b2 = scratch[:, : len(theta)]
    _term(theta[:, 1:2], theta[:, 3:4], points.x, p1)
    _term(theta[:, 2:3], theta[:, 4:5], points.y, p2)
    np.add(p1, p2, out=r)
    r += np.exp(theta[:, :1])
    p1 /= r
    p2 /= r
    np.subtract(1, p1, out=p0)
    p0 -= p2
    np.log(r, out=r)
    r -= points.log_loss

    before = value = _huber(r, weights, delta, clipped, slope)
    if np.any(delta != following):
        value = _huber(r, weights, following, clipped, slope)
    # slope is the derivative in r and bend = weight of what lies within delta, less slope: the Hessian in the logs of the
    # terms is diag(slope p) + bend p p^T.
    bend = np.equal(r, clipped, out=r, casting="unsafe")
    bend *= weights
    bend -= slope

    in_x, in_y, in_both = points.powers
    gradient, hessian = np.empty((len(theta), 5)), np.empty((len(theta), 5, 5))  # float64 also for single precision
    np.multiply(bend, p1, out=b1)
    np.multiply(bend, p2, out=b2)
    hessian[:, 0, [1, 3]] = _moments(np.multiply(b1, p0, out=clipped), in_x[:2])
    hessian[:, 0, [2, 4]] = _moments(np.multiply(b2, p0, out=clipped), in_y[:2])
    hessian[:, [1, 2, 1, 3], [2, 3, 4, 4]] = _moments(np.multiply(b1, p2, out=clipped), in_both)
    bend *= p0
    bend += slope
    bend *= p0
    hessian[:, 0, 0] = np.einsum("rn->r", bend)
    gradient[:, 0] = np.einsum("rn->r", np.multiply(slope, p0, out=p0))
    for share, b, powers, log, exponent in ((p1, b1, in_x, 1, 3), (p2, b2, in_y, 2, 4)):
        np.multiply(slope, share, out=clipped)
        gradient[:, [log, exponent]] = _moments(clipped, powers[:2])
        b *= share
        b += clipped
        hessian[:, [log, log, exponent], [log, exponent, exponent]] = _moments(b, powers)
    for row in range(4):
        hessian[:, row + 1 :, row] = hessian[:, row, row + 1 :]
    return before, value, gradient, hessian


def _term(log: Array, exponent: Array, where: Array, out: Array) -> None:
    np.multiply(exponent, where, out=out)
    np.subtract(log, out, out=out)
    np.exp(out, out=out)


def _huber(r: Array, weights: Array, delta: Array, clipped: Array, slope: Array) -> Array:
    """The weighted sum (R,) of Huber's loss, which is c (r - c / 2) with c the residual clipped at delta; fills c, weight c."""
    np.minimum(r, delta[:, None], out=clipped)
    np.maximum(clipped, -delta[:, None], out=clipped)
    np.multiply(weights, clipped, out=slope)
    return np.einsum("rn,rn->r", slope, r) - 0.5 * np.einsum("rn,rn->r", slope, clipped)


def _moments(values: Array, powers: Array) -> Array:
    """values (R, n), powers (K, n) -> (R, K)."""
    return np.einsum("rn,kn->rk", values, powers)


@np.errstate(over="ignore", invalid="ignore")  # of a step that leads nowhere, which is refused
def damped_steps(gradient: Array, hessian: Array, added: Array) -> tuple[Array, Array, Array]:
    """Steps (R, 5) of (hessian + diag(added)) step = -gradient, the decrease they predict (R,), and where that is definite.

    All matrices are factorised together, as L D L^T. Where a pivot is not positive, the matrix is not definite, and the
    caller has to add more.
    """
    lower = np.ascontiguousarray(np.moveaxis(hessian, 0, 2))  # problems last, so that each operation runs over them
    index = np.arange(5)
    scale = np.abs(lower[index, index]) + added.T
    lower[index, index] += added.T
    step = -gradient.T
    pivots, definite = np.empty(step.shape), np.ones(len(gradient), dtype=bool)
    for k in range(5):
        positive = lower[k, k] > 1e-13 * scale[k]
        definite &= positive
        pivots[k] = np.where(positive, lower[k, k], 1.0)
        column = lower[k + 1 :, k] / pivots[k]
        lower[k + 1 :, k + 1 :] -= column[:, None] * lower[k, k + 1 :]
        lower[k + 1 :, k] = column
        step[k + 1 :] -= column * step[k]
    decrease = 0.5 * np.einsum("kr,kr->r", step, step / pivots)
    step /= pivots
    for k in range(4, 0, -1):
        step[:k] -= lower[k, :k] * step[k]
    return step.T, decrease, definite


def definite_steps(gradient: Array, hessian: Array, damping: Array) -> tuple[Array, Array, Array]:
    """damped_steps scaled by the diagonal (Marquardt). damping (R,) is raised in place until all matrices are definite."""
    diagonal = np.abs(np.einsum("rkk->rk", hessian))
    diagonal = np.maximum(diagonal, 1e-6 * diagonal.max(axis=1, keepdims=True))
    step, decrease, definite = damped_steps(gradient, hessian, damping[:, None] * diagonal)
    while len(rows := np.flatnonzero(~definite & (damping <= HOPELESS))):
        damping[rows] *= 10
        step[rows], decrease[rows], definite[rows] = damped_steps(
            gradient[rows], hessian[rows], damping[rows, None] * diagonal[rows]
        )
    return step, decrease, definite


def solve(
    points: Points,
    weights: Array,
    theta: Array,
    *,
    delta: float,
    tolerance: float,
    widest: float = WIDEST,
    run: Callable[[Callable[[slice], Any], Iterable[slice]], Iterable[Any]] = map,
) -> Solution:
    """Every problem to its local minimum from theta (R, 5); weights are (R, n), or (1, n) for problems that share them.

    `run` maps a function over blocks of problems, with or without threads. The blocks do not depend on it. A problem has
    converged when Newton's step predicts a decrease below the tolerance, and is given up after STEPS evaluations.
    """
    result, objective = theta.copy(), np.full(len(theta), np.inf)
    converged, evaluations = np.zeros(len(theta), dtype=bool), np.full(len(theta), STEPS)
    active, local = np.arange(len(theta)), threading.local()
    limit, precision = max(16, CELLS // len(points.x)), points.x.dtype
    rounding = 10 * float(np.finfo(precision).eps)  # of a sum, relative

    def block(rows: slice) -> tuple[Array, ...]:
        if not hasattr(local, "scratch"):
            local.scratch = np.empty((8, limit, len(points.x)), precision)
        own = weights if len(weights) == 1 else weights[rows if len(active) == len(weights) else active[rows]]
        with np.errstate(all="ignore"):  # a step too long overflows, and is refused for it
            given = [array[rows].astype(precision, copy=False) for array in (trial, now, following)]
            return evaluate(points, own, given[0], given[1], given[2], local.scratch)

    def evaluated() -> list[Array]:
        size = max(16, min(limit, -(-len(active) // 2)))
        blocks = run(block, [slice(first, first + size) for first in range(0, len(active), size)])
        return [np.concatenate(column).astype(float, copy=False) for column in zip(*blocks, strict=True)]

    trial = theta
    now = following = np.full(len(theta), max(widest, delta))
    damping = np.full(len(theta), 1e-3)
    state = [theta.copy(), *evaluated()[1:], now.copy(), damping]  # theta, value, gradient, Hessian, delta, damping
    for evaluation in range(1, STEPS):
        theta, value, gradient, hessian, now, damping = state
        step, decrease, definite = definite_steps(gradient, hessian, damping)
        # With fewer than five residuals within delta, the curvature in some direction is only of the order of delta. The
        # decrease that a step predicts there can be trusted if the damping is smaller.
        sure = definite & (damping <= now)
        done = (sure & (decrease < tolerance) & (now <= delta)) | (value < EXACT)
        leaving = done | (damping > HOPELESS)
        if np.any(leaving):
            rows = active[leaving]
            result[rows], objective[rows] = theta[leaving], value[leaving]
            converged[rows], evaluations[rows] = done[leaving], evaluation
            active, step, decrease, sure = active[~leaving], step[~leaving], decrease[~leaving], sure[~leaving]
            state = [array[~leaving] for array in state]
            theta, value, gradient, hessian, now, damping = state
            if not len(active):
                break
        # At an optimum a step is only rounding and might be refused. The problem then stays where it is, and delta narrows.
        still = sure & (decrease < tolerance)
        step[still] = 0
        trial = theta + step / np.maximum(1, np.abs(step / LONGEST).max(axis=1, keepdims=True))
        following = np.where(sure & (decrease < SETTLED * now), np.maximum(NARROWING * now, delta), now)
        before, *found = evaluated()
        better = still | (before <= value * (1 + rounding) - 1e-4 * np.minimum(decrease, value)) & np.isfinite(
            found[2]
        ).all(axis=(1, 2))
        for array, new in zip(state, (trial, *found, following), strict=False):
            array[better] = new[better]
        damping *= np.where(better, 0.2, 10)
        np.maximum(damping, 1e-13, out=damping)
    result[active], objective[active] = state[0], state[1]
    return Solution(result, objective, converged, evaluations)


def solve_from_near(
    points: Points,
    weights: Array,
    theta: Array,
    *,
    delta: float,
    tolerance: float,
    widest: float,
    run: Callable[..., Any],
) -> Solution:
    """`solve` from a theta near the optimum: most steps in single precision, which takes half the time, the last in double."""
    rough = max(delta, ROUGH_DELTA)
    near = solve(
        points.single(),
        weights.astype(np.float32),
        theta,
        delta=rough,
        tolerance=max(tolerance, 1e-5 * rough),
        widest=widest,
        run=run,
    )
    return solve(points, weights, near.theta, delta=delta, tolerance=tolerance, widest=rough, run=run)
