"""What follows from the shared shape: laws, intervals, losses and advice, against fits of losses that were changed."""

import math

import numpy as np
import pytest
from isoflop_data import fit_of, result_of, surface_study
from scipy import stats

from analyses.scaling.advice import influence, next_runs
from analyses.scaling.loss_law import loss_band
from analyses.scaling.parabola import CMin
from analyses.scaling.plots import plot_scaling
from analyses.scaling.shaped import shaped

STUDY = surface_study(decades=0.8, sizes=7, noise=2e-3, seed=4) | {"batch_tokens": [1e6] * 35}
CORRECTIONS = pytest.mark.parametrize("correction", [None, CMin()], ids=["C", "C_min"])


def fitted(columns, correction=None):
    found, fallen = shaped(fit_of(columns, c_min=correction))
    assert fallen is None
    return found


def changed(row, by):
    return STUDY | {"loss": [loss + by * (index == row) for index, loss in enumerate(STUDY["loss"])]}


def slopes(of, correction):
    """The derivatives of a fit's number by the loss of every run."""
    step = 1e-5
    return [(of(fitted(changed(row, step), correction)) - of(fitted(changed(row, -step), correction))) / (2 * step)
            for row in range(35)]  # fmt: skip


@CORRECTIONS
def test_the_errors_of_a_law_are_its_derivatives_by_the_losses(correction):
    fit = fitted(STUDY, correction)
    for law in ("params_law", "tokens_law"):
        expected = slopes(lambda one, law=law: getattr(one, law).exponent, correction)
        rows = np.concatenate([budget.rows(np.log(budget.runs.params)) for budget in fit.usable])
        order = np.concatenate([budget.runs.row for budget in fit.usable]) - 1
        exponent = getattr(fit, law).gradients[1]
        assert rows @ exponent == pytest.approx(np.array(expected)[order], rel=0.02, abs=0.02 * np.abs(expected).max())
        assert (exponent**2).sum() == pytest.approx(np.square(expected).sum(), rel=0.02)


@CORRECTIONS
def test_the_interval_of_a_loss_is_made_of_its_derivatives_by_the_losses(correction):
    fit, x = fitted(STUDY, correction), math.log(1e23)
    band = loss_band(fit.usable)
    expected = slopes(lambda one: loss_band(one.usable).law.at(x), correction)
    low, high = band.ends(x, 0.9)
    half = stats.t.ppf(0.95, 35 - 17) * math.sqrt(fit.params_law.noise_variance * np.square(expected).sum())
    assert high - low == pytest.approx(2 * half, rel=0.02) and (low + high) / 2 == pytest.approx(band.law.at(x))


def test_a_budget_that_reaches_a_loss_lies_between_those_whose_bands_do():
    result = result_of(STUDY, predict_loss=(2.1,))
    (row,) = result.document["predictions"]
    band = loss_band(result.fit.usable)
    low, high = row["flops_interval"]
    assert low < row["flops"] < high and band.law.at(math.log(row["flops"])) == pytest.approx(2.1)
    assert band.ends(math.log(low), 0.95)[0] == pytest.approx(2.1) == band.ends(math.log(high), 0.95)[1]


def test_the_intervals_of_a_budget_are_those_of_its_minimum():
    result = result_of(STUDY)
    variance, t = result.fit.params_law.noise_variance, stats.t.ppf(0.975, 35 - 17)
    for index, row in enumerate(result.document["budgets"]):
        least, minimum = result.fit.usable[index].shape.errors[index, :2]
        for name, error in (("params", minimum), ("loss", least)):
            low, high = row[f"{name}_interval"]
            middle, width = (low + high) / 2, high - low
            if name == "params":
                middle, width = math.sqrt(low * high), math.log(high / low)
            assert middle == pytest.approx(row[f"{name}_opt"])
            assert width == pytest.approx(2 * t * math.sqrt(variance * (error**2).sum()))
        assert row["interior"] and row["used"]


def test_influence_is_nearly_that_of_a_fit_without_the_run():
    rows = influence(fitted(STUDY))
    assert len(rows) == 35
    for row in rows[:8]:
        number = STUDY["loss"].index(row["loss"])
        without = {name: values[:number] + values[number + 1 :] for name, values in STUDY.items()}
        assert row["change"] == pytest.approx(
            fitted(without).params_law.exponent - fitted(STUDY).params_law.exponent, rel=0.1
        )


@pytest.mark.parametrize("target", [None, math.log(1e24)], ids=["exponent", "1e24"])
def test_a_run_narrows_by_nearly_what_adding_it_does(target):
    """The run is added with the loss that the shape says, and the noise variance stays."""
    fit = fitted(STUDY)

    def error(one):
        direction = np.array([0.0, 1.0]) if target is None else np.array([1.0, target - fit.params_law.x_mean])
        return math.sqrt(((direction @ one.params_law.gradients) ** 2).sum())

    for row in next_runs(fit, target):
        if row["kind"] != "run":
            continue
        budget = next(one for one in fit.usable if one.flops == row["flops"])
        loss = float(budget.curve(np.array(math.log(row["params"]))))
        new = {"flops": row["flops"], "params": row["params"], "tokens": row["flops"] / 6 / row["params"], "loss": loss,
               "batch_tokens": 1e6}  # fmt: skip
        longer = fitted({name: [*values, new[name]] for name, values in STUDY.items()})
        assert row["narrower_fraction"] == pytest.approx(1 - error(longer) / error(fit), rel=0.02, abs=1e-6)


def test_the_picture_has_the_shape_and_its_minima():
    result = result_of(STUDY)
    losses, *_, residuals = plot_scaling(result).axes
    curves = [line for line in losses.get_lines() if len(line.get_xdata()) == 100]
    shape = result.document["shape"]
    for curve, row in zip(curves, result.document["budgets"], strict=True):
        u = np.log(curve.get_xdata() / row["params_opt"])
        expected = row["loss_opt"] + row["curvature"] * u**2 * (1 + shape["k3"] * u + shape["k4"] * u**2)
        assert curve.get_ydata() == pytest.approx(expected, rel=1e-9)
    stars = [line.get_xdata()[0] for line in losses.get_lines() if line.get_marker() == "*"]
    assert stars == pytest.approx([row["params_opt"] for row in result.document["budgets"]])
    titles = losses.get_title(loc="left") + residuals.get_title(loc="left")
    assert titles.startswith("shared shape") and "of the shared shape" in titles


def test_outliers_seeds_and_left_out_budgets_go_with_it():
    columns = {name: values * 2 for name, values in STUDY.items()} | {"seed": [0] * 35 + [1] * 35}
    draw = np.random.default_rng(1)
    columns["loss"] = [loss + 2e-3 * draw.standard_normal() for loss in columns["loss"]]
    columns["loss"][3] += 0.3
    columns["loss"][7:14] = columns["loss"][42:49] = [
        2.9 + 0.1 * x + 3e-3 * x * x for x in range(7)
    ]  # a budget without a minimum
    result = result_of(columns, predict=(1e22,))
    document = result.document
    assert {"outlier", "minimum_outside", "seeds"} <= {one["code"] for one in document["warnings"]}
    assert "shape" in document and [row["used"] for row in document["budgets"]] == [True, False, True, True, True]
    assert document["budgets"][1]["params_opt"] is not None and "params_interval" not in document["budgets"][1]
    assert result.status == 3 and len(document["influence"]) == 55
