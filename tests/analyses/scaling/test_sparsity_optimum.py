"""Optima of the law of sparsity against closed forms, against brute force, and against Sardana et al.'s own problem."""

import math

import numpy as np
import pytest
from mixture_data import LAW, loss_of, mixtures, said, study_of
from scipy.optimize import minimize_scalar

from analyses.scaling.budgeting import Budget, best_size, least_budget
from analyses.scaling.laws import Surface
from analyses.scaling.sparsity.optimum import Limits, best_ratio, optimum
from analyses.scaling.sparsity.surface import Form
from analyses.scaling.surface import optimum as plain_optimum

E, A, B, ALPHA, BETA, GAMMA = LAW.values()
COST = (9.59, 2.3e8)


@pytest.fixture(scope="module")
def exact():
    """The document of a study without noise, asked under limits."""

    def ask(**options):
        study = study_of(mixtures(), **options)
        return study, study.document["predictions"]

    return ask


def test_without_a_limit_the_optimum_is_the_closed_form_at_the_sparsest_ratio(exact):
    study, (row,) = exact(predict=(1e22,))
    params, tokens = plain_optimum(Surface(E, A / 16**GAMMA, B, ALPHA, BETA), 1e22, (6.0, 0.0))
    assert (row["params_opt"], row["tokens_opt"]) == (pytest.approx(params, rel=1e-6), pytest.approx(tokens, rel=1e-6))
    assert row["total_params_opt"] == pytest.approx(16 * params, rel=1e-6) and row["bound"] == "sparsest_run"
    assert row["loss_opt"] == pytest.approx(loss_of(params, 16, tokens), rel=1e-12)
    assert row["training_flops"] == 1e22 and row["serving_flops"] == 0
    assert "sparsest_run" in said(study) and study.status == 0
    law = study.document["n_opt"]
    assert law["exponent"] == pytest.approx(BETA / (ALPHA + BETA), abs=1e-7)
    assert law["coefficient"] * 1e22 ** law["exponent"] == pytest.approx(params, rel=1e-5)
    assert study.document["d_opt"]["exponent"] == pytest.approx(ALPHA / (ALPHA + BETA), abs=1e-7)


def test_a_memory_that_binds_makes_the_law_one_in_activated_parameters_alone(exact):
    memory = 1.5e10
    study, (row,) = exact(predict=(1e22,), memory=memory)
    params, tokens = plain_optimum(Surface(E, A / memory**GAMMA, B, ALPHA - GAMMA, BETA), 1e22, (6.0, 0.0))
    assert 1 < memory / params < 16
    assert (row["params_opt"], row["tokens_opt"]) == (pytest.approx(params, rel=1e-6), pytest.approx(tokens, rel=1e-6))
    assert row["total_params_opt"] == pytest.approx(memory, rel=1e-9) and row["bound"] == "memory"
    assert "sparsest_run" not in said(study)


@pytest.mark.parametrize(("memory", "bound"), [(2e8, "memory"), (5e12, "sparsest_run")])
def test_a_small_memory_is_filled_by_a_dense_model_and_a_large_one_changes_nothing(memory, bound, exact):
    _, (row,) = exact(predict=(1e22,), memory=memory)
    _, (free,) = exact(predict=(1e22,))
    assert row["bound"] == bound
    if bound == "memory":
        assert row["ratio_opt"] == pytest.approx(1) and row["params_opt"] == pytest.approx(memory, rel=1e-6)
    else:
        assert row["params_opt"] == pytest.approx(free["params_opt"], rel=1e-7)


def test_served_tokens_are_sardana_s_problem_read_the_other_way_round(exact):
    """The least 6 N D + 2 N T for a loss (arXiv:2401.00448, equation 3) is the budget at which that loss is the best."""
    served = 3e12
    _, rows = exact(predict=(1e22,), predict_loss=(2.05,), served_tokens=served)
    a = A / 16**GAMMA

    def total(log_params, loss):
        params = math.exp(log_params)
        room = loss - E - a / params**ALPHA
        return 1e300 if room <= 0 else params * (6 * (B / room) ** (1 / BETA) + 2 * served)

    for row, loss in zip(rows, (rows[0]["loss_opt"], 2.05), strict=True):
        best = minimize_scalar(total, bounds=(15, 30), args=(loss,), method="bounded", options={"xatol": 1e-9})
        assert row["flops"] == pytest.approx(best.fun, rel=1e-7)
        assert row["params_opt"] == pytest.approx(math.exp(best.x), rel=1e-4)
        assert row["serving_flops"] == pytest.approx(2 * row["params_opt"] * served, rel=1e-9)
        assert row["training_flops"] == pytest.approx(6 * row["params_opt"] * row["tokens_opt"], rel=1e-6)
    _, (free,) = exact(predict=(1e22,))
    assert rows[0]["params_opt"] < free["params_opt"] and rows[0]["loss_opt"] > free["loss_opt"]
    low, high = rows[1]["flops_interval"]
    assert low == pytest.approx(rows[1]["flops"], rel=1e-3) and high == pytest.approx(rows[1]["flops"], rel=1e-3)


@pytest.mark.parametrize("memory", [None, 3e9])
@pytest.mark.parametrize("served", [0.0, 1e12])
@pytest.mark.parametrize("more", [{}, {"chi": 0.005, "omega": -0.12, "zeta": 0.002}])
def test_the_optimum_is_that_of_brute_force(memory, served, more):
    form = Form((20.0, 1.5, 23.0), (), bool(more))
    theta = np.array([[math.log(E), math.log(A) - ALPHA * 20 - GAMMA * 1.5, math.log(B) - BETA * 23, ALPHA, BETA, GAMMA,
                       *more.values()]])  # fmt: skip
    limits = Limits(1.0, 64.0, memory)
    best = optimum(form, theta, Budget(1e21, *COST, served), limits)
    x, r = np.meshgrid(np.linspace(17, 24, 1401), np.linspace(0, math.log(64), 801), indexing="ij")
    tokens = 1e21 / (COST[0] * np.exp(x) + COST[1]) - served / 3
    with np.errstate(invalid="ignore"):
        loss = loss_of(np.exp(x), np.exp(r), tokens, LAW | more)
    loss[(tokens <= 0) | (x + r > math.log(memory or 1e300))] = np.inf
    place = np.unravel_index(loss.argmin(), loss.shape)
    assert float(best.loss[0]) <= loss.min() + 1e-12 and float(best.loss[0]) == pytest.approx(loss.min(), abs=2e-4)
    assert float(best.x[0]) == pytest.approx(x[place], abs=0.08) and float(best.r[0]) == pytest.approx(
        r[place], abs=0.05
    )


@pytest.mark.parametrize("omega", [0.05, -0.02, -0.06, -0.5])
def test_the_best_ratio_of_a_size_is_inside_where_sparsity_costs_tokens(omega):
    form, budget, limits = Form((20.0, 1.5, 23.0), (), True), Budget(1e21, 6.0), Limits(1.0, 64.0)
    theta = np.array([[math.log(E), math.log(A) - ALPHA * 20 - GAMMA * 1.5, math.log(B) - BETA * 23, ALPHA, BETA, GAMMA,
                       0.0, omega, 0.0]])  # fmt: skip
    x = np.array([[19.5, 20.5, 21.5]])
    r, y, loss = best_ratio(form, theta, budget, limits, x)
    ratios = np.exp(np.linspace(0, math.log(64), 4001))[:, None]
    tried = loss_of(np.exp(x), ratios, np.exp(y), LAW | {"omega": omega})
    assert loss[0] == pytest.approx(tried.min(axis=0), abs=1e-7)
    assert np.exp(r[0]) == pytest.approx(ratios[tried.argmin(axis=0), 0], rel=3e-3)
    inside = (r[0] > 0.01) & (r[0] < math.log(64) - 0.01)
    assert inside.any() == (omega == -0.5)


def test_a_budget_that_serving_takes_has_no_size(exact):
    study, rows = exact(predict=(1e10,), predict_loss=(1.7,), served_tokens=1e12)
    assert rows == [] and {"unreachable_flops", "unreachable_loss"} <= said(study)


def test_the_search_finds_minima_inside_and_at_ends():
    centers = np.array([-1.0, 0.123456789, 2.0])
    found = best_size(lambda x: (x - centers[:, None]) ** 2, 0.0, 1.0, 3)
    assert found == pytest.approx([0, 0.123456789, 1], abs=1e-7)
    assert least_budget(lambda log: 10 - log if log > 1 else None, 4.0) == pytest.approx(math.exp(6))
    assert least_budget(lambda log: 5.0, 4.0) is None


def test_intervals_hold_the_estimate_and_widen_beyond_the_runs():
    study = study_of(mixtures(noise=3e-3, seed=1), predict=(1e21, 1e24), resamples=200)
    near, far = study.document["predictions"]
    for row in (near, far):
        for name in ("params", "tokens", "loss"):
            low, high = row[f"{name}_interval"]
            assert low <= row[f"{name}_opt"] <= high
    width = [math.log(row["params_interval"][1] / row["params_interval"][0]) for row in (near, far)]
    assert width[1] > width[0] and "extrapolation" in said(study)
