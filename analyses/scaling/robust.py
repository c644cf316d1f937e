"""Robust nonlinear least squares for many problems at once, and the bootstrap of its residuals.

R problems (random starts, or resamples), n runs, p parameters. A model is a function

    model(theta (R, p)) -> values (R, n), derivatives (R, n, p)

and the objective of a problem is the sum of Huber's loss of values - target, which is r^2 / 2 up to delta and
delta (|r| - delta / 2) beyond (Huber 1964). Steps are Gauss and Newton's with weights min(1, delta / |r|), damped as
Levenberg and Marquardt do. Here delta is 1.345 standard deviations of the noise, of which the median of |r| tells: the
estimate then has 95% of the efficiency of least squares under normal noise, and outliers have a bounded pull.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Model = Callable[[Array], tuple[Array, Array]]

HUBER = 1.345
NORMAL = 1.4826  # standard deviation of a normal variable by the median of its absolute value
FIRST_DELTA = 0.02  # of random starts, in log-loss: above the noise of training runs, below what makes an outlier
LEAST_DELTA = 1e-9  # residuals below are rounding
STEPS = 200
TOLERANCE = 1e-13  # relative decrease of the objective that ends a problem
ROUGH = 1e-8  # the same of resamples, whose spread is far wider
HOPELESS = 1e10  # damping at which steps are too short to matter
SCALES = 8  # most refits with a new delta


@dataclass(frozen=True)
class RobustFit:
    """The best of all starts."""

    theta: Array  # (p,)
    residuals: Array  # (n,) target less value
    leverage: Array  # (n,)
    covariance: Array  # (p, p) of theta by the linearised model, for the noise below
    noise: float  # standard deviation of the target about the model
    delta: float
    agreeing: int  # starts that reached the same objective
    starts: int
    condition: float  # of the scaled normal equations: the largest part of what determines theta by the smallest

    @property
    def degrees(self) -> int:
        return len(self.residuals) - len(self.theta)


def minimise(
    model: Model, target: Array, start: Array, delta: float, tolerance: float = TOLERANCE
) -> tuple[Array, Array]:
    """Solutions (R, p) and objectives (R,) of the problems with target (n,) or (R, n) from start (R, p)."""
    theta = np.array(start, dtype=float)
    problems, size = theta.shape
    target = np.broadcast_to(target, (problems, np.shape(target)[-1]))
    with np.errstate(all="ignore"):
        values, jacobian = model(theta)
        objective, weights = _huber(values - target, delta)
        damping = np.full(problems, 1e-3)
        running = np.isfinite(objective)
        objective = np.where(running, objective, np.inf)
        for _ in range(STEPS):
            at = np.flatnonzero(running)
            if not len(at):
                break
            weighted = jacobian[at] * weights[at][:, :, None]
            gram = np.swapaxes(weighted, 1, 2) @ jacobian[at]
            slope = np.einsum("rnp,rn->rp", weighted, values[at] - target[at])
            scale = np.maximum(np.einsum("rpp->rp", gram), 1e-300)
            lifted = gram + damping[at][:, None, None] * scale[:, :, None] * np.eye(size)
            step = -_solve(lifted / np.sqrt(scale[:, :, None] * scale[:, None, :]), slope / np.sqrt(scale))
            tried = theta[at] + step / np.sqrt(scale)
            new_values, new_jacobian = model(tried)
            new_objective, new_weights = _huber(new_values - target[at], delta)
            better = new_objective < objective[at]
            small = objective[at] - new_objective <= tolerance * objective[at]
            won = at[better]
            theta[won], values[won], jacobian[won] = tried[better], new_values[better], new_jacobian[better]
            weights[won], objective[won] = new_weights[better], new_objective[better]
            damping[at] = np.where(better, np.maximum(damping[at] / 5, 1e-12), damping[at] * 7)
            running[at] = np.where(better, ~small, damping[at] < HOPELESS)
    return theta, objective


def _huber(residuals: Array, delta: float) -> tuple[Array, Array]:
    """(R,) objectives, infinite where a value is none, and (R, n) weights."""
    size = np.abs(residuals)
    loss = np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta)).sum(axis=1)
    return np.where(np.isfinite(loss), loss, np.inf), np.minimum(1.0, delta / np.maximum(size, 1e-300))


def _solve(matrices: Array, right: Array) -> Array:
    """(R, p) solutions; those of singular matrices by least squares."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        return np.stack([np.linalg.lstsq(m, b, rcond=1e-12)[0] for m, b in zip(matrices, right, strict=True)])


def robust_fit(model: Model, target: Array, start: Array, *, first_delta: float = FIRST_DELTA) -> RobustFit:
    """The best fit of all starts (R, p) to target (n,), with delta found from its own residuals."""
    n, size = len(target), np.shape(start)[1]
    theta, objective = minimise(model, target, start, first_delta)
    best = int(np.argmin(objective))
    agreeing = int(np.sum(objective <= objective[best] * (1 + 1e-3) + 1e-12 * n))
    one, delta = theta[best : best + 1], first_delta
    for _ in range(SCALES):
        spread = NORMAL * float(np.median(np.abs(model(one)[0][0] - target))) * math.sqrt(n / max(1, n - size))
        before, delta = delta, max(HUBER * spread, LEAST_DELTA)
        one, _ = minimise(model, target, one, delta)
        if abs(delta / before - 1) < 1e-3:
            break
    values, jacobian = (part[0] for part in model(one))
    residuals = target - values
    noise = math.sqrt(_variance(residuals, delta, n - size))
    with np.errstate(all="ignore"):  # of a fit that is none, as its reader sees
        scale = np.maximum(np.sqrt((jacobian * jacobian).sum(axis=0)), 1e-150)
        left, singular, right = np.linalg.svd(jacobian / scale, full_matrices=False)
        inverse = right.T / np.maximum(singular, 1e-12 * singular[0]) / scale[:, None]
        covariance = noise**2 * inverse @ inverse.T
    return RobustFit(
        theta=one[0], residuals=residuals, leverage=(left * left).sum(axis=1), noise=noise, delta=delta,
        covariance=covariance, agreeing=agreeing, starts=len(objective),
        condition=float((singular[0] / max(singular[-1], 1e-150)) ** 2),
    )  # fmt: skip


def _variance(residuals: Array, delta: float, degrees: int) -> float:
    """Huber's estimate of the variance that enters the covariance: sum of psi(r)^2 / degrees by the squared share of runs
    within delta (Huber and Ronchetti 2009, section 7.6)."""
    clipped = np.clip(residuals, -delta, delta)
    inside = max(float(np.mean(np.abs(residuals) <= delta)), 0.05)
    return float((clipped * clipped).sum()) / max(1, degrees) / inside**2


def residual_draws(
    fit: RobustFit, model: Model, target: Array, resamples: int, generator: np.random.Generator
) -> Array:
    """(resamples, p) fits of the fitted values plus residuals drawn with replacement, corrected for leverage.

    Residuals are divided by sqrt(1 - leverage), so that they have the variance of the noise (Davison and Hinkley 1997,
    section 6.3). Each fit starts from the fit of the runs. The same seed gives the same draws.
    """
    free = np.sqrt(np.maximum(1 - fit.leverage, 1e-6))
    pool = np.where(fit.leverage < 1 - 1e-6, fit.residuals / free, 0.0)
    pool = pool - pool.mean()
    n, fitted, found = len(target), target - fit.residuals, []
    each = max(1, 2**20 // (n * len(fit.theta)))
    for first in range(0, resamples, each):
        drawn = pool[generator.integers(0, n, (min(each, resamples - first), n))]
        start = np.tile(fit.theta, (len(drawn), 1))
        found.append(minimise(model, fitted + drawn, start, fit.delta, ROUGH)[0])
    return np.concatenate(found)


def stretched(estimate: float, draws: Array, degrees: int, confidence: float) -> list[float]:
    """The central interval of draws (R,), its ends moved from the estimate as Student's t is wider than a normal variable.

    Few runs know their noise badly, which resamples of residuals do not see. NaN for fewer than 20 draws.
    """
    from scipy import special

    if len(draws) < 20:
        return [math.nan, math.nan]
    tail = (1 + confidence) / 2
    wider = float(special.stdtrit(max(1, degrees), tail) / special.ndtri(tail))
    ends = np.quantile(np.clip(draws, -1e300, 1e300), [1 - tail, tail])
    return [estimate + wider * (float(end) - estimate) for end in ends]
