"""The default interval of each budget's N_opt and D_opt, against numpy's polynomials and the delta method."""

import numpy as np
import pytest
from isoflop_data import result_of, study
from scipy import stats

from analyses.scaling import fit as fit_module

# Leaves an interval for noise alone, which has a textbook answer.
NO_CORRECTION = {"CORRECTED_SHARE": 0.0, "UNCERTAIN_SHARE": 0.0}


@pytest.mark.parametrize("confidence", [0.95, 0.68])
def test_the_interval_of_a_budget_is_that_of_the_minimum_of_its_parabola(monkeypatch, confidence):
    for name, value in NO_CORRECTION.items():
        monkeypatch.setattr(fit_module, name, value)
    columns = study(noise=1e-3, seed=3)
    log_n, loss = np.log(columns["params"]).reshape(5, 7), np.reshape(columns["loss"], (5, 7))
    parabolas = [np.polyfit(x - x.mean(), y, 2) for x, y in zip(log_n, loss, strict=True)]
    left = sum(((y - np.polyval(p, x - x.mean())) ** 2).sum() for p, x, y in zip(parabolas, log_n, loss, strict=True))
    degrees = 5 * (7 - 3)  # the noise is that of all budgets together
    t = stats.t.ppf((1 + confidence) / 2, degrees)
    document = result_of(columns, shape="parabola", confidence=confidence).document
    for budget, p, x in zip(document["budgets"], parabolas, log_n, strict=True):
        u = x - x.mean()
        covariance = left / degrees * np.linalg.inv(np.vander(u, 3).T @ np.vander(u, 3))
        gradient = np.array([p[1] / (2 * p[0] ** 2), -1 / (2 * p[0]), 0.0])  # of the minimum, -p1 / (2 p0)
        half = t * np.sqrt(gradient @ covariance @ gradient)
        best = x.mean() - p[1] / (2 * p[0])
        assert np.log(budget["params_interval"]) == pytest.approx([best - half, best + half], abs=1e-6)
        tokens = np.log(budget["flops"] / 6) - best  # 6 N D = C: as wide, the other way about
        assert np.log(budget["tokens_interval"]) == pytest.approx([tokens - half, tokens + half], abs=1e-6)


def test_sizes_to_one_side_move_and_widen_the_interval_by_the_bends_of_a_surface():
    """Without noise what is left is 0.75 +- t 0.6 times the effect of 2 c (cosh(r u) - 1) / r^2 in place of c u^2."""
    curvature, r = 0.05, 0.36
    columns = study(curvature=curvature, off_center=0.5)
    t = stats.t.ppf(0.975, 5 * (7 - 3))
    for index, budget in enumerate(result_of(columns, shape="parabola").document["budgets"]):
        u = 0.5 * (-1) ** index + np.linspace(-1, 1, 7)  # log N - the minimum
        more = np.polyfit(u, 2 * curvature * (np.cosh(r * u) - 1) / r**2 - curvature * u**2, 2)
        shift = -more[1] / (2 * curvature)  # of the minimum of c u^2, which is at 0
        assert abs(shift) > 1e-3
        best = np.log(0.1 * np.sqrt(budget["flops"]))
        half = t * 0.6 * abs(shift)
        expected = [best - 0.75 * shift - half, best - 0.75 * shift + half]
        assert np.log(budget["params_interval"]) == pytest.approx(expected, abs=1e-6)
