"""analyses/scaling/surface.py beside scipy's optimizers: which starts reach the best optimum, and the time of a bootstrap.

    OMP_NUM_THREADS=1 python examples/parametric_speed.py

Prints and writes examples/scaling/parametric_speed.json. Runs are drawn from Hoffmann et al.'s surface (arXiv:2203.15556)
with noise in log-loss. scipy gets exact gradients, and either theta of analyses/scaling/surface_solver.py, which is centred, or
log E, log A, log B, alpha, beta as usual; both contenders work in this process, one after the other.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from analyses.scaling.surface import PARAMETERS, bootstrap_parametric, fit_parametric
from analyses.scaling.surface_solver import Points, project, random_starts, solve

DELTA, RUNS, STARTS, RESAMPLES, LOOP = 1e-3, 240, 1000, 10_000, 100
OUTPUT = Path(__file__).parent / "scaling" / "parametric_speed.json"


def runs(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    params = np.exp(generator.uniform(np.log(5e7), np.log(1.5e10), RUNS))
    tokens = np.exp(generator.uniform(np.log(1e9), np.log(1e12), RUNS))
    loss = 1.8 + 480 / params**0.35 + 2100 / tokens**0.37
    return params, tokens, loss * np.exp(noise * generator.standard_normal(RUNS))


def objective(theta, x, y, log_loss, weights):
    """The sum of Huber's loss and its gradient, for one problem, as it would be written for scipy."""
    constant, in_n, in_d = np.exp(theta[0]), np.exp(theta[1] - theta[3] * x), np.exp(theta[2] - theta[4] * y)
    predicted = constant + in_n + in_d
    residual = np.log(predicted) - log_loss
    clipped = np.clip(residual, -DELTA, DELTA)
    slope = weights * clipped / predicted
    of_n, of_d = slope * in_n, slope * in_d
    gradient = constant * slope.sum(), of_n.sum(), of_d.sum(), -(of_n * x).sum(), -(of_d * y).sum()
    return (weights * clipped * (residual - 0.5 * clipped)).sum(), np.array(gradient)


def main() -> None:
    report = {"cpus": os.cpu_count(), "runs": RUNS, "resamples": RESAMPLES, "loop_resamples": LOOP, "noise": {}}
    for noise in (0.002, 0.01, 0.02):
        columns = runs(noise)
        points = Points.of(*columns)
        centred = points.x, points.y, points.log_loss
        shift, one = np.array([0, *points.centre]), np.ones(RUNS)
        usual = points.x + shift[1], points.y + shift[2], points.log_loss
        row = report["noise"][str(noise)] = {}

        wide = random_starts(points, STARTS, np.random.default_rng(1))
        begun = time.perf_counter()
        ours = solve(points, one[None], project(points, wide), delta=DELTA, tolerance=1e-7 * DELTA).objective
        row["starts_seconds"] = time.perf_counter() - begun
        uncentred = wide + np.column_stack([wide[:, [3, 3, 4]] * shift, np.zeros((STARTS, 2))])
        reached = {"ours": ours}
        for name, begin, data in (("lbfgsb_centred", wide, centred), ("lbfgsb_usual", uncentred, usual)):
            with np.errstate(all="ignore"):
                found = [minimize(objective, start, (*data, one), "L-BFGS-B", jac=True).fun for start in begin]
            reached[name] = np.array(found)
        least = min(np.nanmin(values) for values in reached.values())
        row["agreeing"] = {name: float(np.mean(values <= least + 1e-6)) for name, values in reached.items()}

        fit = fit_parametric(*columns, generator=np.random.default_rng(2))
        row["seconds"] = np.inf
        for _ in range(3):
            begun = time.perf_counter()
            drawn = bootstrap_parametric(fit, *columns, generator=np.random.default_rng(3), resamples=RESAMPLES)
            row["seconds"] = min(row["seconds"], time.perf_counter() - begun)
        row["unconverged"] = drawn.unconverged
        row["sd"] = dict(zip(PARAMETERS, drawn.surfaces.std(axis=0).tolist(), strict=True))

        generator, weights = np.random.default_rng(3), np.empty((LOOP, RUNS))
        for index, rows in enumerate(generator.integers(RUNS, size=(RESAMPLES, RUNS))[:LOOP]):
            weights[index] = np.bincount(rows, minlength=RUNS)
        best = points.theta(tuple(vars(fit.surface).values()))
        best_usual = best + np.array([0, *(best[3:] * shift[1:]), 0, 0])
        for name, begin, data, exact, count in (
            ("bfgs_centred", best, centred, True, LOOP),
            ("bfgs_usual", best_usual, usual, True, LOOP),
            ("bfgs_usual_numerical", best_usual, usual, False, 20),
        ):
            function = objective if exact else lambda *values: objective(*values)[0]
            begun = time.perf_counter()
            found = [minimize(function, begin, (*data, w), "BFGS", jac=exact or None).fun for w in weights[:count]]
            each = (time.perf_counter() - begun) / count
            row[name] = {"seconds_each": each, "ratio": each * RESAMPLES / row["seconds"]}
            gap = drawn.objective[:count] - np.array(found)
            row[name] |= {"largest_excess_of_ours": float(gap.max()), "largest_excess_of_scipy": float(-gap.min())}
        print(noise, json.dumps(row, indent=2), flush=True)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
