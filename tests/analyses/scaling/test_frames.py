"""fit_laws, as a notebook calls it: the document of scale-fit, and the same numbers as tables."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from isoflop_data import study, surface_study, write_csv

from analyses.scaling import fit_laws
from analyses.scaling.laws import LAWS
from model.errors import HunyuanError

STUDY = study(noise=1e-3)


@pytest.fixture(scope="module")
def laws():
    return fit_laws(pd.DataFrame(STUDY), predict=1e22, resamples=100)


def test_the_result_is_the_document_of_the_command(laws, tmp_path):
    path = write_csv(tmp_path / "runs.csv", STUDY)
    command = [
        sys.executable,
        "-m",
        "hunyuan_cli.main",
        "scale-fit",
        str(path),
        "--predict",
        "1e22",
        "--resamples",
        "100",
    ]
    printed = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(json.dumps(laws)) == json.loads(printed) == laws.document
    assert fit_laws(path, predict=[1e22], resamples=100) == fit_laws(STUDY, predict="1e22", resamples=100) == laws


def test_the_tables_have_the_numbers_of_the_document(laws):
    assert laws.budgets["params_opt"].tolist() == [row["params_opt"] for row in laws["budgets"]]
    assert laws.budgets["used"].all() and len(laws.budgets) == 5
    of = [laws["n_opt"], laws["d_opt"], laws["parabola"]["n_opt"], laws["parabola"]["d_opt"]]
    assert laws.laws["exponent"].tolist() == [law["exponent"] for law in of]
    assert laws.laws["method"].tolist() == ["shared shape"] * 2 + ["parabolas"] * 2
    assert laws.laws[["exponent_low", "exponent_high"]].values.tolist()[0] == laws["n_opt"]["exponent_interval"]
    assert laws.predictions["params_opt"].tolist() == pytest.approx([0.1 * 1e11], rel=0.05)
    assert laws.predictions.loc[0, "tokens_low"] == laws["predictions"][0]["tokens_interval"][0]
    assert laws.warnings.empty


def test_methods_costs_corrections_and_overlays():
    both = fit_laws(surface_study(decades=0.7, noise=1e-3), method="both", resamples=100)
    assert both.laws["method"].tolist() == ["shared shape"] * 2 + ["parabolas"] * 2 + ["surface"] * 2
    assert len(both.figure([LAWS["paper"]]).axes) == 4
    frame = pd.DataFrame(STUDY).drop(columns="tokens")
    assert fit_laws(frame, cost="paper", resamples=100)["cost"]["k2"] == 2.3e8
    corrected = fit_laws(frame, c_min=True, batch_tokens=1e6, resamples=100)
    assert corrected["c_min"]["b_star"] == 2e8 and fit_laws(frame, c_min=False, resamples=100)["c_min"] is None
    assert "c_min_flops" in corrected.budgets


def test_cells_that_are_missing_are_named_by_row():
    frame = pd.DataFrame(STUDY)
    frame.loc[3, "loss"] = np.nan
    laws = fit_laws(frame, resamples=100)
    assert laws.warnings[["code", "row"]].values.tolist() == [["nonfinite_loss", 4]]


@pytest.mark.parametrize(
    ("frame", "options", "says"),
    [
        (STUDY, {"metod": "both"}, "no option 'metod': it has method, cost"),
        (STUDY, {"method": "surface"}, "choose one of quadratic, parametric, both"),
        (STUDY, {"interval": "bootstrap"}, "choose one of delta, residual, case"),
        (STUDY, {"confidence": 95}, "above 0 and below 1"),
        (STUDY, {"resamples": 10}, "at least 100 resamples"),
        (STUDY, {"predict": "much"}, "give a number such as 1e22"),
        (STUDY, {"predict": -1}, "give numbers above 0"),
        (STUDY, {"cost": "free"}, "write 6nd, paper, or K1,K2"),
        (3, {}, "takes a DataFrame, a mapping of columns or a path, not int"),
        ({"loss": [1, 2], "flops": [1]}, {}, "columns of one length"),
        (pd.DataFrame(), {}, "columns of one length"),
        ({"loss": [1.0]}, {}, "two of flops, params and tokens"),
    ],
)
def test_a_mistake_is_one_sentence(frame, options, says):
    with pytest.raises(HunyuanError, match=says):
        fit_laws(frame, **options)


def test_neither_torch_nor_pandas_is_loaded_for_the_document():
    code = "import sys; from analyses.scaling import fit_laws; fit_laws(%r, resamples=100)['n_opt']; "
    code += "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code % (STUDY,)], check=True)
