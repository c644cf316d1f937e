"""examples/claims/study.py: its arms are the comparisons they say, and a study of one step is cut and goes on."""

import csv
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from model.counts import activated_params, kv_cache_bytes, total_params
from model.training.schedule import expert_lr_scale
from model.training.settings import RunSettings

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "claims" / "study.py"
STUDY = runpy.run_path(str(SCRIPT))


def settings(arm):
    return RunSettings.from_sections(STUDY["sections_of"](arm, 3, {"training.steps": 7}))


def test_every_arm_can_be_trained_and_differs_from_the_others():
    every = [settings(arm).to_toml() for arm in STUDY["ARMS"]]
    assert len(set(every)) == len(every) == 23
    assert all("seed = 3" in text and "steps = 7" in text for text in every)


def test_arms_are_equal_in_what_they_are_not_compared_in():
    report, no_cla, one_head, routed = (
        settings(arm).model for arm in ("report", "no CLA", "no CLA, one KV head", "routed only")
    )
    assert [kv_cache_bytes(model, tokens=1) for model in (report, no_cla, one_head)] == [512, 1024, 512]
    assert activated_params(report) == activated_params(one_head) == 1_222_016
    assert activated_params(routed) == 1_222_016 + 4 * 128  # one more row of each router
    assert total_params(routed) == total_params(report) + 4 * 128
    assert routed.topk(0) == 2 and routed.num_shared_expert == 0
    large = settings("large, expert rate 1.0")
    assert 4.5 < activated_params(large.model) / activated_params(report) < 5.5
    assert round(expert_lr_scale(report, settings("report").training), 2) == 0.31


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(script.read_text() for script in sorted((ROOT / "examples").glob("*.py"))))
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_cells_leave_their_tables_and_one_that_was_killed_is_begun_again(tmp_path, text, monkeypatch):
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    common = {
        "data.sources": [str(text)], "data.cache_dir": str(tmp_path), "training.steps": 1, "training.device": "cpu",
        "training.evaluation_tokens": 256, "training.log_every": 1, "training.sequence_length": 16,
        "training.global_batch_tokens": 256,
    }  # fmt: skip
    folders = {(arm, 0): tmp_path / "runs" / arm for arm in ("report", "measured", "drop")}
    for folder in folders.values():  # killed before a first checkpoint
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").touch()
    found = [
        STUDY["run_cell"](folders[arm, 0], STUDY["sections_of"](arm, 0, common), end)
        for arm, end in (("report", math.inf), ("measured", math.inf), ("drop", 0.0))
    ]
    assert found == ["finished", "finished", "not begun"]
    STUDY["write_tables"](folders, tmp_path / "cells.csv", tmp_path / "curves.csv")
    cells, lines = rows_of(tmp_path / "cells.csv"), rows_of(tmp_path / "curves.csv")
    assert [(cell["variant"], cell["seed"], cell["tokens"]) for cell in cells] == [
        ("report", "0", "256"), ("measured", "0", "256"),
    ]  # fmt: skip
    for cell in cells:
        folder = folders[cell["variant"], 0]
        summary = json.loads((folder / "summary.json").read_text())
        assert float(cell["val_loss"]) == summary["val_loss"] and not (folder / "checkpoints").exists()
    assert [bool(line["noise_scale_routed"]) for line in lines] == [False, True]
    assert float(lines[0]["val_loss"]) == pytest.approx(float(cells[0]["val_loss"]), rel=1e-5)


def test_the_script_plans_whole_seeds_and_begins_nothing_after_its_time(tmp_path, text):
    command = [sys.executable, SCRIPT, "--sources", "text.txt", "--minutes", "0", "--out", "out", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HUNYUAN_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert rows_of(tmp_path / "out" / "cells.csv") == [] and list((tmp_path / "out" / "runs").iterdir()) == []
