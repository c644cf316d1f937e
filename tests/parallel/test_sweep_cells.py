"""Cells of a sweep that two processes train each: the numbers of a run by hand, and of one process; a rank that is killed."""

import csv
import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tomli_w
from runs import run_alone, run_on_ranks

from hunyuan_cli import main
from model.parallel.layout import Layout
from model.sweep.plan import SweepPlan

TWO = Layout(processes=2)
LOGGED = ("loss", "grad_norm", "load_imbalance", "recycled_fraction")


def plan_of(folder: Path) -> dict:
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog while others sleep " * 400)
    training = {"sequence_length": 32, "micro_batch_size": 2, "evaluation_tokens": 256, "checkpoint_every": 4}
    return {
        "model": {"vocab_size": 300, "intermediate_size": 32, "num_experts": 4, "moe_routing": "recycle"},
        "data": {"sources": [str(folder / "text.txt")], "cache_dir": str(folder / "cache")},
        "training": training | {"device": "cpu", "precision": "float32", "epsilon": 1e-3, "log_every": 1},
        "sweep": {"budgets": [8e9], "sizes": ["ladder-64"], "batch_tokens": {"value": 256, "at_flops": 8e9}},
    }


def logged(folder: Path) -> list[list[float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [[row[name] for name in LOGGED] for row in rows]


def kill_a_rank(folder: Path) -> None:
    """The last of the cell's ranks, once it has gone eight steps."""
    metrics, limit = folder / "metrics.jsonl", time.monotonic() + 100
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 8) and time.monotonic() < limit:
        time.sleep(0.005)
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            words, variables = ((place / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if str(folder).encode() in words and b"RANK=1" in variables:
                os.kill(int(place.name), signal.SIGKILL)


@pytest.mark.slow
def test_cells_of_two_processes(ranks, tmp_path, capfd):
    """Killed in its midst and tried again by one process; until then bit for bit what the same ranks do by hand."""
    plan, out = tmp_path / "plan.toml", tmp_path / "sweep"
    plan.write_text(tomli_w.dumps(plan_of(tmp_path)))
    (cell,) = SweepPlan.from_sections(plan_of(tmp_path)).cells()
    folder = out / "cells" / cell.id
    command = ["sweep", str(plan), "--out", str(out), "--no-estimate", "--quiet", "--threads", "1"]
    killer = threading.Thread(target=kill_a_rank, args=(folder,))
    killer.start()
    assert main.run([*command, "--cell-processes", "2"]) == 3
    killer.join()
    (row,) = csv.DictReader((out / "runs.csv").open())
    assert (row["status"], row["loss"]) == ("failed", "")
    assert row["error"] == "rank 1 of 2 was ended by SIGKILL: the machine may be out of memory"
    assert (
        f"run them again with: hunyuan sweep --out {out} --threads 1 --cell-processes 2 --retry-failed"
        in capfd.readouterr().err
    )
    before = logged(folder)

    by_hand = ranks(2).run(run_on_ranks, tmp_path / "by hand", cell.settings, TWO)[0]
    assert 8 <= len(before) < cell.settings.training.steps
    assert before == logged(tmp_path / "by hand")[: len(before)]

    assert main.run([*command, "--retry-failed"]) == 0
    (row,) = csv.DictReader((out / "runs.csv").open())
    assert float(row["loss"]) == pytest.approx(by_hand["val_loss"], rel=1e-5)
    assert float(row["train_loss"]) == pytest.approx(by_hand["loss"], rel=1e-5)
    alone = run_alone(tmp_path / "alone", cell.settings)
    assert float(row["loss"]) == pytest.approx(alone["val_loss"], rel=1e-5)
    for ours, theirs in zip(logged(folder), logged(tmp_path / "alone"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
