"""`hunyuan scale-fit`: what it says of runs that cannot be used, its answers and its mistakes."""

import re
from pathlib import Path

import numpy as np
import pytest

from hunyuan_cli.main import run
from tests.analyses.scaling.isoflop_data import (
    study,
    surface_study,
    write_csv,
)  # fmt: skip
from tests.cli.scale_fit_runs import FAST, fit

ROOT = Path(__file__).parents[2]


# --- what is said of runs that cannot be used ------------------------------------------------------------------------


def budget_of(columns, index, losses):
    columns["loss"][7 * index : 7 * index + 7] = losses
    return columns


def four():
    return study(budgets=(1e18, 1e19, 1e20, 1e21))


def with_cell(column, row, cell):
    columns = four()
    columns[column][row] = cell
    return columns


SMILE = [0.05 * (u - 0.2) ** 2 for u in (-1.5, -1, -0.5, 0, 0.5, 1, 1.5)]
RISING = [2 + 0.1 * x + 0.003 * x * x for x in range(7)]
CASES = {
    "nonfinite_loss": (with_cell("loss", 9, "nan"), 3, {"row": 10}, "its loss is nan"),
    "nonfinite_loss, infinite": (with_cell("loss", 9, "-inf"), 3, {"row": 10}, "its loss is -inf"),
    "bad_loss": (with_cell("loss", 9, -3.0), 3, {"row": 10}, "its loss is -3.0"),
    "bad_value": (with_cell("params", 9, "many"), 3, {"row": 10}, "its params is many"),
    "duplicate": ({k: [*v, v[3]] for k, v in four().items()}, 3, {"budget": 1e18, "row": 29}, "row 29 repeats row 4"),
    "too_few_sizes": ({k: v[:17] + v[21:] for k, v in four().items()}, 3, {"budget": 1e20}, "3 distinct sizes"),
    "opens_downward": (budget_of(four(), 1, [3 - x for x in SMILE]), 3, {"budget": 1e19}, "opens downward"),
    "minimum_outside": (budget_of(four(), 1, RISING), 3, {"budget": 1e19}, "below the sampled"),
    "outlier": (with_cell("loss", 10, 3.0), 3, {"budget": 1e19, "row": 11}, "row 11 has a loss of 3"),
    "shape_misfit": (surface_study(decades=2.5, noise=2e-4), 0, {}, "--method parametric"),
    "shape_fallback": (study(noise=1e-3, sizes=4), 0, {}, "parabolas instead"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_warning_has_a_code_a_place_and_a_reason_in_the_document_and_on_standard_error(name, tmp_path, capsys):
    columns, status, place, words = CASES[name]
    found, err = fit(capsys, write_csv(tmp_path / "runs.csv", columns), status=status)
    (warning,) = found["warnings"]
    assert warning["code"] == name.partition(",")[0] and words in warning["reason"]
    assert {key: warning[key] for key in warning if key not in ("code", "reason")} == pytest.approx(place)
    assert err == [f"warning [{warning['code']}]: {warning['reason']}"]
    assert found["n_opt"]["exponent"] > 0


def test_counts_of_what_was_left_out(tmp_path, capsys):
    columns = {name: [*values, values[3], values[3]] for name, values in with_cell("loss", 9, "nan").items()}
    columns["loss"][24] += 0.2
    found, err = fit(capsys, write_csv(tmp_path / "runs.csv", columns), status=3)
    assert found["runs"] == {"read": 30, "dropped": 1, "merged": 2, "outliers": 1, "used": 26}
    assert len(err) == len(found["warnings"]) == 4


def test_outliers_are_kept_when_asked(tmp_path, capsys):
    path = write_csv(tmp_path / "runs.csv", with_cell("loss", 10, 2.2))
    kept, err = fit(capsys, path, "--keep-outliers", status=0)
    assert kept["warnings"][0]["code"] == "outlier" and "kept, as asked" in err[0]
    without, _ = fit(capsys, path, status=3)
    assert (kept["runs"]["used"], without["runs"]["used"]) == (28, 27)
    assert kept["n_opt"]["exponent"] != without["n_opt"]["exponent"]


@pytest.mark.parametrize("shape", ["falling", "downward", "few"])
def test_the_raw_minimum_never_stands_in(shape, tmp_path, capsys):
    """Nothing in the document but the runs themselves has the size or the loss of the least measured loss."""
    columns = study(budgets=(1e18, 1e19, 1e20), sizes=7 if shape != "few" else 3)
    n = len(columns["loss"]) // 3
    losses = {"falling": [3.0 - 0.1 * x for x in range(n)], "downward": [3 - 0.05 * (x - 2.2) ** 2 for x in range(n)],
              "few": [2.5, 2.4, 2.45]}[shape]  # fmt: skip
    columns["loss"] = [loss + 0.01 * budget for budget in range(3) for loss in losses]
    path = write_csv(tmp_path / "runs.csv", columns)
    found, _ = fit(capsys, path, "--predict", "1e22", status=1)
    assert [row["interior"] for row in found["budgets"]] == [row["used"] for row in found["budgets"]] == [False] * 3
    assert found["n_opt"] is None and found["predictions"] == []
    raw = {columns["params"][i] for i in range(3 * n)} | set(columns["loss"])
    shown = {value for row in found["budgets"] for value in (row["params_opt"], row["loss_opt"]) if value is not None}
    assert not raw & shown
    if shape != "falling":
        assert shown == set()
    assert run(["scale-fit", str(path)]) == 1
    assert "power laws" not in capsys.readouterr().out


def test_flops_that_fit_no_cost_are_told(tmp_path, capsys):
    columns = study(noise=1e-3)
    columns["tokens"] = [tokens * (1 if row % 2 else 9) for row, tokens in enumerate(columns["tokens"])]
    found, _ = fit(capsys, write_csv(tmp_path / "odd.csv", columns), status=3)
    assert [warning["code"] for warning in found["warnings"]] == ["cost_mismatch"]


@pytest.mark.parametrize(("rule", "status"), [("9,0", 0), ("30,0", 3)])
def test_a_rule_more_than_twice_off_the_tables_cost_is_a_doubt(clean, capsys, rule, status):
    found, _ = fit(capsys, clean, "--cost", rule, status=status)
    assert [warning["code"] for warning in found["warnings"]] == ["cost_mismatch"]


def test_a_surface_that_is_refused_is_the_error(tmp_path, capsys):
    path = write_csv(tmp_path / "five.csv", {name: values[:5] for name, values in study().items()})
    found, err = fit(capsys, path, "--method", "parametric", status=1)
    assert found["n_opt"] is None and found["interval"] == "case"
    assert err[0].startswith("error [no_surface]: no surface") and "at least 6 runs" in err[0]


def test_a_size_beyond_every_budget_is_told_of_a_surface_too(clean, capsys):
    found, _ = fit(capsys, clean, "--method", "parametric", "--predict-params", "1e299", status=3)
    assert found["predictions"] == [] and "unreachable_params" in [one["code"] for one in found["warnings"]]
    found, _ = fit(capsys, clean, "--method", "parametric", "--predict", "1e27")
    (warning,) = [one for one in found["warnings"] if one["code"] == "extrapolation"]
    assert warning["budget"] == 1e27


def test_extrapolation_is_told_and_is_no_exclusion(clean, capsys):
    found, err = fit(capsys, clean, "--predict", "1e24", "--predict", "1e22")
    (warning,) = found["warnings"]
    assert (
        warning["code"] == "extrapolation"
        and warning["budget"] == pytest.approx(1e24)
        and "1000 times" in warning["reason"]
    )
    assert err == [f"warning [extrapolation]: {warning['reason']}"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--predict", "0"], 2, "--predict|not a positive number"),
        (["--predict", "big"], 2, "not a positive number"),
        (["--predict", "1e301"], 2, "not a positive number"),
        (["--cost", "7nd"], 1, "write 6nd, paper, or K1,K2"),
        (["--tolerance", "-1"], 2, "not a share"),
        (["--confidence", "0"], 2, "above 0"),
        (["--confidence", "100%"], 2, "not a share"),
        (["--flat", "0"], 2, "above 0"),
        (["--alpha-b", "0"], 2, "--alpha-b"),
        (["--resamples", "10"], 2, "--resamples"),
        (["--interval", "bayes"], 2, "--interval"),
        (["--c-min"], 1, "--batch-tokens"),
        (["--loss-column", "perplexity"], 1, "no column 'perplexity'"),
        (["--law", "kaplan"], 2, "'kaplan' is neither a file nor one of paper, chinchilla"),
        (["--c-min", "--method", "both", "--batch-tokens", "1e6"], 1, "leave it or --method out"),
        (["--b-star", "1e6"], 2, "are for --c-min"),
        (["--loss", "lad"], 2, "is for the surface"),
        (["--flops-column", "loss"], 1, "the column 'loss' cannot be both"),
        (["--batch-tokens", "0.5", "--c-min"], 2, "whole number"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, status, words, clean, capsys):
    assert run(["scale-fit", str(clean), *arguments]) == status
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and re.search(words, err) and "bug in hunyuan" not in err


# --- questions -------------------------------------------------------------------------------------------------------


def test_the_papers_law_is_laid_beside(clean, capsys):
    """58.1B activated parameters and 5.6T tokens at 3.1e24 FLOPs, arXiv:2411.02265."""
    found, _ = fit(capsys, clean, "--law", "paper", "--predict", "3.1e24")
    (law,) = found["laws"]
    assert (law["name"], law["n_opt"], law["d_opt"]) == (
        "paper", {"coefficient": 5.9e-3, "exponent": 0.5305}, {"coefficient": 3.2, "exponent": 0.50},
    )  # fmt: skip
    assert law["predictions"][0]["flops"] == 3.1e24
    assert law["predictions"][0]["params_opt"] == pytest.approx(58.1e9, rel=0.005)
    assert law["predictions"][0]["tokens_opt"] == pytest.approx(5.6e12, rel=0.01)
    assert run(["scale-fit", str(clean), "--law", "paper", "--predict", "3.1e24"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"law +shared shape +parabolas +paper\n", shown)
    assert re.search(r"params opt +17\dB +17\dB +58B\n", shown) and re.search(
        r"tokens opt +2.9\dT +2.9\dT +5.63T\n", shown
    )


def test_a_study_behind_which_the_papers_law_stands_finds_it(tmp_path, capsys):
    columns = study(coefficient=5.9e-3, exponent=0.5305, k1=9.59, k2=2.3e8, budgets=np.logspace(19, 22, 6).tolist())
    del columns["tokens"]
    found, _ = fit(capsys, write_csv(tmp_path / "a.csv", columns), "--cost", "paper", "--predict", "3.1e24", status=0)
    assert (found["n_opt"]["coefficient"], found["n_opt"]["exponent"]) == (
        pytest.approx(5.9e-3, rel=1e-9),
        pytest.approx(0.5305, rel=1e-10),
    )
    assert found["predictions"][0]["params_opt"] == pytest.approx(58.1e9, rel=0.005)
    assert (found["cost"]["rule"], found["cost"]["k1"], found["cost"]["k2"]) == ("paper", 9.59, 2.3e8)


def test_a_fit_can_be_laid_beside_another(clean, tmp_path, capsys):
    assert run(["scale-fit", str(clean), "--output", str(tmp_path / "law.json"), *FAST]) == 0
    capsys.readouterr()
    found, _ = fit(capsys, clean, "--law", str(tmp_path / "law.json"), "--predict", "1e22")
    assert found["laws"][0]["predictions"][0]["params_opt"] == pytest.approx(
        found["predictions"][0]["params_opt"], rel=1e-9
    )


def test_sizes_and_losses_are_asked_for_and_go_back(clean, capsys):
    there, _ = fit(capsys, clean, "--predict", "2e22")
    params, loss = there["predictions"][0]["params_opt"], there["predictions"][0]["loss_opt"]
    back, _ = fit(capsys, clean, "--predict-params", f"{params!r}", "--predict-loss", f"{loss!r}", "--predict", "1e20")
    assert [row["asked"] for row in back["predictions"]] == ["flops", "params", "loss"]
    for row in back["predictions"][1:]:
        assert row["flops"] == pytest.approx(2e22, rel=1e-6)
        assert row["flops_interval"][0] < 2e22 < row["flops_interval"][1]


def test_a_loss_that_is_never_reached_is_told(clean, capsys):
    found, err = fit(capsys, clean, "--predict-loss", "1.5", status=3)
    assert found["predictions"] == [{"asked": "loss", "value": 1.5}]
    assert [warning["code"] for warning in found["warnings"]] == ["unreachable_loss"] and "a loss of 1.5" in err[0]


def test_c_min_is_said_and_corrects_every_budget(tmp_path, capsys):
    path = write_csv(tmp_path / "a.csv", study(noise=1e-3) | {"batch_tokens": [2e6] * 35})
    plain, _ = fit(capsys, path)
    found, _ = fit(capsys, path, "--c-min", "--b-star", "3e8", "--alpha-b", "0.25")
    assert (found["c_min"]["b_star"], found["c_min"]["alpha_b"]) == (3e8, 0.25) and "C_min" in found["c_min"]["means"]
    for before, after in zip(plain["budgets"], found["budgets"], strict=True):
        factor = 1 + 2e6 / (3e8 / after["loss_opt"] ** 4)
        assert after["c_min_flops"] == pytest.approx(before["flops"] / factor, rel=1e-12)
        assert after["params_opt"] == before["params_opt"] and after["flops"] == before["flops"]
        assert after["tokens_opt"] == pytest.approx(before["tokens_opt"] / factor, rel=1e-12)
    assert run(["scale-fit", str(path), "--c-min", *FAST]) == 0
    assert "C_min: laws and predictions are in C_min" in capsys.readouterr().out
    option, _ = fit(capsys, write_csv(tmp_path / "b.csv", study(noise=1e-3)), "--c-min", "--batch-tokens", "2M")
    assert option["n_opt"] == fit(capsys, path, "--c-min")[0]["n_opt"]


def test_tolerance_groups_budgets(tmp_path, capsys):
    columns = study(noise=1e-3)
    columns["flops"] = [flops * (1 + 0.03 * (index % 7)) for index, flops in enumerate(columns["flops"])]
    path = write_csv(tmp_path / "a.csv", columns)
    assert len(fit(capsys, path, "--tolerance", "20%")[0]["budgets"]) == 5
    assert len(fit(capsys, path, "--tolerance", "1%", status=1)[0]["budgets"]) == 35
