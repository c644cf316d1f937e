"""`hunyuan scale-fit`: its document, statuses, warnings and predictions, and a thousand damaged files."""

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from analyses.cost import parse_cost
from analyses.parabola import CMin
from analyses.scale_fit import Options, scale_fit
from analyses.scaling_tables import read_table
from hunyuan_cli.console import emit
from hunyuan_cli.main import run
from model.errors import HunyuanError
from tests.analyses.isoflop_data import (
    codes,
    csv_text,
    damaged_file,
    rows_of,
    runs_of,
    shuffled,
    study,
    surface_study,
    table,
    write_csv,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
FAST = ("--resamples", "100")


@pytest.fixture
def clean(tmp_path):
    return write_csv(tmp_path / "clean.csv", study(noise=1e-3))


def fit(capsys, path, *arguments, status=0):
    """The document, and the lines on standard error."""
    assert run(["scale-fit", str(path), "--format", "json", *FAST, *arguments]) == status
    out, err = capsys.readouterr()
    return json.loads(out), err.splitlines()


# --- the document ----------------------------------------------------------------------------------------------------

NUMBER, PAIR = float, [float, float]
BUDGET = {
    "flops": float, "params_opt": float, "tokens_opt": float, "loss_opt": float, "n_runs": int, "interior": bool,
    "n_sizes": int, "used": bool, "curvature": float, "residual_sd": float, "params_interval": PAIR, "tokens_interval": PAIR,
    "flat_region": PAIR,
}  # fmt: skip
INTERVAL = {"exponent": PAIR, "coefficient": PAIR}
LAW = {
    "coefficient": float, "exponent": float, "exponent_interval": PAIR, "coefficient_interval": PAIR,
    "log10_coefficient": float, "exponent_standard_error": float, "exponent_shape_shift": float,
    "intervals": {"delta": INTERVAL, "residual": INTERVAL, "case": INTERVAL},
}  # fmt: skip
PREDICTION = {
    "asked": str, "flops": float, "params_opt": float, "tokens_opt": float, "loss_opt": float, "params_interval": PAIR,
    "tokens_interval": PAIR, "flops_interval": None, "flat_region": PAIR, "extrapolation": float,
}  # fmt: skip
CONTRACT = {
    "method": str,
    "runs": {"read": int, "dropped": int, "merged": int, "used": int, "outliers": int},
    "cost": {"rule": str, "k1": float, "k2": float, "worst_fraction": float},
    "c_min": None,
    "confidence": float,
    "interval": str,
    "budgets": [BUDGET] * 5,
    "n_opt": LAW,
    "d_opt": LAW,
    "predictions": [PREDICTION],
    "tests": {
        "noise_sd": float, "noise_degrees": int, "parabolas_misfit_p": float, "minima_scatter_p": float,
        "resamples_without_minimum": {"residual": float, "case": float},
    },
    "leave_one_budget_out": [
        {"flops": float, "params_opt": float, "predicted_params": float, "error": float, "exponent_without": float}
    ] * 5,
    "influence": [
        {"flops": float, "params": float, "tokens": float, "loss": float, "exponent_without": float, "change": float}
    ] * 35,
    "next_runs": [
        {"kind": str, "runs": int, "flops": float, "params": float, "narrower_fraction": float, "cost_flops": float,
         "narrower_per_flop": float}
    ] * 7,
    "warnings": [],
}  # fmt: skip


def check(found, shape, place="document"):
    if isinstance(shape, dict):
        assert isinstance(found, dict) and found.keys() == shape.keys(), place
        for key in shape:
            check(found[key], shape[key], f"{place}.{key}")
    elif isinstance(shape, list):
        assert isinstance(found, list) and len(found) == len(shape), place
        for one, kind in zip(found, shape, strict=True):
            check(one, kind, place)
    elif shape is None:
        assert found is None, place
    elif shape is float:
        assert isinstance(found, float | int) and not isinstance(found, bool), place
    else:
        assert type(found) is shape, place


def test_the_document_has_exactly_the_keys_and_types_of_the_contract(clean, capsys):
    found, err = fit(capsys, clean, "--predict", "1e22")
    check(found, CONTRACT)
    assert (err, found["method"], found["interval"], found["confidence"]) == ([], "quadratic", "delta", 0.95)
    assert found["runs"] == {"read": 35, "dropped": 0, "merged": 0, "used": 35, "outliers": 0}
    assert (found["cost"]["rule"], found["cost"]["k1"], found["cost"]["k2"]) == ("table", pytest.approx(6), 0)
    assert found["n_opt"]["exponent"] == pytest.approx(0.5, abs=0.005)
    assert found["d_opt"]["exponent"] == pytest.approx(0.5, abs=0.005)


def test_the_document_of_a_refusal(tmp_path, capsys):
    found, err = fit(capsys, write_csv(tmp_path / "two.csv", study(budgets=(1e18, 1e19))), status=1)
    assert (found["n_opt"], found["d_opt"], found["predictions"]) == (None, None, [])
    assert [row["params_opt"] for row in found["budgets"]] == [pytest.approx(1e8), pytest.approx(0.1 * 1e19**0.5)]
    assert found["warnings"] == [
        {
            "code": "too_few_budgets",
            "reason": "no law: 2 of 2 budgets have a minimum inside their sizes, and 3 are needed",
        }
    ]
    assert err == [f"error [too_few_budgets]: {found['warnings'][0]['reason']}"]


def test_the_same_document_from_every_format(clean, tmp_path, capsys):
    columns = study(noise=1e-3)
    (tmp_path / "rows.json").write_text(json.dumps(rows_of(columns)))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows_of(columns))))
    (tmp_path / "tabs.csv").write_bytes(("\ufeff" + csv_text(columns, "\t").replace("\n", "\r\n")).encode())
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "runs.parquet")
    expected = fit(capsys, clean)
    for name in ("rows.json", "lines.jsonl", "tabs.csv", "runs.parquet"):
        assert fit(capsys, tmp_path / name) == expected


def test_named_columns_give_the_same_document(clean, tmp_path, capsys):
    names = {"flops": "spent", "params": "size", "tokens": "seen", "loss": "nats"}
    path = write_csv(tmp_path / "a.csv", {names[key]: values for key, values in study(noise=1e-3).items()})
    options = [part for key, name in names.items() for part in (f"--{key}-column", name)]
    assert fit(capsys, path, *options) == fit(capsys, clean)
    assert run(["scale-fit", str(path)]) == 1
    assert "--loss-column" in capsys.readouterr().err


def test_the_order_of_rows_changes_no_byte(tmp_path, capsys):
    columns, texts = study(noise=1e-3, replicates=2), set()
    for seed in range(4):
        path = write_csv(tmp_path / "runs.csv", shuffled(columns, seed))
        for interval in ("case", "residual"):
            asked = ("--predict", "1e23", "--predict-loss", "2", "--interval", interval)
            assert run(["scale-fit", str(path), "--format", "json", *FAST, *asked]) == 0
            texts.add(capsys.readouterr().out)
    assert len(texts) == 2


def test_the_number_of_threads_changes_no_byte(tmp_path):
    columns = study(noise=1e-3, sizes=40)
    columns["loss"][50] += 0.1  # an outlier too, whose row stays where it is
    path = write_csv(tmp_path / "runs.csv", columns)
    command = [
        sys.executable,
        "-m",
        "hunyuan_cli.main",
        "scale-fit",
        str(path),
        "--format",
        "json",
        "--predict",
        "1e23",
    ]
    texts = []
    for threads in ("1", "2"):
        variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        result = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True)
        assert result.returncode == 3, result.stderr
        texts.append((result.stdout, result.stderr))
    assert texts[0] == texts[1] and b"[outlier]: row 51" in texts[0][1]


def test_a_seed_is_of_the_bootstrap_alone(clean, capsys):
    first, same, other = (fit(capsys, clean, "--seed", seed)[0] for seed in ("1", "1", "2"))
    assert first == same and first["n_opt"]["intervals"]["case"] != other["n_opt"]["intervals"]["case"]
    assert (
        first["budgets"] == other["budgets"]
        and first["n_opt"]["exponent_interval"] == other["n_opt"]["exponent_interval"]
    )


def test_neither_torch_nor_pandas_is_loaded(clean):
    code = "import sys; from hunyuan_cli.main import run; "
    code += f"run(['scale-fit', {str(clean)!r}, '--predict', '1e23', '--law', 'paper', '--resamples', '100']); "
    code += "print(*({'torch', 'pandas', 'matplotlib', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr.strip()) == (0, ""), result.stderr
    assert "power laws" in result.stdout


# --- what is printed -------------------------------------------------------------------------------------------------


def test_the_table_shows_the_numbers(clean, capsys):
    assert run(["scale-fit", str(clean), "--predict", "1e22", "--predict-params", "1e10", "--law", "paper", *FAST]) == 0
    out, err = capsys.readouterr()
    document, _ = fit(capsys, clean, "--predict", "1e22")
    assert err == ""
    for law in ("n_opt", "d_opt"):
        assert f"{document[law]['exponent']:.4f}" in out and f"{document[law]['coefficient']:.4g}" in out
        assert "{:.4f} to {:.4f}".format(*document[law]["exponent_interval"]) in out
    for row in document["budgets"]:
        assert f"{row['flops']:.4g}" in out and f"{row['loss_opt']:.4f}" in out
    for text in (
        "power laws, 95% intervals (delta)",
        "N_opt, paper",
        "0.5305",
        "0.0059",
        "what to run next",
        "most influential run",
    ):
        assert text in out
    assert "cost: the table's own, about 6 N D + 0 D" in out and re.search(
        r"left out, the budget .* is predicted [+-]\d", out
    )


def test_csv_is_the_table_of_budgets(clean, capsys):
    document, _ = fit(capsys, clean)
    assert run(["scale-fit", str(clean), "--format", "csv", *FAST]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["params_opt"]) for row in rows] == [row["params_opt"] for row in document["budgets"]]
    assert list(rows[0])[:6] == ["flops", "params_opt", "tokens_opt", "loss_opt", "n_runs", "n_sizes"]


def test_results_go_to_a_file(clean, tmp_path, capsys):
    document, _ = fit(capsys, clean)
    for name in ("a.json", "a.csv", "a.txt"):
        assert run(["scale-fit", str(clean), "--output", str(tmp_path / name), *FAST]) == 0
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("wrote ")
    assert json.loads((tmp_path / "a.json").read_text()) == document
    assert (tmp_path / "a.csv").read_text().startswith("flops,params_opt,") and "power laws" in (
        tmp_path / "a.txt"
    ).read_text()


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
    "lack_of_fit": (surface_study(noise=1e-3), 0, {}, "--method parametric"),
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


def test_extrapolation_is_told_and_is_no_exclusion(clean, capsys):
    found, err = fit(capsys, clean, "--predict", "1e24", "--predict", "1e22")
    (warning,) = found["warnings"]
    assert (
        warning["code"] == "extrapolation"
        and warning["budget"] == pytest.approx(1e24)
        and "1,000 times" in warning["reason"]
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
        (["--law", "kaplan"], 1, "kaplan"),
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
    assert re.search(r"paper +3.1e\+24 +58B +– +5.63T ", capsys.readouterr().out)


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
    found, err = fit(capsys, clean, "--predict-loss", "1.5")
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
    assert "C_min: flops are C_min; tokens_opt are what C_min buys at params_opt" in capsys.readouterr().out
    option, _ = fit(capsys, write_csv(tmp_path / "b.csv", study(noise=1e-3)), "--c-min", "--batch-tokens", "2M")
    assert option["n_opt"] == fit(capsys, path, "--c-min")[0]["n_opt"]


def test_tolerance_groups_budgets(tmp_path, capsys):
    columns = study(noise=1e-3)
    columns["flops"] = [flops * (1 + 0.03 * (index % 7)) for index, flops in enumerate(columns["flops"])]
    path = write_csv(tmp_path / "a.csv", columns)
    assert len(fit(capsys, path, "--tolerance", "20%")[0]["budgets"]) == 5
    assert len(fit(capsys, path, "--tolerance", "1%", status=1)[0]["budgets"]) == 35


# --- damaged files ---------------------------------------------------------------------------------------------------


@contextmanager
def watched(monkeypatch):
    """Numpy's warnings are errors, LAPACK gets no number that may hang it, and nothing computes for over five seconds."""
    plain = np.linalg.lstsq

    def least_squares(a, b, **options):
        assert np.isfinite(a).all() and np.isfinite(b).all(), "lstsq was given a number that is not finite"
        return plain(a, b, **options)

    def too_long(*_):
        raise TimeoutError("hangs")

    monkeypatch.setattr(np.linalg, "lstsq", least_squares)
    before = signal.signal(signal.SIGVTALRM, too_long)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 5.0)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def options(seed):
    draw = random.Random(seed)
    return Options(
        resamples=100,
        cost=draw.choice([None, None, parse_cost("6nd"), parse_cost("paper")]),
        c_min=draw.choice([None, None, CMin()]),
        batch_tokens=draw.choice([None, 1e6]),
        interval=draw.choice(["delta", "residual", "case"]),
        keep_outliers=draw.random() < 0.5,
        predict=draw.choice([(), (1e22,), (1e290, 1e-290)]),
        predict_params=draw.choice([(), (1e9, 1e-200)]),
        predict_loss=draw.choice([(), (2.5, 1e5)]),
        tolerance=draw.choice([0.1, 0.0, 0.5]),
    )


def test_a_thousand_damaged_files_give_a_document_or_one_sentence(tmp_path, monkeypatch, capsys):
    failures, statuses = [], {0: 0, 1: 0, 3: 0, "refused": 0}
    with watched(monkeypatch) as start_clock:
        for seed in range(1000):
            path = damaged_file(tmp_path, seed)
            start_clock()
            try:
                found = scale_fit(read_table(path), options(seed))
                emit(found.document, format="json", output=tmp_path / "out.json")
                assert json.loads((tmp_path / "out.json").read_text())["method"] == "quadratic"
                assert found.status in (0, 1, 3) and (found.status != 1) == (found.document["n_opt"] is not None)
                statuses[found.status] += 1
            except HunyuanError as error:
                assert str(error) and "\n" not in str(error).strip()
                statuses["refused"] += 1
            except Exception as error:
                failures.append(f"{path.name}: {type(error).__name__}: {error}"[:150])
    assert not failures, f"{len(failures)} of 1000, such as\n" + "\n".join(failures[:20])
    assert min(statuses.values()) >= 10, statuses  # the files are of every kind


def test_damaged_files_at_the_command_line(tmp_path, monkeypatch, capsys):
    failures = []
    with watched(monkeypatch) as start_clock:
        for seed in range(1000, 1050):
            path, draw = damaged_file(tmp_path, seed), random.Random(seed)
            asked = draw.choice(
                [[], ["--predict", "1e22"], ["--predict-params", "1e9", "--predict-loss", "2.5"], ["--c-min"]]
            )
            start_clock()
            status = run(["scale-fit", str(path), *FAST, *asked, "--format", draw.choice(["table", "json", "csv"])])
            out, err = capsys.readouterr()
            bad = [word for word in ("bug in hunyuan", "Traceback", "RuntimeWarning", "nan%") if word in out + err]
            if status not in (0, 1, 2, 3) or bad or (status == 0 and not out):
                failures.append(f"{path.name}: {status} {err[:150]}")
    assert not failures, "\n".join(failures)


def test_a_cell_that_is_no_text_can_be_written(tmp_path, capsys):
    rows = rows_of(study())
    rows[0]["loss"] = "\ud800"
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert run(["scale-fit", str(tmp_path / "a.json"), "--output", str(tmp_path / "out.json"), *FAST]) == 3
    assert "bug in hunyuan" not in capsys.readouterr().err


def test_these_helpers_are_of_a_clean_study():
    """A study without noise has nothing to say, or the tests above test nothing."""
    assert codes(scale_fit(table(study()), Options(resamples=100))) == [] and len(runs_of(study())) == 35
