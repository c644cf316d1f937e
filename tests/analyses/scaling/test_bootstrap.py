"""The vectorised bootstraps against slow loops with the same draws."""

import numpy as np
import pytest
from isoflop_data import fit_of, result_of, shuffled, study

from analyses.scaling.bootstrap import case_bootstrap, percentiles, residual_bootstrap
from analyses.scaling.cost import parse_cost
from analyses.scaling.parabola import CMin

RESAMPLES = 40


def places(budget, log_params, loss):
    """x, y, z and the least loss by np.polyfit; NaN where the parabola opens downward."""
    center = budget.design.log_params.mean()
    a, b, c = np.polyfit(log_params - center, loss, 2)
    if a <= 0:
        return np.full(4, np.nan)
    y, least = center - b / (2 * a), c - b * b / (4 * a)
    x = np.log(budget.flops)
    if budget.c_min is not None:
        x -= np.log1p(budget.batch_tokens / budget.c_min.b_star * least ** (1 / budget.c_min.alpha_b))
    z = x - np.log(budget.cost.k1 * np.exp(y) + budget.cost.k2)
    return np.array([x, y, z, least])


def compare(draws, expected):
    found = np.stack([draws.x, draws.y, draws.z, draws.loss], axis=-1)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)


@pytest.fixture(params=["C", "C_min"])
def fit(request):
    columns = study(noise=1e-2, seed=6, budgets=(1e18, 1e19, 1e20), sizes=6, replicates=2, skew=1.5)
    columns["batch_tokens"] = [1e6] * len(columns["loss"])
    correction = CMin() if request.param == "C_min" else None
    return fit_of(columns, cost=parse_cost("9.59,2.3e8" if correction else "6nd"), c_min=correction)


def test_residual_bootstrap_is_a_loop_over_resamples(fit):
    pool = []
    for budget in fit.usable:
        x = np.vander(budget.design.log_params - budget.design.log_params.mean(), 3)
        hat = x @ np.linalg.inv(x.T @ x) @ x.T
        pool.append((budget.runs.loss - hat @ budget.runs.loss) / np.sqrt(1 - np.diag(hat)))
    pool = np.concatenate(pool)
    pool -= pool.mean()
    generator, expected = np.random.default_rng(5), []
    for budget in fit.usable:
        fitted = budget.runs.loss - budget.residuals
        drawn = generator.integers(0, len(pool), (RESAMPLES, len(budget.runs)), dtype=np.int32)
        expected.append([places(budget, budget.design.log_params, fitted + pool[row]) for row in drawn])
    compare(residual_bootstrap(fit.usable, RESAMPLES, np.random.default_rng(5)), np.swapaxes(expected, 0, 1))


def test_case_bootstrap_is_a_fit_of_the_drawn_rows():
    """Few sizes, so that some draws have fewer than three and are drawn again."""
    found = fit_of(study(noise=1e-2, seed=6, budgets=(1e18, 1e19, 1e20), sizes=4), cost=parse_cost("6nd"))
    generator, expected, again = np.random.default_rng(5), [], 0
    for budget in found.usable:
        drawn = generator.integers(0, 4, (RESAMPLES, 4), dtype=np.int32)
        while True:
            flat = [index for index, row in enumerate(drawn) if len(set(row.tolist())) < 3]
            if not flat:
                break
            again += len(flat)
            drawn[flat] = generator.integers(0, 4, (len(flat), 4), dtype=np.int32)
        expected.append([places(budget, budget.design.log_params[row], budget.runs.loss[row]) for row in drawn])
    assert again > 10
    compare(case_bootstrap(found.usable, RESAMPLES, np.random.default_rng(5)), np.swapaxes(expected, 0, 1))


def test_case_bootstrap_with_replicates(fit):
    generator, expected = np.random.default_rng(1), []
    for budget in fit.usable:
        drawn = generator.integers(0, 12, (RESAMPLES, 12), dtype=np.int32)
        assert all(len(set(budget.runs.params[row].tolist())) >= 3 for row in drawn)
        expected.append([places(budget, budget.design.log_params[row], budget.runs.loss[row]) for row in drawn])
    compare(case_bootstrap(fit.usable, RESAMPLES, np.random.default_rng(1)), np.swapaxes(expected, 0, 1))


def test_the_law_of_every_resample_is_that_of_polyfit(fit):
    draws = residual_bootstrap(fit.usable, RESAMPLES, np.random.default_rng(2))
    for of, logs in (("params", draws.y), ("tokens", draws.z)):
        whole = np.isfinite(draws.x).all(axis=1) & np.isfinite(logs).all(axis=1)
        exponent, level, mean = draws.law(of)
        for row, x, y in zip(range(whole.sum()), draws.x[whole], logs[whole], strict=True):
            slope, intercept = np.polyfit(x - x.mean(), y, 1)
            assert (exponent[row], level[row]) == (pytest.approx(slope), pytest.approx(intercept))
            assert mean[row] == pytest.approx(x.mean())


def test_the_spread_is_about_that_of_the_delta_method():
    found = fit_of(study(noise=2e-3, seed=1, sizes=15))
    error = np.sqrt(found.params_law.covariance[1, 1])
    for bootstrap in (residual_bootstrap, case_bootstrap):
        exponent = bootstrap(found.usable, 2000, np.random.default_rng(0)).law("params")[0]
        assert 0.75 * error < exponent.std() < 1.35 * error
        assert abs(exponent.mean() - found.params_law.exponent) < 0.2 * error


def test_resamples_that_open_downward_have_no_minimum():
    found = fit_of(study(noise=4e-2, seed=3, sizes=12))
    draws = case_bootstrap(found.usable, 500, np.random.default_rng(0))
    missing = np.isnan(draws.y).any(axis=1)
    assert 0 < missing.mean() == draws.without_minimum < 0.9
    assert len(draws.law("params")[0]) == (~missing).sum()


def test_percentiles_are_central_and_need_twenty():
    assert percentiles(np.arange(1001.0), 0.9) == pytest.approx([50.0, 950.0])
    assert np.isnan(percentiles(np.arange(19.0), 0.9)).all()


def test_a_seed_decides_and_the_order_of_rows_does_not():
    columns = study(noise=1e-3)

    def intervals(columns, seed):
        document = result_of(columns, seed=seed, interval="case", predict=(1e23,)).document
        return document["n_opt"]["intervals"], document["predictions"], document["budgets"]

    assert intervals(columns, 1) == intervals(shuffled(columns, 3), 1) != intervals(columns, 2)


def test_the_chosen_interval_stands_first():
    columns = study(noise=1e-3)
    for name in ("delta", "residual", "case"):
        law = result_of(columns, interval=name).document["d_opt"]
        assert law["exponent_interval"] == law["intervals"][name]["exponent"]
        assert law["coefficient_interval"] == law["intervals"][name]["coefficient"]
        for interval in law["intervals"].values():
            assert interval["exponent"][0] < law["exponent"] < interval["exponent"][1]
            assert interval["coefficient"][0] < law["coefficient"] < interval["coefficient"][1]


def test_what_is_drawn_together_changes_no_bit(fit, monkeypatch):
    whole = [way(fit.usable, 500, np.random.default_rng(3)) for way in (residual_bootstrap, case_bootstrap)]
    monkeypatch.setattr("analyses.scaling.bootstrap.DRAWN_TOGETHER", 100)
    parts = [way(fit.usable, 500, np.random.default_rng(3)) for way in (residual_bootstrap, case_bootstrap)]
    for one, other in zip(whole, parts, strict=True):
        assert all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in vars(one))
