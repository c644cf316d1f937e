"""One budget's parabola against exact arithmetic and finite differences, at scales from 1e5 to 1e27 FLOPs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isoflop_data import digits, exact_budgets, exact_law, fit_of, runs_of, shuffled, study

from analyses.scaling.cost import CostRule, parse_cost
from analyses.scaling.isoflop import fit_isoflop
from analyses.scaling.parabola import SURFACE_EXPONENT, CMin, ParabolaBasis, fit_budget

STUDIES = {
    "ordinary": {"noise": 1e-3},
    "uneven": {"noise": 1e-3, "skew": 2.0, "off_center": 0.4},
    "uneven, within 1%": {"noise": 1e-8, "skew": 3.0, "reach": 0.005, "curvature": 0.5, "off_center": 0.4},
    "exact": {},
    "sizes within 1%": {"reach": 0.005, "noise": 1e-8, "curvature": 0.5},
    "sizes within 1%, noisy": {"reach": 0.005, "noise": 1e-7, "sizes": 12},
    "huge": {"budgets": (1e24, 4e24, 3e25, 1e27), "noise": 1e-4},
    "tiny": {"budgets": (1e5, 1e6, 3e6, 1e8), "noise": 1e-2, "curvature": 0.3},
    "wide": {"reach": 5.0, "noise": 1e-2},
    "replicates": {"replicates": 3, "noise": 1e-3, "sizes": 5},
    "many": {"sizes": 60, "noise": 1e-2},
}
LIMIT = 1e-10  # reached: 4e-15 for N_opt, 4e-11 for D_opt and 1e-11 for curvatures of sizes within 1%
COSTS = {"own": None, "6nd": "6nd", "k1,k2": "9.59,2.3e8"}


def relative(found: float, exact) -> float:
    return abs(float(found) / float(exact) - 1)


@pytest.mark.parametrize("correction", [None, (2e8, 0.21)], ids=["C", "C_min"])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("name", STUDIES)
def test_as_in_exact_arithmetic(name, cost, correction):
    columns = shuffled(study(seed=3, **STUDIES[name]), seed=4)
    columns["batch_tokens"] = [1.7e6] * len(columns["loss"])
    runs = runs_of(columns, cost=parse_cost(COSTS[cost]) if COSTS[cost] else None)
    found = fit_isoflop(runs, c_min=CMin(*correction) if correction else None, keep_outliers=True)
    with digits():
        exact = exact_budgets(runs, c_min=correction, own=cost == "own")
        laws = exact_law(exact, "y"), exact_law(exact, "z")
        assert len(found.usable) == len(exact) >= 4
        for budget, one in zip(found.usable, exact, strict=True):
            for log, letter in ((budget.x, "x"), (budget.y, "y"), (budget.z, "z")):
                assert relative(np.exp(log), one[letter].exp()) < LIMIT
            assert relative(budget.loss, one["loss"]) < 1e-14
            assert relative(budget.curvature, one["curvature"]) < LIMIT
        for law, (coefficient, exponent) in zip((found.params_law, found.tokens_law), laws, strict=True):
            assert relative(law.exponent, exponent) < LIMIT
            assert relative(np.exp(law.log_coefficient), coefficient) < 10 * LIMIT  # extrapolated to one FLOP


def test_flops_that_differ_inside_a_budget_count_by_their_geometric_mean():
    columns = study(noise=1e-3)
    columns["flops"] = [flops * (1 + 0.01 * (index % 5)) for index, flops in enumerate(columns["flops"])]
    runs = runs_of(columns)
    with digits():
        exact = exact_budgets(runs)
        for budget, one in zip(fit_isoflop(runs, keep_outliers=True).usable, exact, strict=True):
            assert relative(budget.flops, one["x"].exp()) < 1e-13
            assert relative(np.exp(budget.z), one["z"].exp()) < 1e-11


@pytest.mark.parametrize("correction", [None, CMin(), CMin(1e7, 0.5)], ids=["C", "C_min", "strong C_min"])
@pytest.mark.parametrize("cost", COSTS)
def test_derivatives_by_every_loss_are_those_of_finite_differences(cost, correction):
    columns = study(noise=3e-3, seed=1, budgets=(1e18, 1e19, 1e20), skew=1.5)
    columns["batch_tokens"] = [1.7e6] * len(columns["loss"])
    if cost == "own":  # a cost that is no power: the derivative of log D by log N is none of a constant
        columns["tokens"] = [d / (1 + 1e8 / n) for d, n in zip(columns["tokens"], columns["params"], strict=True)]
    runs = runs_of(columns, cost=parse_cost(COSTS[cost]) if COSTS[cost] else None)
    runs = runs.keep(runs.budget == 1)
    budget, step = fit_budget(runs, correction), 1e-5
    expected = [budget.design.basis @ gradient for gradient in budget.gradients]
    for index in range(len(runs)):
        moved = []
        for sign in (1, -1):
            loss = runs.loss.copy()
            loss[index] += sign * step
            moved.append(np.array(fit_budget(replace(runs, loss=loss), correction).place))
        difference = (moved[0] - moved[1]) / (2 * step)
        for gradient, one in zip(expected, difference, strict=True):
            assert one == pytest.approx(gradient[index], rel=1e-5, abs=1e-6 * np.abs(gradient).max())
    assert np.any(expected[0]) == (correction is not None)


def test_bends_are_what_a_surface_adds_to_a_parabola():
    """Sizes to one side of the minimum; the bias accounts for the error in the minimum."""
    r, a, b, flops = SURFACE_EXPONENT, 400.0, 2000.0, 1e20
    best = (a / b) ** (1 / (2 * r)) * (flops / 6) ** 0.5
    params = best * np.exp(np.linspace(-1, 3, 7))
    loss = 1.8 + a / params**r + b / (flops / 6 / params) ** r
    columns = {"flops": [flops] * 7, "params": params.tolist(), "loss": loss.tolist()}
    (budget,) = fit_of(columns).budgets
    error = budget.y - np.log(best)
    shift = float(budget.gradients[1] @ budget.coefficient_bias)
    assert error > 0.02 and shift == pytest.approx(error, rel=0.03)


def test_a_budget_of_two_sizes_has_no_parabola_and_one_that_opens_downward_no_minimum():
    runs = runs_of(study(sizes=2))
    budget = fit_budget(runs.keep(runs.budget == 0))
    assert budget.design is None and budget.sizes == 2 and not budget.opens_upward
    runs = runs_of(study(curvature=-0.05))
    budget = fit_budget(runs.keep(runs.budget == 0))
    assert not budget.opens_upward and budget.curvature == pytest.approx(-0.05)


@pytest.mark.parametrize(("shift", "inside"), [(0.99, True), (1.01, False), (-0.99, True), (-1.01, False)])
def test_interior_means_between_the_smallest_and_the_largest_size(shift, inside):
    found = fit_of(study(off_center=-shift, budgets=(1e18,)))
    assert found.budgets[0].interior is inside


def test_the_basis_is_orthonormal_however_close_or_far_the_sizes():
    for spread in (1e-6, 1.0, 30.0):  # in log N
        basis = ParabolaBasis(20 + spread * np.array([0.0, 0.1, 0.1, 0.5, 0.9, 1.0])).basis
        assert np.abs(basis.T @ basis - np.eye(3)).max() < (1e-8 if spread < 1e-3 else 1e-13)


def test_c_min_is_the_written_formula():
    budget = fit_of({**study(), "batch_tokens": [2e6] * 35}, c_min=CMin(3e8, 0.25)).usable[2]
    critical = 3e8 / budget.loss ** (1 / 0.25)
    assert np.exp(budget.x) == pytest.approx(budget.flops / (1 + 2e6 / critical), rel=1e-13)
    assert np.exp(budget.z) == pytest.approx(np.exp(budget.x) / 6 / np.exp(budget.y), rel=1e-12)


@given(st.integers(-60, 60), st.integers(-30, 30))
@settings(max_examples=25, deadline=None)
def test_sizes_and_flops_in_other_units_scale_the_optimum(power_flops, power_params):
    columns = study(noise=1e-3)
    scaled = {
        **columns,
        "flops": [value * 2.0**power_flops for value in columns["flops"]],
        "params": [value * 2.0**power_params for value in columns["params"]],
        "tokens": [value * 2.0 ** (power_flops - power_params) for value in columns["tokens"]],
    }
    old, new = fit_of(columns), fit_of(scaled)
    assert new.params_law.exponent == pytest.approx(old.params_law.exponent, rel=1e-10)
    for before, after in zip(old.usable, new.usable, strict=True):
        assert after.y - before.y == pytest.approx(power_params * np.log(2), abs=1e-10)
        assert after.z - before.z == pytest.approx((power_flops - power_params) * np.log(2), abs=1e-10)
        assert after.loss == pytest.approx(before.loss, rel=1e-13)


@given(st.floats(-1.0, 50.0))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_every_loss_moves_no_minimum(constant):
    columns = study(noise=1e-3)
    old, new = fit_of(columns), fit_of({**columns, "loss": [value + constant for value in columns["loss"]]})
    for before, after in zip(old.usable, new.usable, strict=True):
        assert after.y == pytest.approx(before.y, abs=1e-10)
        assert after.curvature == pytest.approx(before.curvature, rel=1e-10)
        assert after.loss == pytest.approx(before.loss + constant, rel=1e-12, abs=1e-12)


def test_cost_rules_are_the_written_ones():
    assert (parse_cost("6nd").k1, parse_cost(" 6ND ").k2) == (6.0, 0.0)
    assert (parse_cost("paper").k1, parse_cost("paper").k2) == (9.59, 2.3e8)
    rule = parse_cost("9.59,2.3e8")
    log_params = np.log(np.array([1e6, 52e9]))
    assert np.exp(rule.log_flops_per_token(log_params)) == pytest.approx(
        [9.59e6 + 2.3e8, 9.59 * 52e9 + 2.3e8], rel=1e-14
    )
    step = 1e-6
    slope = (rule.log_flops_per_token(log_params + step) - rule.log_flops_per_token(log_params - step)) / (2 * step)
    assert rule.slope(log_params) == pytest.approx(slope, rel=1e-7)
    assert np.array_equal(CostRule("6nd", 6.0).slope(log_params), [1.0, 1.0])
