"""Influence and leave-one-out against fits without the run or the budget; next runs against studies that have them."""

import math

import numpy as np
import pytest
from isoflop_data import fit_of, study

from analyses.scaling.advice import influence, leave_one_budget_out, next_runs
from analyses.scaling.cost import parse_cost
from analyses.scaling.parabola import CMin


def without(columns, rows):
    return {name: [v for row, v in enumerate(values) if row not in rows] for name, values in columns.items()}


def with_run(columns, flops, params, loss):
    new = {"flops": flops, "params": params, "tokens": flops / 6 / params, "loss": loss, "batch_tokens": 1e6}
    return {name: [*values, new[name]] for name, values in columns.items()}


@pytest.mark.parametrize("correction", [None, CMin()], ids=["C", "C_min"])
def test_influence_is_a_fit_without_the_run(correction):
    columns = study(noise=5e-3, seed=4, budgets=(1e18, 1e19, 1e20, 1e21), sizes=6, skew=1.5)
    columns["batch_tokens"] = [1e6] * 24
    whole = fit_of(columns, c_min=correction)
    rows = influence(whole)
    assert len(rows) == 24
    for row in rows:
        number = columns["loss"].index(row["loss"])
        exponent = fit_of(without(columns, {number}), c_min=correction).params_law.exponent
        assert row["exponent_without"] == pytest.approx(exponent, rel=1e-9)
        assert row["change"] == pytest.approx(exponent - whole.params_law.exponent, rel=1e-6)
        assert [row[name] for name in ("flops", "params", "tokens")] == [columns[name][number] for name in columns][:3]
    changes = [abs(row["change"]) for row in rows]
    assert changes == sorted(changes, reverse=True)


def test_influence_is_null_where_the_parabola_would_open_downward():
    columns = study(budgets=(1e18, 1e19, 1e20), sizes=5, off_center=0)
    columns["loss"][5:10] = [2.3, 2.30, 2.29, 2.28, 2.9]  # but for the last one it bends down
    rows = influence(fit_of(columns))
    assert [row["loss"] for row in rows if row["change"] is None] == [2.9]
    assert rows[0]["loss"] == 2.9 and rows[0]["exponent_without"] is None  # nothing moves a law more


def test_a_budget_left_out_is_predicted_by_the_others():
    columns = study(noise=5e-3, seed=4)
    rows = leave_one_budget_out(fit_of(columns))
    for number, row in enumerate(rows):
        law = fit_of(without(columns, set(range(7 * number, 7 * number + 7)))).params_law
        predicted = math.exp(float(law.at(math.log(row["flops"]))))
        assert row["exponent_without"] == pytest.approx(law.exponent, rel=1e-10)
        assert row["predicted_params"] == pytest.approx(predicted, rel=1e-9)
        assert row["error"] == pytest.approx(predicted / row["params_opt"] - 1, rel=1e-6)


@pytest.mark.parametrize("correction", [None, CMin()], ids=["C", "C_min"])
@pytest.mark.parametrize("target", [None, math.log(1e24)], ids=["exponent", "1e24"])
def test_a_run_narrows_by_what_adding_it_does(target, correction):
    """The run is added with the loss that the parabola says, and the noise variance stays."""
    columns = study(noise=2e-3, seed=5, budgets=(1e18, 1e19, 1e20, 1e21), sizes=6, skew=1.5)
    columns["batch_tokens"] = [1e6] * 24
    fit = fit_of(columns, cost=parse_cost("6nd"), c_min=correction)

    def error(one):
        direction = np.array([0.0, 1.0]) if target is None else np.array([1.0, target - fit.params_law.x_mean])
        return math.sqrt(float((np.einsum("a,ak->k", direction, one.params_law.gradients) ** 2).sum()))

    rows = [row for row in next_runs(fit, target) if row["kind"] == "run"]
    assert len(rows) == 4
    for row in rows:
        budget = next(one for one in fit.usable if one.flops == row["flops"])
        loss = budget.loss + budget.curvature * (math.log(row["params"]) - budget.y) ** 2
        longer = fit_of(with_run(columns, row["flops"], row["params"], loss), cost=parse_cost("6nd"), c_min=correction)
        assert row["narrower_fraction"] == pytest.approx(1 - error(longer) / error(fit), rel=1e-6, abs=1e-9)
        assert row["narrower_per_flop"] == row["narrower_fraction"] / row["flops"] > 0


@pytest.mark.parametrize("target", [None, math.log(1e24)], ids=["exponent", "1e24"])
def test_a_new_budget_narrows_by_what_adding_it_does(target):
    columns = study(noise=1e-4, seed=5, sizes=8, off_center=0)
    fit = fit_of(columns)
    rows = {row["flops"] > 1e20: row for row in next_runs(fit, target) if row["kind"] == "budget"}
    assert {above: row["flops"] for above, row in rows.items()} == {
        False: pytest.approx(10**17.25), True: pytest.approx(10**21.75),
    }  # fmt: skip
    for row in rows.values():
        more = study(budgets=[row["flops"]], sizes=8, off_center=0)
        longer = fit_of({name: columns[name] + more[name] for name in columns})
        errors = []
        for one in (fit, longer):
            direction = np.array([0.0, 1.0]) if target is None else np.array([1.0, target - one.params_law.x_mean])
            errors.append(math.sqrt(direction @ one.params_law.covariance @ direction / one.params_law.noise_variance))
        assert row["narrower_fraction"] == pytest.approx(1 - errors[1] / errors[0], rel=0.01)
        assert row["params"] == pytest.approx(0.1 * math.sqrt(row["flops"]), rel=0.01)
        assert (row["runs"], row["cost_flops"]) == (8, pytest.approx(8 * row["flops"]))


def test_the_best_per_flop_comes_first_and_no_other_size_of_a_budget_tells_more():
    columns = study(noise=2e-3, seed=5, budgets=(1e18, 1e19, 1e20), sizes=6)
    fit = fit_of(columns)
    rows = next_runs(fit, math.log(1e24))
    worth = [row["narrower_per_flop"] for row in rows]
    assert worth == sorted(worth, reverse=True) and len(rows) == 5
    direction = np.array([1.0, math.log(1e24) - fit.params_law.x_mean])
    for row in (row for row in rows if row["kind"] == "run"):
        budget = next(one for one in fit.usable if one.flops == row["flops"])
        logs = budget.design.log_params
        for size in np.linspace(logs[0] - 0.5 * np.ptp(logs), logs[-1] + 0.5 * np.ptp(logs), 9):
            loss = budget.loss + budget.curvature * (size - budget.y) ** 2
            columns["batch_tokens"] = [1e6] * len(columns["loss"])
            longer = fit_of(with_run(columns, row["flops"], math.exp(size), loss))
            errors = [
                math.sqrt(float((np.einsum("a,ak->k", direction, one.params_law.gradients) ** 2).sum()))
                for one in (fit, longer)
            ]
            assert 1 - errors[1] / errors[0] <= row["narrower_fraction"] * (1 + 1e-6) + 1e-12
