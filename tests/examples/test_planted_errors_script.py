"""examples/synthesis/planted_errors.py: that it runs, and what it found."""

import csv
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "synthesis"
SCRIPT = runpy.run_path(str(FOLDER / "planted_errors.py"))


def test_it_counts_errors_by_filter_family_and_kind(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path), "--count", "8", "--samples", "3", "--rates", "0.3"]
    monkeypatch.setattr(sys, "argv", ["planted_errors.py", *arguments])
    SCRIPT["main"]()
    assert "errors" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "planted_errors.csv").open()))
    for name in ("recomputation and execution", "vote of 3"):
        whole = next(row for row in rows if (row["filter"], row["group"]) == (name, "all"))
        for prefix in ("family", "error"):
            parts = [row for row in rows if row["filter"] == name and row["group"].startswith(prefix)]
            assert sum(int(row["found"]) for row in parts) == int(whole["found"])
            assert sum(int(row["errors"]) for row in parts) == int(whole["errors"]) > 0


@pytest.mark.parametrize(
    ("hits", "count", "interval"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (50, 100, (0.4038, 0.5962)), (0, 0, (0, 1))],
)
def test_wilson(hits, count, interval):
    assert SCRIPT["wilson"](hits, count) == pytest.approx(interval, abs=1e-4)


def test_recomputation_and_execution_find_nearly_all_and_drop_little_else():
    rows = [row for row in csv.DictReader((FOLDER / "planted_errors.csv").open()) if row["group"] == "all"]
    checked = [row for row in rows if row["filter"] == "recomputation and execution"]
    assert [float(row["rate"]) for row in checked] == [0.05, 0.2, 0.4]
    assert all(float(row["recall_low"]) >= 0.98 and float(row["precision_low"]) >= 0.99 for row in checked)
