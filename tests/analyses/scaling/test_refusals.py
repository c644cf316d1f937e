"""Sizes, budgets and losses that hardly differ: refused by a code, and no number of a fit is infinite or missing."""

import math
import random
import warnings

import numpy as np
import pytest
from isoflop_data import codes, result_of, study

ASKED = {"predict": (1e22,), "predict_params": (3e9,), "predict_loss": (2.5,)}


def failures(document):
    """Where the numbers of laws, predictions and budgets are no numbers; an interval's end may be infinite."""
    found = []

    def look(value, path):
        if isinstance(value, dict):
            for key, item in value.items():
                if not key.endswith(("interval", "intervals", "flat_region")):
                    look(item, f"{path}.{key}")
        elif isinstance(value, list):
            for item in value:
                look(item, path)
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{path} is {value}")

    look(document, "")
    return found


def near(spread, *, curvature=0.05, budgets=(1e18, 1e19, 1e20, 1e21), noise=0.0, bottom=0.1):
    """Sizes within `spread` of each other, with the losses of a parabola over them."""
    columns = {"flops": [], "params": [], "tokens": [], "loss": []}
    draw = np.random.default_rng(5)
    for index, flops in enumerate(budgets):
        u = np.linspace(-1, 1, 7)
        params = 1e8 * 10 ** (0.5 * index) * np.exp(spread * u / 2)
        columns["flops"] += [flops] * 7
        columns["params"] += params.tolist()
        columns["tokens"] += (flops / 6 / params).tolist()
        columns["loss"] += (3 - 0.2 * index + curvature * (u - bottom) ** 2 + noise * draw.normal(size=7)).tolist()
    return columns


@pytest.mark.parametrize("spread", [1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 9e-3])
def test_sizes_that_hardly_differ_give_no_minimum(spread):
    found = result_of(near(spread), **ASKED)
    assert found.status == 1 and found.document["n_opt"] is None and found.document["predictions"] == []
    assert {row["params_opt"] for row in found.document["budgets"]} == {None} or spread > 2e-6
    expected = "too_few_sizes" if spread < 5e-6 else "sizes_alike"
    assert [code for code in codes(found) if code != "repeated_sizes"] == [expected] * 4 + ["too_few_budgets"]
    assert failures(found.document) == []


def test_sizes_that_differ_by_more_than_a_hundredth_are_fitted():
    found = result_of(near(0.02), **ASKED)
    assert found.status == 3 and codes(found) == ["unreachable_loss"]
    assert found.document["n_opt"]["exponent"] == pytest.approx(0.5, rel=1e-9)
    assert failures(found.document) == []


@pytest.mark.parametrize("noise", [0.0, 1e-14, 1e-10, 1e-9])
def test_losses_that_hardly_differ_have_no_minimum(noise):
    found = result_of(near(1.0, curvature=0.0, noise=noise), **ASKED)
    assert codes(found) == ["losses_alike"] * 4 + ["too_few_budgets"] and found.document["n_opt"] is None
    assert result_of(near(1.0, curvature=1e-6), **ASKED).document["n_opt"] is not None


def test_budgets_that_hardly_differ_give_no_law():
    columns = study(budgets=(1e18, 1.0005e18, 1.001e18, 1.002e18))
    columns["budget"] = columns["flops"]
    found = result_of(columns, **ASKED)
    assert (codes(found), found.status) == (["budgets_alike"], 1)
    assert found.document["n_opt"] is None and failures(found.document) == []


def test_minima_that_follow_no_power_are_no_law():
    """A step of 2% in compute over which the best size grows a thousandfold: C^1000."""
    columns = study(budgets=(1e18, 1.01e18, 1.02e18), noise=0)
    for index in range(3):
        columns["params"][7 * index : 7 * index + 7] = [1e5 * 1e5**index * math.exp(u) for u in np.linspace(-1, 1, 7)]
        columns["loss"][7 * index : 7 * index + 7] = [
            3 - 0.1 * index + 0.05 * (u - 0.1) ** 2 for u in np.linspace(-1, 1, 7)
        ]
    columns["budget"] = columns["flops"]
    del columns["tokens"]
    found = result_of(columns, **ASKED)
    assert codes(found)[-1] == "no_law" and found.status == 1 and failures(found.document) == []
    assert "C^" in found.findings[-1].reason


def test_a_curvature_that_vanishes_with_compute_is_a_flat_region_without_end():
    """Of budgets a decade apart whose curvature falls tenfold, asked 600 decades on."""
    columns = study(budgets=(1e18, 1e19, 1e20, 1e21))
    for index in range(4):
        own = slice(7 * index, 7 * index + 7)
        at = np.log(columns["params"][own])
        columns["loss"][own] = (3 - 0.2 * index + 0.05 * 10.0 ** (-2 * index) * (at - at.mean() - 0.1) ** 2).tolist()
    found = result_of(columns, predict=(1e290,))
    (row,) = found.document["predictions"]
    assert row["flat_region"] == [0.0, math.inf] and failures(found.document) == []


def test_a_size_beyond_all_floats_is_told():
    columns = study(budgets=(1e18, 1e19, 1e20), exponent=1.5, coefficient=1e-19)
    found = result_of(columns, predict=(1e299,))
    assert found.document["predictions"] == [{"asked": "flops", "value": 1e299}]
    assert codes(found)[-1] == "unreachable_flops" and "no size for 1e+299 FLOPs" in found.findings[-1].reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {**c, "loss": [3.0] * 35}, "the losses of all runs are the same"),
        (lambda c: {**c, "loss": [3.0 + 1e-7 * (row % 3) for row in range(35)]}, "the losses of all runs are the same"),
        (lambda c: {**c, "params": [1e8 * (1 + 1e-4 * row) for row in range(35)]}, "the params of all runs differ by"),
        (lambda c: {**c, "params": [1e8 * (1 + 1e-12 * row) for row in range(35)]}, "1 distinct value of params"),
        (lambda c: {**c, "tokens": [1e10 * (1 + 1e-4 * row) for row in range(35)]}, "the tokens of all runs differ"),
    ],
)  # fmt: skip
def test_runs_that_are_alike_have_no_surface(change, words):
    found = result_of(change(study()), method="parametric", **ASKED)
    assert codes(found)[-1] == "no_surface" and words in found.findings[-1].reason
    assert (found.status, found.document["n_opt"], found.document["predictions"]) == (1, None, [])


def random_study(seed):
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    spread, step = (
        10 ** draw.choice([draw.uniform(-12, -2), draw.uniform(-2.5, 0)]),
        draw.choice([1.0, 1.0, 0.01, 1e-6]),
    )
    shape = draw.choice(["parabola", "parabola", "flat", "constant", "line", "surface"])
    columns = {"flops": [], "params": [], "tokens": [], "loss": [], "budget": []}
    for index in range(draw.choice([3, 4, 5])):
        flops, u = 10 ** (18 + step * index), np.linspace(-1, 1, draw.choice([4, 5, 7]))
        params = 1e8 * 10 ** (0.5 * index * draw.choice([0, 1, step])) * np.exp(spread * u)
        tokens = flops / 6 / params if draw.random() < 0.8 else np.full(len(u), 1e10)
        loss = {
            "parabola": 3 - 0.2 * index + 0.05 * (u - 0.1) ** 2,
            "flat": 3 + 1e-9 * u**2,
            "constant": np.full(len(u), 3.0),
            "line": 3 + spread * u,
            "surface": 1.8 + 480 / params**0.348 + 2080 / tokens**0.366,
        }[shape]
        loss = loss + draw.choice([0, 1e-12, 1e-6, 1e-3]) * noise.normal(size=len(u))
        for name, values in zip(columns, ([flops] * len(u), params, tokens, loss, [flops] * len(u)), strict=True):
            columns[name] += list(map(float, values))
    return columns


@pytest.mark.slow
@pytest.mark.parametrize("method", ["quadratic", "parametric"])
def test_no_study_gives_a_number_that_is_none(method):
    statuses = {0: 0, 1: 0, 3: 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(150 if method == "quadratic" else 60):
            interval = ("delta", "residual", "case")[seed % 3]
            found = result_of(random_study(seed), method=method, interval=interval, starts=5, **ASKED)
            assert failures(found.document) == [], f"study {seed}"
            assert (found.status == 1) == (found.document["n_opt"] is None), f"study {seed}"
            statuses[found.status] += 1
    assert statuses[1] >= 10 and statuses[0] + statuses[3] >= 2, statuses


# --- what a refusal advises --------------------------------------------------------------------------------------------


def scattered(runs, tied=False):
    """Runs of no budgets: every one has a size and a number of tokens of its own."""
    draw = np.random.default_rng(1)
    params = 10 ** draw.uniform(7.5, 9.5, runs)
    tokens = 20 * params if tied else 10 ** draw.uniform(9, 11, runs)
    loss = 1.8 + 480 / params**0.348 + 2080 / tokens**0.366
    return {"params": params.tolist(), "tokens": tokens.tolist(), "loss": loss.tolist()}


def test_runs_without_budgets_are_sent_to_the_surface_which_fits_them():
    found = result_of(scattered(40))
    assert codes(found) == ["too_few_sizes", "too_few_budgets"]  # one sentence for all budgets of one run
    assert "budgets were left out, such as this: budget" in found.findings[0].reason
    assert found.findings[1].reason.endswith("or fit the surface, which needs no budgets: --method parametric")
    surface = result_of(scattered(40), method="parametric")
    assert surface.status == 0 and surface.document["parametric"]["alpha"] == pytest.approx(0.348, rel=1e-3)


@pytest.mark.parametrize("columns", [scattered(5), scattered(40, tied=True), near(1e-9)], ids=["few", "tied", "alike"])
def test_runs_that_hold_no_surface_are_not_sent_there(columns):
    found = result_of(columns)
    assert codes(found)[-1] == "too_few_budgets" and "parametric" not in found.findings[-1].reason
