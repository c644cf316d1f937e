"""The shape that all budgets share: against scipy's least squares, against parabolas, its tests and its refusals."""

import json

import numpy as np
import pytest
from isoflop_data import csv_text, fit_of, result_of, study, surface_study
from scipy.optimize import least_squares

from analyses.scaling.isoflop import fit_power_law
from analyses.scaling.laws import CHINCHILLA, Surface
from analyses.scaling.options import Options
from analyses.scaling.shaped import shaped_budgets
from analyses.scaling.shared_shape import SharedShape, fit_shared_shape
from hunyuan_cli.main import run
from model.errors import HunyuanError


@pytest.fixture(scope="module")
def usable():
    return fit_of(surface_study(decades=0.8, noise=3e-3, seed=4), keep_outliers=True).usable


@pytest.fixture(scope="module")
def shape(usable):
    found = fit_shared_shape(usable)
    assert isinstance(found, SharedShape)
    return found


def said(document):
    return {warning["code"] for warning in document["warnings"]}


def law_of(usable):
    return fit_power_law(shaped_budgets(usable, fit_shared_shape(usable)), "params")


def residuals(theta, usable):
    own, (k3, k4) = theta[:-2].reshape(-1, 3), theta[-2:]
    found = []
    for budget, (least, minimum, curvature) in zip(usable, own, strict=True):
        u = np.log(budget.runs.params) - minimum
        found.append(least + curvature * (u**2 + k3 * u**3 + k4 * u**4) - budget.runs.loss)
    return np.concatenate(found)


def theta_of(shape):
    own = np.stack([shape.least, shape.minima, shape.curvature], axis=1)
    return np.append(own.ravel(), [shape.k3, shape.k4])


def test_the_fit_and_its_covariance_are_those_of_least_squares(usable, shape):
    start = np.append([[budget.loss, budget.y, budget.curvature] for budget in usable], [0, 0])
    found = least_squares(residuals, start, args=(usable,), x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert theta_of(shape) == pytest.approx(found.x, rel=1e-4, abs=1e-5)
    assert shape.noise_variance == pytest.approx(2 * found.cost / shape.degrees, rel=1e-8)
    assert shape.degrees == 45 - 17
    effects = np.concatenate([shape.errors.reshape(15, -1), shape.shared_errors])
    jacobian = least_squares(residuals, theta_of(shape), jac="3-point", args=(usable,), max_nfev=1).jac
    assert effects @ effects.T == pytest.approx(np.linalg.inv(jacobian.T @ jacobian), rel=1e-3, abs=1e-3)


def test_a_law_is_the_line_through_the_minima_with_the_error_of_a_simulation(usable, shape):
    law = law_of(usable)
    x = np.log([budget.flops for budget in usable])
    assert law.exponent == pytest.approx(np.polyfit(x, shape.minima, 1)[0])
    exponents = []
    for seed in range(150):
        exponents.append(law_of(fit_of(surface_study(decades=0.8, noise=3e-3, seed=seed)).usable).exponent)
    assert np.std(exponents) == pytest.approx(np.sqrt(law.covariance[1, 1]), rel=0.25)


def test_minima_of_a_surface_are_not_biased():
    """Without noise, on a surface of unequal exponents and sizes that drift away: parabolas are off, the shape is not."""
    surface = Surface(1.8, 4000.0, 400.0, 0.45, 0.27)
    flops = np.repeat(np.geomspace(1e18, 1e21, 6), 9)
    drift = 0.08 * np.repeat(np.arange(6), 9) + np.tile(np.linspace(-0.7, 0.7, 9), 6)
    params = surface.laws()[0](1.0) * flops ** surface.exponents[0] * 10**drift
    loss = surface.loss(params, flops / 6 / params)
    columns = {"flops": flops.tolist(), "params": params.tolist(), "loss": loss.tolist()}
    plain = fit_of(columns, keep_outliers=True)
    found = law_of(plain.usable)
    true = surface.exponents[0]
    assert abs(found.exponent - true) < 1e-3 < 4e-3 < abs(plain.params_law.exponent - true)


def test_the_document_has_the_shape_and_the_parabolas_beside_it():
    columns = surface_study(decades=0.7, noise=2e-3, seed=2)
    plain = result_of(columns, predict=(1e23,), shape="parabola").document
    found = result_of(columns, predict=(1e23,)).document
    assert plain.keys() < found.keys() and found.keys() - plain.keys() == {"shape", "parabola"}
    for name in ("n_opt", "d_opt", "budgets", "predictions"):
        assert found["parabola"][name] == plain[name] and found[name] != plain[name]
    assert [row.keys() for row in found["budgets"]] == [row.keys() for row in plain["budgets"]]
    assert result_of(columns, predict=(1e23,), shape="shared").document == found
    assert found["n_opt"]["exponent"] != plain["n_opt"]["exponent"]
    row = found["predictions"][0]
    params, tokens = CHINCHILLA.laws()[0](1e23), CHINCHILLA.laws()[1](1e23)
    for name, true in (("params", params), ("tokens", tokens), ("loss", CHINCHILLA.loss(params, tokens))):
        low, high = row[f"{name}_interval"]
        assert low < row[f"{name}_opt"] < high and low < true < high
    low, high = found["shape"]["k4_interval"]
    assert low < found["shape"]["k4"] < high and not said(found) & {"shape_misfit", "shape_fallback"}


def test_a_misfit_is_told():
    """Sizes so wide that a surface shows its sixth power."""
    document = result_of(surface_study(decades=2, noise=2e-4), keep_outliers=True).document
    assert "shape_misfit" in said(document)
    assert document["shape"]["misfit_p"] == document["tests"]["shape_misfit_p"] < 0.01
    assert not said(document) & {"lack_of_fit", "shape_fallback"}


@pytest.mark.parametrize(
    ("columns", "why"), [(study(noise=1e-3, sizes=4), "20 runs"), (study(noise=1e-3, sizes=3, replicates=4), "")]
)
def test_too_few_runs_or_sizes_fall_back_to_parabolas(columns, why):
    found = result_of(columns).document
    plain = result_of(columns, shape="parabola").document
    assert found["n_opt"] == plain["n_opt"] and "shape" not in found
    if why:
        (reason,) = [one["reason"] for one in found["warnings"] if one["code"] == "shape_fallback"]
        assert why in reason and "parabolas instead" in reason


def test_options_that_do_not_go_with_it():
    for wrong in ({"interval": "case"}, {"method": "parametric"}):
        with pytest.raises(HunyuanError, match="shared shape"):
            Options(shape="shared", **wrong)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    path.write_text(csv_text(surface_study(decades=0.7, noise=2e-3, seed=2)))
    line = ["scale-fit", str(path), "--predict", "1e23"]
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("N_opt, shared shape", "N_opt, parabolas", "loss interval", "u^4"))
    assert run([*line, "--format", "json"]) == 0
    assert "k3" in json.loads(capsys.readouterr().out)["shape"]
    assert run([*line, "--interval", "case", "--shape", "shared"]) == 2
    assert "--shape shared" in capsys.readouterr().err
    assert run([*line, "--interval", "case", "--format", "json"]) == 0
    shown, told = capsys.readouterr()
    assert "shape" not in json.loads(shown) and "[shape_fallback]: parabolas instead of a shape" in told
    assert run([*line, "--shape", "parabola", "--format", "json"]) == 0
    shown, told = capsys.readouterr()
    assert "shape" not in json.loads(shown) and not told
