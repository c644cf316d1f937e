"""`hunyuan scale-fit`: its document, statuses, warnings and predictions, and a thousand damaged files."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.main import run
from tests.analyses.scaling.isoflop_data import (
    csv_text,
    rows_of,
    shuffled,
    study,
    write_csv,
)  # fmt: skip
from tests.cli.scale_fit_runs import FAST, fit

ROOT = Path(__file__).parents[2]


# --- the document ----------------------------------------------------------------------------------------------------

NUMBER, PAIR = float, [float, float]
BUDGET = {
    "flops": float, "params_opt": float, "tokens_opt": float, "loss_opt": float, "n_runs": int, "interior": bool,
    "n_sizes": int, "used": bool, "curvature": float, "residual_sd": float, "params_interval": PAIR, "tokens_interval": PAIR,
    "loss_interval": PAIR, "flat_region": PAIR,
}  # fmt: skip
INTERVAL = {"exponent": PAIR, "coefficient": PAIR}
LAW = {
    "coefficient": float, "exponent": float, "exponent_interval": PAIR, "coefficient_interval": PAIR,
    "log10_coefficient": float, "exponent_standard_error": float, "exponent_shape_shift": float,
    "intervals": {"delta": INTERVAL},
}  # fmt: skip
OF_PARABOLAS = LAW | {"intervals": {"delta": INTERVAL, "residual": INTERVAL, "case": INTERVAL}}
PREDICTION = {
    "asked": str, "flops": float, "params_opt": float, "tokens_opt": float, "loss_opt": float, "params_interval": PAIR,
    "tokens_interval": PAIR, "flops_interval": None, "flat_region": PAIR, "extrapolation": float,
    "spends": str, "loss_interval": PAIR,
}  # fmt: skip
CONTRACT = {
    "method": str,
    "runs": {"read": int, "dropped": int, "merged": int, "used": int, "outliers": int},
    "cost": {"rule": str, "k1": float, "k2": float, "worst_fraction": float, "agrees_with": str},
    "columns": dict.fromkeys(("flops", "params", "tokens", "loss"), str),
    "units": dict.fromkeys(("flops", "params", "tokens"), float),
    "c_min": None,
    "confidence": float,
    "interval": str,
    "budgets": [BUDGET] * 5,
    "n_opt": LAW,
    "d_opt": LAW,
    "predictions": [PREDICTION],
    "shape": {
        "k3": float, "k4": float, "k3_interval": PAIR, "k4_interval": PAIR, "misfit_p": float, "noise_sd": float,
        "noise_degrees": int,
    },
    "parabola": {
        "budgets": [BUDGET] * 5, "n_opt": OF_PARABOLAS, "d_opt": OF_PARABOLAS, "misfit_p": float,
        "predictions": [{key: kind for key, kind in PREDICTION.items() if key != "loss_interval"}],
    },
    "tests": {
        "noise_sd": float, "noise_degrees": int, "parabolas_misfit_p": float, "minima_scatter_p": float,
        "shape_misfit_p": float,
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
            "reason": "no law: 2 of 2 budgets have a minimum inside their sizes and 3 are needed: add budgets, or sizes "
            "about the minima, or fit the surface, which needs no budgets: --method parametric",
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
    (found, err), (expected, _) = fit(capsys, path, *options), fit(capsys, clean)
    assert found.pop("columns") == names and expected.pop("columns") == {name: name for name in names}
    assert (found, err) == (expected, [])
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
    assert first == same and first["parabola"]["n_opt"] != other["parabola"]["n_opt"]
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
    assert "cost: the table's own, C = 6 N D (the usual rule)" in out and re.search(
        r"left out, the budget .* is predicted [+-]\d", out
    )


def test_csv_is_the_table_of_budgets(clean, capsys):
    document, _ = fit(capsys, clean)
    assert run(["scale-fit", str(clean), "--format", "csv", *FAST]) == 0
    out, err = capsys.readouterr()
    assert err == "note: csv holds the budgets; laws and predictions are in --format json and table\n"
    rows = list(csv.DictReader(io.StringIO(out)))
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
