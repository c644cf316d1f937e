"""`hunyuan paper`: its document, its tables, its figure, and what it refuses."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.main import run

KEYS = {"key", "published", "value", "formula", "verdict", "where"}
VERDICTS = {"agrees", "rounds differently", "not derivable", "differs"}


def test_the_document_is_the_contract(capsys):
    assert run(["paper", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) > 60 and all(row.keys() >= KEYS and row["verdict"] in VERDICTS for row in rows)
    assert {row["verdict"] for row in rows} == VERDICTS


def test_the_tables_say_both_numbers_and_the_verdict(capsys):
    assert run(["paper"]) == 0
    out = capsys.readouterr().out
    for shown in ("389B", "388.7B", "rounds differently", "+0.005", "where report, release and this project differ"):
        assert shown in out
    assert "66.6" in out and "nothing here is compared with it" in out


def test_csv_is_the_rows(capsys):
    assert run(["paper", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["key"] == "params.total" and int(rows[0]["value"]) == 388_701_405_440


def test_nothing_heavy_is_loaded():
    code = (
        "import sys; from hunyuan_cli.main import run; status = run(['paper', '--format', 'json'])\n"
        "print(status, [m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'scipy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stderr.splitlines()[-1] == "0 []"


def test_the_figures_are_drawn_from_our_sweep_or_from_another(capsys, tmp_path, clean):
    own, other = tmp_path / "own.svg", tmp_path / "other.svg"
    assert run(["paper", "--plot", str(own), "--format", "csv"]) == 0
    assert run(["paper", "--plot", str(other), "--runs", str(clean), "--format", "csv"]) == 0
    assert own.read_bytes() != other.read_bytes() and b"<svg" in own.read_bytes()


@pytest.mark.parametrize(
    "arguments", [["--runs", __file__], ["--plot", "a.txt"], ["--runs", "none.csv", "--plot", "a.svg"]]
)
def test_wrong_options_are_usage_errors(arguments, capsys):
    assert run(["paper", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
