"""The surface's part of a study: its laws beside the parabolas', their bias on it, and answers from it."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from isoflop_data import CHINCHILLA, codes, result_of, runs_of, surface_study

from analyses.scaling.laws import Surface
from analyses.scaling.surface import bootstrap_parametric, fit_parametric, optimum
from analyses.scaling.surface_report import steadied

TRUE = Surface(**CHINCHILLA)
EXPONENT = TRUE.beta / (TRUE.alpha + TRUE.beta)


def part(result):
    return result.document["parametric"]


def test_a_surface_without_noise_is_found_and_its_law_is_the_closed_form():
    found = part(result_of(surface_study(decades=0.7), method="both", resamples=100))
    for name, value in CHINCHILLA.items():
        assert found[name] == pytest.approx(value, rel=1e-3)
    assert found["n_opt"]["exponent"] == pytest.approx(EXPONENT, abs=1e-6)
    assert found["d_opt"]["exponent"] == pytest.approx(1 - EXPONENT, abs=1e-6)
    assert found["n_opt"]["coefficient"] == pytest.approx(TRUE.laws()[0].coefficient, rel=1e-3)
    assert found["starts_agreeing_fraction"] >= 0.9


def test_the_bias_is_what_parabolas_make_of_the_surface_without_noise():
    quiet = result_of(surface_study(decades=0.7), method="both", resamples=100)
    bias = part(quiet)["parabolas_on_surface"]
    assert bias["exponent"] == pytest.approx(quiet.document["n_opt"]["exponent"], abs=1e-6)
    assert bias["bias"] == pytest.approx(quiet.document["n_opt"]["exponent"] - EXPONENT, abs=1e-6)


def test_either_method_gives_the_laws_of_the_document():
    columns = surface_study(decades=0.7, noise=2e-3, seed=1)
    both, alone = (result_of(columns, method=method, resamples=200) for method in ("both", "parametric"))
    plain = result_of(columns, resamples=200)
    assert both.document["n_opt"] == plain.document["n_opt"] and "parametric" not in plain.document
    assert alone.document["n_opt"] == part(alone)["n_opt"] == part(both)["n_opt"] != plain.document["n_opt"]
    low, high = alone.document["n_opt"]["exponent_interval"]
    assert low < alone.document["n_opt"]["exponent"] < high and low < EXPONENT < high


def test_answers_come_from_the_surface():
    asked = {"predict": (1e23,), "predict_params": (1e9,), "predict_loss": (2.2, 1.0)}
    result = result_of(surface_study(decades=0.7, noise=1e-4, seed=2), method="parametric", resamples=100, **asked)
    budget, size, loss = result.document["predictions"]
    params, tokens = (float(value) for value in optimum(TRUE, 1e23, (6, 0)))
    assert budget["params_opt"] == pytest.approx(params, rel=0.02)
    assert budget["tokens_opt"] == pytest.approx(tokens, rel=0.02)
    assert budget["params_interval"][0] < budget["params_opt"] < budget["params_interval"][1]
    low, high = budget["flat_region"]
    assert low < params < high and low == pytest.approx(params**2 / high, rel=0.2)
    assert size["params_opt"] == pytest.approx(1e9, rel=1e-6)
    assert loss["loss_opt"] == pytest.approx(2.2, rel=1e-9)
    assert "unreachable_loss" in codes(result)
    assert budget["extrapolation"] == pytest.approx(1e23 / max(row["flops"] for row in result.document["budgets"]))


def test_what_parabolas_and_surface_both_say_is_said_once():
    result = result_of(surface_study(decades=0.7, noise=1e-4, seed=2), method="both", resamples=100, predict=(1e27,))
    assert codes(result).count("extrapolation") == 1


def test_the_surface_stands_where_parabolas_give_no_law():
    columns = surface_study(decades=0.7, noise=1e-4, seed=3)
    best = {flops: float(optimum(TRUE, flops, (6, 0))[0]) for flops in set(columns["flops"])}
    keep = [i for i, flops in enumerate(columns["flops"]) if columns["params"][i] < 0.7 * best[flops]]
    small = {name: [values[i] for i in keep] for name, values in columns.items()}  # no minimum is inside its sizes
    assert result_of(small).document["n_opt"] is None
    alone = result_of(small, method="parametric", resamples=100)
    assert alone.document["n_opt"]["exponent"] == pytest.approx(EXPONENT, abs=0.03)
    assert alone.status == 0 and codes(alone) == []  # what only parabolas lack is not said of a surface


def test_too_few_runs_give_no_surface_and_say_so():
    columns = {name: values[:5] for name, values in surface_study(decades=0.7).items()}
    result = result_of(columns, method="parametric", resamples=100)
    assert part(result) is None and result.document["n_opt"] is None and result.status == 1
    assert "no_surface" in codes(result)


def test_least_absolute_deviations_shrug_off_an_outlier_that_is_kept():
    columns = surface_study(decades=0.7, noise=1e-5, seed=4)
    columns["loss"][10] *= 1.2
    lad = result_of(columns, method="parametric", lad=True, keep_outliers=True, resamples=100)
    assert lad.document["n_opt"]["exponent"] == pytest.approx(EXPONENT, abs=1e-3)
    assert math.isfinite(part(lad)["objective"])


def test_resamples_are_drawn_nearer_to_the_surface_where_residuals_count_by_their_size():
    """By 1 / (1 + 2 5 / n), in E, the exponents, and the logs of both terms at the runs' mean log N and log D."""
    runs = runs_of(surface_study(budgets=5, sizes=8, noise=5e-3))
    columns = runs.params, runs.tokens, runs.loss
    found = fit_parametric(*columns, generator=np.random.default_rng(0), lad=True)
    drawn = bootstrap_parametric(found, *columns, generator=np.random.default_rng(1), resamples=40, lad=True).surfaces
    near = steadied(drawn, found, runs, 0.0)
    share = 1 / (1 + 2 * np.mean(np.abs(found.residuals) > 0) * 5 / 40)

    def terms(surfaces):
        e, a, b, alpha, beta = np.atleast_2d(surfaces).T
        n, d = (np.exp(np.log(column).mean()) for column in columns[:2])
        return np.stack([e, np.log(a / n**alpha), np.log(b / d**beta), alpha, beta], axis=1)

    own = terms(astuple(found.surface))
    assert terms(near) - own == pytest.approx(share * (terms(drawn) - own), rel=1e-6, abs=1e-9) and share < 0.85
    assert steadied(drawn, found, runs, 1.0) == pytest.approx(drawn, rel=1e-9)
