"""examples/training_memory.py without a GPU: what it would measure, the row it writes, and the sentence that it stops with."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "training_memory.py"
CELL = {"model": "toy", "batch": 2, "context": 64, "precision": "float32", "recompute": False}


@pytest.fixture
def script():
    """The names of the script."""
    return runpy.run_path(str(SCRIPT))


def test_every_preset_is_measured_in_both_precisions_with_and_without_recomputation(script):
    cells = script["cells"](["small", "toy"])
    assert [cell["model"] for cell in cells] == 4 * ["small"] + 4 * ["toy"]
    assert len({(cell["precision"], cell["recompute"]) for cell in cells}) == 4
    assert {(cell["batch"], cell["context"]) for cell in cells[4:]} == {script["WORKLOADS"]["toy"]}


def test_a_row_has_both_counts(script):
    row = script["row_of"](CELL, 80_000_000)
    assert list(row) == [*CELL, "measured_bytes", "closed_form_bytes", "ratio"]
    assert row["closed_form_bytes"] == script["closed_form_bytes"](CELL)
    assert row["ratio"] == round(row["closed_form_bytes"] / 80_000_000, 4)
    recomputed = script["closed_form_bytes"](CELL | {"recompute": True})
    assert recomputed < row["closed_form_bytes"]
    assert script["closed_form_bytes"](CELL | {"recompute": True, "context": 65}) > recomputed


def test_rows_are_written_as_they_are_measured(script, tmp_path, monkeypatch, capsys):
    sizes = iter([40_000_000, 30_000_000, 20_000_000])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(script["main"].__globals__, "measure", lambda cell: next(sizes))
    with pytest.raises(StopIteration):  # the fourth does not fit
        script["main"](["--models", "toy", "--output", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["measured_bytes"] for row in rows] == [40_000_000, 30_000_000, 20_000_000]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_without_a_gpu_it_says_so(tmp_path):
    output = tmp_path / "rows.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, "--output", output]
    done = subprocess.run(map(str, command), capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "torch sees no CUDA device here: nothing was measured\n"
    assert not output.exists()
