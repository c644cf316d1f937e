"""examples/toy_study.py at a size of seconds, and its table and figures from the data in the repository."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from model.errors import HunyuanError

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "toy_study"


def study(*arguments, cache):
    command = [sys.executable, ROOT / "examples" / "toy_study.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HUNYUAN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.run(map(str, command), capture_output=True, text=True, env=environment, cwd=cache, timeout=120)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_study_of_two_steps_leaves_its_tables_and_its_runs(tmp_path):
    out = tmp_path / "out"
    arguments = ("main", "--seeds", 1, "--first-seed", 3, "--steps", 2, "--device", "cpu", "--evaluation-tokens", 4096)
    done = study(*arguments, "--only", "drop 1.25", "dense", "--out", out, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    cells, curves = rows_of(out / "cells.csv"), rows_of(out / "curves.csv")
    cells.sort(key=lambda row: row["variant"])  # from the order in which they were done
    assert [(row["variant"], row["seed"]) for row in cells] == [("dense", "3"), ("drop 1.25", "3")]
    folders = [out / "runs" / name for name in ("dense-3", "drop-1.25-3")]
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["dense-3", "drop-1.25-3"]
    for cell, folder in zip(cells, folders, strict=True):
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["status"], summary["steps"]) == ("finished", 2)
        for name, value in list(cell.items())[2:]:
            assert float(value) == summary[name], name
        drawn = [row for row in curves if row["variant"] == cell["variant"]]
        assert [int(row["tokens"]) for row in drawn] == [4096, 8192]
        assert drawn[-1]["val_loss"] == cell["val_loss"]
        assert f"{cell['variant']} 3: {float(cell['val_bits_per_byte']):.4f} bits per byte" in done.stdout
    dense, drop = ((folder / "config.json").read_text() for folder in folders)
    assert json.loads(drop)["moe_routing"] == "drop" and json.loads(drop)["capacity_factor"] == 1.25
    assert json.loads(dense)["num_experts"] == 1
    assert "seed = 3" in (folders[0] / "run.toml").read_text()
    # The columns are those of the data in the repository, so that toy_study_table.py reads both.
    for name, rows in (("cells.csv", cells), ("curves.csv", curves)):
        assert list(rows[0]) == list(pd.read_csv(DATA / name).columns)


def test_a_variant_that_the_study_does_not_have_is_refused(tmp_path):
    done = study("tune", "--only", "mixture", "--out", tmp_path / "out", cache=tmp_path)
    assert done.returncode == 2
    assert "error: no variant mixture in tune: it has mixture rate 0.002 scale 0.1, " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def table(monkeypatch, capsys):
    """table("--baseline", ...) -> {variant: cells of its line} of the data in the repository."""

    def run(*arguments):
        script = str(ROOT / "examples" / "toy_study_table.py")
        monkeypatch.setattr(sys, "argv", [script, str(DATA), *map(str, arguments)])
        runpy.run_path(script, run_name="__main__")
        heading, _, *lines = capsys.readouterr().out.splitlines()
        assert heading.split() == ["variant", "n", "mean", "sd", "difference", "low", "high", "pairs"]
        return dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in lines)

    return lambda *arguments: {name: line.split() for name, line in run(*arguments).items()}


def test_the_table_of_the_data_in_the_repository(table):
    rows = table()
    assert rows["mixture"] == ["5", "1.447", "0.006667", "–", "–", "–", "–"]
    assert rows["dense"] == ["5", "1.467", "0.006088", "0.01978", "0.01064", "0.02892", "5"]
    assert set(rows) == set(pd.read_csv(DATA / "cells.csv")["variant"])


def test_another_baseline_turns_the_difference_round(table):
    rows = table("--baseline", "dense")
    assert rows["mixture"] == ["5", "1.447", "0.006667", "-0.01978", "-0.02892", "-0.01064", "5"]
    assert rows["dense"][3:] == ["–", "–", "–", "–"]


def test_a_baseline_that_is_not_there(table):
    with pytest.raises(HunyuanError, match="there is no variant 'sparse': the table has mixture, dense, "):
        table("--baseline", "sparse")


def test_the_figures_are_drawn_from_the_data_in_the_repository(table, tmp_path):
    table("--figures", tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"dense.png", "routing.png", "expert_rate.png"} == {path.name for path in DATA.glob("*.png")}
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
