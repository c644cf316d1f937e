"""Scaling laws: the report's numbers, a published surface, and the documents of `hunyuan scale-fit`."""

import json
import math

import pytest

from analyses.scaling.laws import CHINCHILLA, LAWS, PowerLaw, read_law
from model.errors import HunyuanError

FIT = {
    "method": "quadratic",
    "budgets": [{"flops": 3e15}, {"flops": 1e15}, {"flops": 1e16}],
    "n_opt": {"coefficient": 0.01, "exponent": 0.52, "exponent_interval": [0.5, 0.54]},
    "d_opt": {"coefficient": 12.0, "exponent": 0.48, "exponent_interval": [0.46, 0.5]},
    "predictions": [],
    "warnings": [],
}


def test_the_report_s_law_at_its_budget():
    paper = LAWS["paper"]
    assert paper.n_opt(3.1e24) == pytest.approx(58.1e9, rel=0.005)
    assert paper.d_opt(3.1e24) == pytest.approx(5.6e12, rel=0.01)
    assert (paper.n_opt.coefficient, paper.n_opt.exponent) == (5.9e-3, 0.5305)
    assert (paper.d_opt.coefficient, paper.d_opt.exponent) == (3.2, 0.50)


def test_the_report_s_law_pays_for_its_optimum_at_its_budget():
    """9.59 N D + 2.3e8 D of its own optimum is its budget: the law is consistent there."""
    paper = LAWS["paper"]
    per_param, fixed = paper.cost
    assert (per_param * paper.n_opt(3.1e24) + fixed) * paper.d_opt(3.1e24) == pytest.approx(3.1e24, rel=0.02)


def test_a_power_law_and_its_inverse():
    law = PowerLaw(2.0, 0.5)
    assert law(16.0) == pytest.approx(8.0) and law.inverse(8.0) == pytest.approx(16.0)
    assert LAWS["paper"].n_opt.inverse(LAWS["paper"].n_opt(1e20)) == pytest.approx(1e20)


def test_a_power_law_stays_a_number():
    assert 0 < PowerLaw(1e-300, 50.0)(1e-200) < PowerLaw(1e290, 50.0)(1e299) < math.inf


def test_chinchilla_s_exponents_are_those_of_the_replication():
    """a = 0.5126 and b = 0.4874 (arXiv:2404.10102); Chinchilla itself had 70B and 1.4T for 5.76e23 (arXiv:2203.15556)."""
    law = LAWS["chinchilla"]
    assert (round(law.n_opt.exponent, 4), round(law.d_opt.exponent, 4)) == (0.5126, 0.4874)
    assert law.n_opt(5.76e23) == pytest.approx(70e9, rel=0.05)
    assert law.d_opt(5.76e23) == pytest.approx(1.4e12, rel=0.06)


@pytest.mark.parametrize("flops", [1e18, 1e21, 1e24])
def test_chinchilla_s_optimum_is_the_least_of_its_surface(flops):
    law = LAWS["chinchilla"]
    params, tokens = law.n_opt(flops), law.d_opt(flops)
    assert 6 * params * tokens == pytest.approx(flops)
    least = CHINCHILLA.loss(params, tokens)
    for factor in (0.5, 0.95, 1.05, 2.0):
        assert CHINCHILLA.loss(params * factor, tokens / factor) > least


def test_how_far_a_budget_lies_beyond_the_law():
    law = LAWS["chinchilla"]
    assert [law.beyond(flops) for flops in (6e18, 1e20, 3e21)] == [1.0, 1.0, 1.0]
    assert law.beyond(3e23) == pytest.approx(100) and law.beyond(6e15) == pytest.approx(1000)


def write(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_a_fitted_law_is_read(tmp_path):
    law = read_law(write(tmp_path / "law.json", FIT))
    assert (law.n_opt, law.d_opt) == (PowerLaw(0.01, 0.52), PowerLaw(12.0, 0.48))
    assert law.valid == (1e15, 1e16) and law.cost is None and "3 budgets" in law.source
    law = read_law(write(tmp_path / "law.json", FIT | {"cost": {"rule": "paper", "k1": 9.59, "k2": 2.3e8}}))
    assert law.cost == (9.59, 2.3e8) and "9.59 N" in law.of
    assert read_law(write(tmp_path / "law.json", FIT | {"cost": {"k1": 6.0, "k2": 0.0}})).cost == (6.0, 0.0)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not a JSON document"),
        ("[]", "no n_opt and d_opt"),
        ({"runs": []}, "no n_opt and d_opt"),
        (FIT | {"n_opt": None}, "has no n_opt, for the fit was refused"),
        (FIT | {"d_opt": None}, "has no d_opt, for the fit was refused"),
        (FIT | {"n_opt": {"coefficient": 1.0}}, "exponent of n_opt must be numbers above 0"),
        (FIT | {"n_opt": {"coefficient": -1.0, "exponent": 0.5}}, "of n_opt must be numbers above 0"),
        (FIT | {"d_opt": {"coefficient": math.nan, "exponent": 0.5}}, "of d_opt must be numbers above 0"),
        (FIT | {"d_opt": {"coefficient": 10**400, "exponent": 0.5}}, "of d_opt must be numbers above 0"),
        (FIT | {"d_opt": [1, 2]}, "of d_opt must be numbers above 0"),
        (FIT | {"budgets": []}, "names no budgets"),
        (FIT | {"budgets": [{"flops": 1e15}, {"flops": None}]}, "names no budgets"),
        (FIT | {"budgets": "none"}, "names no budgets"),
    ],
)
def test_what_is_no_law_is_refused(tmp_path, document, says):
    with pytest.raises(HunyuanError, match=says) as refused:
        read_law(write(tmp_path / "law.json", document))
    assert "law.json" in str(refused.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(HunyuanError, match="cannot be read: No such file"):
        read_law(tmp_path / "none.json")
