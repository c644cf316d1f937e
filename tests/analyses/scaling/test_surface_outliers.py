"""Runs far off the surface through the others: found among clean ones of any order, and left out of the surface alone.

The table is made up after Besiroglu et al.'s of Hoffmann et al.'s runs (arXiv:2404.10102): its surface, 245 runs of 57M to
16B parameters, and seven undertrained ones near 1e19 FLOPs.
"""

import numpy as np
import pytest
from isoflop_data import CHINCHILLA, codes, result_of, runs_of, shuffled, study, surface_study

from analyses.scaling.surface_outliers import surface_outliers
from analyses.scaling.surface_solver import Points, project, random_starts, solve

UNDERTRAINED = {
    2.0e9: 0.2,
    2.3e9: 0.45,
    2.6e9: 0.5,
    3.0e9: 1.2,
    3.6e9: 1.2,
    4.5e9: 1.3,
    6.8e9: 1.4,
}  # params: excess of loss


def hoffmann_like(noise=1e-3, seed=0):
    draw = np.random.default_rng(seed)
    budgets = np.array([6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21])
    flops = budgets[draw.integers(9, size=238)] * draw.uniform(0.9, 1.0, 238)
    best = 0.11 * flops**0.5
    params = np.clip(best * 10 ** draw.uniform(-0.7, 0.7, 238), 5.7e7, 1.6e10)
    params = np.concatenate([params, list(UNDERTRAINED)])
    flops = np.concatenate([flops, np.full(7, 9.5e18)])
    tokens = flops / 6 / params
    loss = (
        CHINCHILLA["E"]
        + CHINCHILLA["A"] / params ** CHINCHILLA["alpha"]
        + CHINCHILLA["B"] / tokens ** CHINCHILLA["beta"]
    )
    loss = loss * np.exp(noise * draw.standard_normal(245)) + np.concatenate(
        [np.zeros(238), list(UNDERTRAINED.values())]
    )
    return {"Model Size": params.tolist(), "Training FLOP": flops.tolist(), "loss": loss.tolist()}


def rows_found(columns):
    runs = runs_of(columns)
    return sorted(int(runs.row[index]) for index in surface_outliers(runs.params, runs.tokens, runs.loss))


@pytest.mark.parametrize("seed", range(3))
def test_undertrained_runs_are_left_out_and_the_published_surface_found(seed):
    result = result_of(hoffmann_like(seed=seed), method="parametric")
    assert sorted(one.row for one in result.findings if one.code == "outlier") == list(range(239, 246))
    assert result.document["runs"]["outliers"] == 7 and result.document["runs"]["used"] == 238 and result.status == 3
    part = result.document["parametric"]
    assert part["runs"] == 238
    for name, tolerance in (("E", 0.01), ("alpha", 0.02), ("beta", 0.02), ("A", 0.1), ("B", 0.15)):
        assert part[name] == pytest.approx(CHINCHILLA[name], rel=tolerance)
    assert result.document["n_opt"]["exponent"] == pytest.approx(0.5126, abs=0.005)


def test_the_surface_is_that_of_the_other_runs_whatever_the_order():
    columns = hoffmann_like()
    without = {name: values[:238] for name, values in columns.items()}
    parts = [
        result_of(one, method="parametric").document["parametric"] for one in (columns, shuffled(columns, 5), without)
    ]
    assert parts[0] == parts[1] == parts[2]


def test_kept_outliers_are_named_and_fitted():
    result = result_of(hoffmann_like(), method="parametric", keep_outliers=True)
    assert codes(result).count("outlier") == 7 and result.document["runs"]["used"] == 245
    assert result.document["parametric"]["runs"] == 245 and not any(one.excludes for one in result.findings)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_up_to_a_third_of_the_runs_may_be_bad(share):
    for seed in range(10):
        columns = surface_study(decades=0.7, sizes=7, noise=4e-3, seed=seed, budgets=6)
        draw = np.random.default_rng(seed)
        bad = sorted(draw.choice(42, int(share * 42), replace=False).tolist())
        for row in bad:
            columns["loss"][row] += draw.uniform(0.3, 1.5)
        assert rows_found(columns) == [row + 1 for row in bad]


def test_clean_tables_keep_all_runs():
    """None of 40 clean studies, whether their losses lie on a surface or on parabolas, loses a run."""
    for seed in range(10):
        for columns in (
            surface_study(decades=0.7, sizes=7, noise=4e-3, seed=seed, budgets=6),
            surface_study(sizes=5, noise=1e-2, seed=seed, budgets=3),
            study(noise=2e-3, seed=seed),
            study(noise=2e-3, seed=seed, sizes=5, budgets=(1e18, 1e19, 1e20)),
        ):
            assert rows_found(columns) == []


def test_too_few_runs_are_not_judged():
    columns = surface_study(decades=0.7, sizes=7, noise=4e-3, budgets=2)
    columns["loss"][3] += 1
    assert rows_found(columns) == []


def test_each_method_leaves_out_what_is_off_its_own_shape():
    columns = surface_study(decades=0.7, sizes=7, noise=1e-3, budgets=6)
    columns["loss"][10] += 0.5
    result = result_of(columns, method="both")
    assert [one.row for one in result.findings if one.code == "outlier"] == [11, 11]  # by the parabolas, by the surface
    assert result.document["runs"]["used"] == result.document["parametric"]["runs"] == 41


def test_a_solution_that_starts_at_its_optimum_stays_there():
    """Steps of rounding alone were refused, and the wide delta of the start never narrowed."""
    runs = runs_of(surface_study(decades=0.7, sizes=7, noise=4e-3, seed=1, budgets=6))
    points = Points.of(runs.params, runs.tokens, runs.loss)
    begin = project(points, random_starts(points, 24, np.random.default_rng(0)))
    first = solve(points, np.ones((1, 42)), begin, delta=1e-2, tolerance=1e-6)
    again = solve(points, np.ones((1, 42)), first.theta, delta=1e-2, tolerance=1e-6)
    assert again.converged.all() and int(again.evaluations.max()) < 20
    assert again.theta == pytest.approx(first.theta, abs=1e-3)
