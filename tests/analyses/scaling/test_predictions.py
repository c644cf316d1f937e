"""Predictions: the report's own numbers, inverses that go back, flat regions, and intervals."""

import math
import signal

import numpy as np
import pytest
from isoflop_data import codes, fit_of, result_of, study

from analyses.scaling.laws import LAWS
from analyses.scaling.loss_law import LossLaw, fit_loss_laws
from analyses.scaling.predictions import Predictor


def predictions(columns, **options):
    return result_of(columns, **options).document["predictions"]


def test_the_reports_law_at_its_budget():
    """58.1B activated parameters and 5.6T tokens, from studies that its law is behind."""
    paper = LAWS["paper"]
    columns = study(coefficient=5.9e-3, exponent=0.5305, k1=9.59, k2=2.3e8, budgets=np.logspace(19, 22, 5).tolist())
    (row,) = predictions(columns, predict=(3.1e24,))
    assert row["params_opt"] == pytest.approx(58.1e9, rel=0.005) == pytest.approx(paper.n_opt(3.1e24), rel=0.005)
    assert paper.d_opt(3.1e24) == pytest.approx(5.6e12, rel=0.01)


def test_a_prediction_is_the_law_at_the_budget():
    result = result_of(study(noise=1e-3), predict=(1e20, 7e22))
    for row, flops in zip(result.document["predictions"], (1e20, 7e22), strict=True):
        for name, law in (("params", "n_opt"), ("tokens", "d_opt")):
            law = result.document[law]
            assert row[f"{name}_opt"] == pytest.approx(law["coefficient"] * flops ** law["exponent"], rel=1e-9)
            low, high = row[f"{name}_interval"]
            assert low < row[f"{name}_opt"] < high
        assert (row["asked"], row["flops"]) == ("flops", flops)
    inside, beyond = result.document["predictions"]
    assert inside["extrapolation"] == 1 and beyond["extrapolation"] == pytest.approx(70)
    assert np.ptp(np.log(inside["params_interval"])) < np.ptp(np.log(beyond["params_interval"]))


@pytest.mark.parametrize("interval", ["delta", "residual", "case"])
def test_asking_for_a_size_is_the_inverse_of_asking_for_a_budget(interval):
    columns = study(noise=1e-3, seed=1)
    (there,) = predictions(columns, predict=(3e22,), interval=interval)
    (back,) = predictions(columns, predict_params=(there["params_opt"],), interval=interval)
    assert (back["asked"], back["params_opt"]) == ("params", there["params_opt"])
    assert back["flops"] == pytest.approx(3e22, rel=1e-10)
    assert back["tokens_opt"] == pytest.approx(there["tokens_opt"], rel=1e-9)
    low, high = back["flops_interval"]
    assert low < 3e22 < high


def test_the_interval_of_a_budget_for_a_size_is_where_the_band_has_it():
    columns = study(noise=1e-3, seed=1)
    (row,) = predictions(columns, predict_params=(1e11,))
    low, high = row["flops_interval"]
    at_low, at_high = predictions(columns, predict=(low, high))
    assert at_low["params_interval"][1] == pytest.approx(1e11, rel=1e-6)
    assert at_high["params_interval"][0] == pytest.approx(1e11, rel=1e-6)


def test_losses_follow_their_law_and_asking_for_one_is_its_inverse():
    columns = study()  # whose least losses are 1.8 + 30 / C^0.1
    (there,) = predictions(columns, predict=(1e23,))
    assert there["loss_opt"] == pytest.approx(1.8 + 30 * 1e23**-0.1, abs=1e-3)
    (back,) = predictions(columns, predict_loss=(there["loss_opt"],))
    assert back["flops"] == pytest.approx(1e23, rel=1e-9) and back["loss_opt"] == there["loss_opt"]
    assert back["params_opt"] == pytest.approx(there["params_opt"], rel=1e-9)
    columns = study(noise=1e-4, seed=2)
    (row,) = predictions(columns, predict_loss=(1.99,))
    assert row["flops_interval"][0] < row["flops"] < row["flops_interval"][1]


def test_losses_that_follow_the_law_are_predicted_to_rounding():
    rows = predictions(study(), predict=(1e23, 1e25), predict_loss=(1.95,))
    assert [row["loss_opt"] for row in rows[:2]] == pytest.approx([1.8 + 30 * c**-0.1 for c in (1e23, 1e25)], rel=1e-6)
    assert rows[2]["flops"] == pytest.approx((30 / 0.15) ** 10, rel=1e-4)


def test_the_loss_law_is_the_least_squares_one():
    from scipy.optimize import least_squares

    x = np.log(np.logspace(18, 21, 6))
    loss = 1.8 + 30 * np.exp(-0.1 * x) + 1e-3 * np.array([1, -1, 0.5, 0.2, -0.7, 0.3])
    (law,) = fit_loss_laws(x[None], loss[None])

    def residuals(p):
        return p[0] + np.exp(p[1] - p[2] * (x - np.log(3e19))) - loss

    best = least_squares(residuals, [1.5, -1.0, 0.15], xtol=1e-14, ftol=1e-14)
    rss = sum((law.at(one) - value) ** 2 for one, value in zip(x, loss, strict=True))
    assert rss == pytest.approx(2 * best.cost, rel=1e-2) and law.gamma == pytest.approx(best.x[2], rel=0.01)
    assert law.log_flops(law.at(50.0)) == pytest.approx(50.0, rel=1e-12)


def test_a_loss_law_needs_four_budgets_and_losses_that_fall():
    x = np.log(np.logspace(18, 21, 5))
    assert fit_loss_laws(x[None, :3], (30 * np.exp(-0.1 * x))[None, :3]) == [None]
    assert fit_loss_laws(x[None], (0.1 * x)[None]) == [None]
    assert LossLaw(1.8, 30.0, 0.1).log_flops(1.8) is None
    (row,) = predictions(study(budgets=(1e18, 1e19, 1e20)), predict=(1e22,))
    assert row["loss_opt"] is None


@pytest.mark.parametrize("flat", [0.001, 0.02])
def test_the_flat_region_ends_where_the_parabola_is_so_much_above_its_least(flat):
    result = result_of(study(noise=1e-3), shape="parabola", flat=flat, predict=(1e21,))
    for row, budget in zip(result.document["budgets"], result.fit.budgets, strict=True):
        powers = np.polyfit(budget.design.log_params - budget.y, budget.runs.loss, 2)
        for end in row["flat_region"]:
            assert np.polyval(powers, math.log(end) - budget.y) == pytest.approx((1 + flat) * budget.loss, rel=1e-9)
    (prediction,) = result.document["predictions"]
    low, high = prediction["flat_region"]
    assert low * high == pytest.approx(prediction["params_opt"] ** 2, rel=1e-9)
    expected = 2 * math.sqrt(flat * (1.8 + 30 * 1e21**-0.1) / 0.05)
    assert math.log(high / low) == pytest.approx(expected, rel=0.01)


def test_the_flat_region_beyond_the_budgets_goes_on_as_it_was():
    """c / L a power of C: then so is the width."""
    columns = study(curvature=0.0)
    for row, flops in enumerate(columns["flops"]):
        at = math.log(columns["params"][row]) - math.log(0.1) - 0.5 * math.log(flops)
        least = 1.8 + 30 * flops**-0.1
        columns["loss"][row] = least + 5.0 * least * flops**-0.1 * at * at
    (row,) = predictions(columns, predict=(1e24,), flat=0.01)
    assert np.log(row["flat_region"][1] / row["flat_region"][0]) == pytest.approx(
        2 * math.sqrt(0.01 / 5 * 1e24**0.1), rel=1e-6
    )


@pytest.mark.parametrize(("flops", "told"), [(0.99e23, False), (1.01e23, True), (1.01e16, False), (0.99e16, True)])
def test_extrapolation_by_more_than_a_hundred_is_told(flops, told):
    result = result_of(study(), predict=(flops,))
    assert codes(result) == ["extrapolation"] * told and result.status == 0
    if told:
        assert result.findings[0].budget == pytest.approx(flops) and " 101 times" in result.findings[0].reason


def test_what_cannot_be_reached_is_told_and_has_no_budget():
    result = result_of(study(), predict_loss=(1.0, 1.79))
    assert codes(result) == ["unreachable_loss"] * 2
    assert result.document["predictions"] == [{"asked": "loss", "value": 1.0}, {"asked": "loss", "value": 1.79}]
    result = result_of(study(exponent=-0.2, coefficient=1e13), predict_params=(1e9,))
    assert codes(result) == ["unreachable_params"]


def test_the_budget_for_a_size_is_given_up_where_sizes_hardly_depend_on_it():
    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1.0)
    try:
        found = fit_of(study(exponent=0.5, noise=1e-6)).params_law
        object.__setattr__(found, "exponent", 1e-15)  # what rounding may leave of an exponent of zero
        x, _ = Predictor(None, None, None, 0.95, 0.001)._budget_for_params(found, math.log(1e12))
        assert x is None or abs(x) > 690
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_a_least_loss_below_zero_is_no_point_of_a_law():
    columns = study(budgets=(1e18, 1e19, 1e20, 1e21), sizes=4, off_center=0)
    columns["loss"][:4] = [9.0, 0.1, 0.1, 9.0]
    result = result_of(columns, predict=(1e22,), keep_outliers=True)
    assert "bad_minimum" in codes(result) and result.status == 3
    assert [row["used"] for row in result.document["budgets"]] == [False, True, True, True]


def test_a_law_that_explodes_without_a_budget_is_no_error():
    columns = {"flops": [], "params": [], "tokens": [], "loss": []}
    for flops, best in ((1e18, 1e9), (1.12e18, 1e10), (1e90, 1e30)):
        for u in np.linspace(-1, 1, 5).tolist():
            row = (flops, best * math.exp(u), flops / 6 / best / math.exp(u), 2 + 0.05 * u * u)
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    assert result_of(columns).status in (0, 3)


def test_losses_that_leave_their_floor_open_are_not_answered():
    """Losses in proportion to a power of compute: E would be 0, and two parameters would pass for three."""
    x = np.log(np.logspace(18, 21, 6))
    assert fit_loss_laws(x[None], np.exp(6 - 0.1 * x)[None] - 0.01) == [None]
    assert fit_loss_laws(x[None], np.exp(6 - 0.1 * x)[None] + 1.0) != [None]
