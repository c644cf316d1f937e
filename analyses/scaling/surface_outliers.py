"""Runs that are grossly off the surface L = E + A / N^alpha + B / D^beta through the others.

    surface_outliers(params (n,), tokens (n,), loss (n,)) -> {index: loss of the surface}

The surface is fitted to all budgets at once by least trimmed squares (Rousseeuw and Van Driessen 2006): from many starts, it
is fitted again and again to the three quarters of the runs that it fits best, until these stay the same.
"""

import math

import numpy as np

from analyses.scaling.refusals import no_surface
from analyses.scaling.surface_solver import Array, Points, project, random_starts, solve

# A run is left out when it is so many robust standard deviations off. Of the 245 runs of Hoffmann et al., Besiroglu et al.
# 2024 (arXiv:2404.10102) left out five, which are 12 to 63 off, and kept three that are 7 to 10 off. Those have fewer tokens
# than parameters, where the law itself fails gradually; Huber's loss limits their influence.
FAR = 11.5
SMALLEST = 1e-6  # of log-loss: less than this is rounding
LEAST_RUNS = 15  # with fewer, five of which the surface can go through, the standard deviation is too uncertain
KEPT = 0.75  # of the runs, to which the surface is fitted first
TOLERANCE = 1e-4  # of the sum of absolute residuals: a surface is only wanted to see what is far off
STARTS, SUBSET, STEPS = 24, 10, 10
DELTA, WIDE = 1e-3, 1e-2  # of Huber's loss, at last and while runs are chosen, which is nearly least squares


def surface_outliers(params: Array, tokens: Array, loss: Array) -> dict[int, float]:
    """Indices of the outliers, and the loss that the surface through the others has there. The same for any order of runs."""
    if len(loss) < LEAST_RUNS or no_surface(params, tokens, loss) is not None:
        return {}
    order = np.lexsort((loss, tokens, params))
    points = Points.of(params, tokens, loss)
    with np.errstate(all="ignore"):
        theta = _trimmed_fit(points)
        good = np.ones(len(loss), dtype=bool)
        for _ in range(STEPS):
            residuals = _residuals(points, theta)[0]
            if not np.isfinite(residuals).all():
                return {}
            size = np.sort(np.abs(residuals))[theta.shape[1] :]  # without those that five parameters go through
            limit = max(FAR * 1.4826 * float(np.median(size)), SMALLEST)
            if ((np.abs(residuals) <= limit) == good).all():
                break
            good = np.abs(residuals) <= limit
            theta = _fit(points, good[None].astype(float), theta)
    return {
        int(order[place]): math.exp(float(points.log_loss[place] + residuals[place])) for place in np.flatnonzero(~good)
    }


def _trimmed_fit(points: Points) -> Array:
    """(1, 5) of the surfaces that many starts lead to, the one with the least sum of the KEPT smallest residuals."""
    draw, n = np.random.default_rng(0), len(points.x)
    weights = np.zeros((STARTS, n))
    for row in weights:
        row[draw.choice(n, max(SUBSET, n // 4), replace=False)] = 1
    weights[0] = 1
    theta = _fit(points, np.ones((1, n)), project(points, random_starts(points, STARTS, draw)))
    theta = _fit(points, weights, theta, WIDE)
    kept = math.ceil(KEPT * n)
    for _ in range(STEPS):
        near = np.argsort(np.abs(_residuals(points, theta)), axis=1, kind="stable")[:, :kept]
        again = np.zeros_like(weights)
        np.put_along_axis(again, near, 1.0, axis=1)
        if (again == weights).all():
            break
        weights = again
        theta = _fit(points, weights, theta, WIDE)
    sums = np.sort(np.abs(_residuals(points, theta)), axis=1)[:, :kept].sum(axis=1)
    best = int(np.nanargmin(sums))
    return theta[best : best + 1]


def _fit(points: Points, weights: Array, theta: Array, delta: float = DELTA) -> Array:
    return solve(points, weights, theta, delta=delta, tolerance=TOLERANCE * delta).theta


def _residuals(points: Points, theta: Array) -> Array:
    """(R, n) log of the fitted loss less log loss."""
    terms = np.exp(theta[:, 1:2] - theta[:, 3:4] * points.x), np.exp(theta[:, 2:3] - theta[:, 4:5] * points.y)
    return np.log(np.exp(theta[:, :1]) + terms[0] + terms[1]) - points.log_loss
