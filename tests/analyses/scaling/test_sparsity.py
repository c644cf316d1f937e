"""The law of sparsity: known truths found again, its intervals, its doubts and its refusals."""

import json

import numpy as np
import pytest
from mixture_data import LAW, loss_of, mixtures, said, study_of
from scipy.optimize import least_squares

from analyses.scaling.robust import robust_fit
from analyses.scaling.sparsity.surface import Form, Variables, sum_of_powers
from model.errors import DataError, HunyuanError

EXPONENTS = ("alpha", "beta", "gamma")


def law_of(study):
    return study.document["sparsity"]


@pytest.mark.parametrize("ratios", [(1, 4, 16), (2, 64), (1, 1.5, 3, 40)])
def test_a_law_without_noise_is_found(ratios):
    study = study_of(mixtures(ratios=ratios))
    for name, value in LAW.items():
        assert law_of(study)[name] == pytest.approx(value, rel=1e-6)
    assert study.status == 0 and law_of(study)["noise_sd"] < 1e-9
    assert law_of(study)["ratios"] == pytest.approx([min(ratios), max(ratios)])


def test_experts_stand_for_the_ratio_where_there_is_no_total():
    columns = mixtures()
    columns["num_experts"] = [
        round(t / n) for t, n in zip(columns.pop("total_params"), columns["activated_params"], strict=True)
    ]
    study = study_of(columns, predict=(1e22,))
    assert law_of(study)["gamma"] == pytest.approx(LAW["gamma"], abs=1e-6)
    assert law_of(study)["R"] == "number of experts"
    (row,) = study.document["predictions"]
    assert row["experts_opt"] == pytest.approx(16) and "total_params_opt" not in row
    with pytest.raises(HunyuanError, match="needs a column total_params"):
        study_of(columns, memory=1e9)


def test_granularity_and_shared_experts_count_where_they_vary():
    law = LAW | {"kappa": 0.04, "sigma": 0.02}
    study = study_of(mixtures(law=law, covariates=True))
    for name in (*EXPONENTS, "kappa", "sigma"):
        assert law_of(study)[name] == pytest.approx(law[name], abs=1e-6)
    same = mixtures(covariates=True)
    same["granularity"], same["num_shared_expert"] = [2.0] * len(same["loss"]), [1.0] * len(same["loss"])
    same["loss"] = [float(loss_of(n, t / n, d)) for n, t, d in
                    zip(same["activated_params"], same["total_params"], same["tokens"], strict=True)]  # fmt: skip
    assert "kappa" not in law_of(study_of(same)) and "sigma" not in law_of(study_of(same))


INTERACTING = LAW | {"chi": 0.006, "omega": 0.01, "zeta": -0.004}


def test_an_interaction_without_noise_is_found_at_the_runs_centre():
    study = study_of(mixtures(law=INTERACTING, ratios=(1, 4, 16, 64)), interaction=True)
    centre = law_of(study)["centre"]
    x, r, y = np.log(centre["params"]) - 20, np.log(centre["ratio"]) - 1.5, np.log(centre["tokens"]) - 23
    expected = {name: INTERACTING[name] for name in ("chi", "omega", "zeta", "E")} | {
        "alpha": INTERACTING["alpha"] + INTERACTING["chi"] * r,
        "gamma": INTERACTING["gamma"] + INTERACTING["chi"] * x,
        "beta": INTERACTING["beta"] + INTERACTING["zeta"] * r,
        "omega": INTERACTING["omega"] + INTERACTING["zeta"] * y,
    }
    for name, value in expected.items():
        assert law_of(study)[name] == pytest.approx(value, abs=1e-6), name


def test_an_interaction_that_is_left_out_is_told_and_none_is_found_where_there_is_none():
    told = study_of(mixtures(law=INTERACTING, ratios=(1, 4, 16, 64), noise=5e-4, seed=1))
    assert "sparsity_misfit" in said(told) and told.status == 3 and law_of(told)["misfit_p"] < 1e-3
    p = [law_of(study_of(mixtures(noise=2e-3, seed=seed)))["misfit_p"] for seed in range(8)]
    assert 0.2 < np.mean(p) < 0.8 and sum(value < 0.05 for value in p) <= 2


def test_the_robust_fit_is_scipy_s():
    columns = {name: np.array(values) for name, values in mixtures(noise=3e-3, seed=2).items()}
    ratio = columns["total_params"] / columns["activated_params"]
    variables = Variables(np.log(columns["activated_params"]), np.log(ratio), np.log(columns["tokens"]))
    form, target = Form.of(variables, (), False), np.log(columns["loss"])
    target[5] += 0.3  # one run that went wrong
    model = sum_of_powers(form.design(variables))
    start = form.theta(np.array(list(LAW.values())))
    fit = robust_fit(model, target, start[None])
    peer = least_squares(lambda theta: model(theta[None])[0][0] - target, start, loss="huber", f_scale=fit.delta,
                         x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15)  # fmt: skip
    assert fit.theta == pytest.approx(peer.x, abs=2e-5)
    assert fit.theta[3:] == pytest.approx([0.35, 0.37, 0.1], abs=0.02)
    assert 1.5e-3 < fit.noise < 4.5e-3 and fit.leverage.sum() == pytest.approx(6)


def test_derivatives_are_those_of_small_steps():
    variables = Variables(*np.random.default_rng(0).normal(size=(3, 7)))
    form = Form.of(variables, (), True)
    model, theta = sum_of_powers(form.design(variables)), np.random.default_rng(1).normal(size=(2, 9))
    jacobian = model(theta)[1]
    for index in range(9):
        step = np.zeros(9)
        step[index] = 1e-6
        slope = (model(theta + step)[0] - model(theta - step)[0]) / 2e-6
        assert jacobian[:, :, index] == pytest.approx(slope, abs=1e-8)


def test_an_outlier_is_named_and_left_out_or_kept():
    columns = mixtures(noise=1e-3, seed=3)
    columns["loss"][10] += 0.2
    study, kept = study_of(columns), study_of(columns, keep_outliers=True)
    (outlier,) = [finding for finding in study.findings if finding.code == "outlier"]
    assert outlier.row == 11 and study.status == 3 and study.document["runs"]["used"] == 59
    assert kept.status == 0 and "kept, as asked" in kept.document["warnings"][0]["reason"]
    assert law_of(study)["alpha"] == pytest.approx(LAW["alpha"], abs=0.01)


@pytest.mark.slow
def test_intervals_cover_their_truth():
    """95% intervals of 40 sets; examples/scaling/sparsity_coverage.json has more."""
    covered = dict.fromkeys((*EXPONENTS, "n_opt", "params", "loss"), 0)
    truth = study_of(mixtures(), predict=(1e22,), memory=3e10).document
    for seed in range(40):
        found = study_of(
            mixtures(noise=4e-3, seed=seed), predict=(1e22,), memory=3e10, resamples=200, seed=seed
        ).document
        for name in EXPONENTS:
            low, high = found["sparsity"]["intervals"][name]
            covered[name] += low <= LAW[name] <= high
        low, high = found["n_opt"]["exponent_interval"]
        covered["n_opt"] += low <= truth["n_opt"]["exponent"] <= high
        for name in ("params", "loss"):
            low, high = found["predictions"][0][f"{name}_interval"]
            covered[name] += low <= truth["predictions"][0][f"{name}_opt"] <= high
    assert all(count >= 33 for count in covered.values()), covered  # 38 are expected, below 33 once in 300 times
    assert sum(covered.values()) < 6 * 40


def test_a_seed_gives_the_same_document_whatever_the_order_of_rows():
    columns = mixtures(noise=2e-3, seed=4)
    order = np.random.default_rng(0).permutation(len(columns["loss"]))
    other = {name: [values[i] for i in order] for name, values in columns.items()}
    first, second = (study_of(one, predict=(1e22,), seed=7).document for one in (columns, other))
    assert json.dumps(first, default=float) == json.dumps(second, default=float)
    assert first["predictions"] != study_of(columns, predict=(1e22,), seed=8).document["predictions"]


def test_seeds_of_a_mixture_are_no_rates_and_the_best_of_each_mixture_is_taken():
    columns = mixtures()
    twice = {name: values * 2 for name, values in columns.items()}
    twice["learning_rate"] = [1e-3] * 60 + [2e-3] * 60
    twice["loss"] = columns["loss"] + [loss * 1.01 for loss in columns["loss"]]
    best = study_of(twice, best_of=True)
    assert law_of(best)["gamma"] == pytest.approx(LAW["gamma"], abs=1e-6) and best.document["runs"]["not_best"] == 60
    assert "several_rates" in said(study_of(twice))
    assert "several_rates" not in said(study_of(columns | {"learning_rate": [1e-3, 2e-3, 3e-3] * 20}))


# --- refusals ---------------------------------------------------------------------------------------------------------


def tied():
    columns = mixtures()
    columns["total_params"] = [n * (n / 1e6) ** 0.5 for n in columns["activated_params"]]
    return columns


def first(count):
    return {name: values[:count] for name, values in mixtures().items()}


REFUSED = {
    "few runs": (first(8), {}, "8 runs cannot determine E, A, B, alpha, beta, gamma: give at least 9 runs"),
    "one ratio": (mixtures(ratios=(4,), sizes=7), {}, "the same ratio of total to activated parameters"),
    "one size": (mixtures() | {"activated_params": [1e8] * 60, "total_params": [1e8, 4e8] * 30}, {}, "1 distinct value"),
    "tied": (tied(), {}, "ratio of total to activated parameters and activated parameters go together"),
    "two ratios": (mixtures(ratios=(1, 8)), {"interaction": True}, "needs at least 3"),
    "rising": (mixtures() | {"loss": [6 - loss for loss in mixtures()["loss"]]}, {}, "the losses do not fall with"),
    "same": (mixtures() | {"loss": [3.0] * 60}, {}, "the losses of all runs are the same"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_determine_the_law_is_refused_in_a_sentence(name):
    columns, options, words = REFUSED[name]
    study = study_of(columns, predict=(1e22,), **options)
    assert study.status == 1 and study.document["n_opt"] is None and study.document["predictions"] == []
    (refusal,) = [finding for finding in study.findings if finding.code == "no_surface"]
    assert words in refusal.reason and "\n" not in refusal.reason


def without(*names):
    return {name: values for name, values in mixtures().items() if name not in names}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (without("total_params"), "neither total_params nor num_experts"),
        (without("activated_params"), "add a column activated_params"),
        (mixtures() | {"total_params": [1.0, *mixtures()["total_params"][1:]]}, "row 1 has 1 in 'total_params'"),
        (without("total_params") | {"num_experts": ["many"] * 60}, "row 1 has nan in 'num_experts'"),
    ],
)
def test_columns_that_are_missing_or_wrong_are_named(columns, words):
    with pytest.raises(DataError, match=words):
        study_of(columns)


def test_what_is_not_told_from_nothing_and_what_two_ratios_leave_open_is_told():
    flat = study_of(mixtures(law=LAW | {"gamma": 0.0}, noise=3e-3, seed=5, ratios=(1, 2)))
    assert {"no_gain", "two_ratios"} <= said(flat)
    assert not {"no_gain", "two_ratios"} & said(study_of(mixtures(noise=3e-3)))
