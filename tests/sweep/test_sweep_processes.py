"""Real sweeps of real processes: to the end, killed, interrupted, diverging, all with the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweep import results, sections

from hunyuan_cli import main, sweep_cell
from model.sweep.cell import BUSY, run_cell
from model.sweep.engines import LocalEngine
from model.sweep.estimate import Speed, makespan, measure, seconds_alone
from model.sweep.plan import SweepPlan

pytestmark = pytest.mark.slow

CELLS = ("4e+09_ladder-64_s0", "4e+09_ladder-96_s0")
ONE_EACH = ("--workers", "2", "--threads", "1", "--no-estimate")


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rows_of(folder: Path) -> list[dict]:
    timing = ("tokens_per_second", "seconds", "mfu")
    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in timing} for line in text]


def wait_until(happened, seconds=60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names the sweep's cells."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it ended just now
            continue
        if str(folder / "cells").encode() in command:
            found.append(int(path.parent.name))
    return found


def test_a_sweep_leaves_runs_csv_and_shows_it(reference):
    folder, out, err = reference
    assert out == (folder / "runs.csv").read_text()
    rows = results(folder, but=())
    assert [(row["cell"], row["status"]) for row in rows] == [(name, "finished") for name in CELLS]
    for row, name in zip(rows, CELLS, strict=True):
        summary = json.loads((folder / "cells" / name / "summary.json").read_text())
        last = json.loads((folder / "cells" / name / "metrics.jsonl").read_text().splitlines()[-1])
        assert float(row["loss"]) == summary["val_loss"] == last["val_loss"] < 2.5  # nats; guessing is 5.7
        assert float(row["train_loss"]) == summary["loss"] and float(row["tokens_per_second"]) > 0
        assert (int(row["tokens"]), int(row["flops"])) == (summary["tokens"], summary["flops"])
        assert int(row["activated_params"]) == summary["activated_params"]
    log = err.splitlines()
    assert "2 cells, 2 to do" in err and "tokens of 2.8" in err
    assert "note: 1 of the 2 cells read the text more than once, up to 1.3 times" in err
    assert sum(line.startswith("start    ") for line in log) == 2
    assert sum(line.startswith("finished ") and "of 2): loss " in line for line in log) == 2
    assert log[-1] == f"next: hunyuan scale-fit {folder}/runs.csv"


def test_the_same_command_again_trains_nothing(reference, home, capsys):
    folder, out, _ = reference
    files = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("cells/*/*")}
    assert main.run(["sweep", "--out", str(folder), "--no-estimate", "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert captured.out == out
    assert "0 to do" in captured.err and "start" not in captured.err
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("cells/*/*")} == files


def test_a_killed_sweep_leaves_no_orphan_and_ends_like_one_that_was_not(process, plan_file, reference, tmp_path):
    """SIGKILL of the sweep alone, in the middle of both cells; then a plain restart."""
    folder = tmp_path / "sweep"
    child = process(plan_file(), "--out", folder, *ONE_EACH)
    cells = [folder / "cells" / name for name in CELLS]
    wait_until(lambda: child.poll() is not None or any(lines(cell) >= 6 for cell in cells))
    running = processes_of(folder)
    assert running
    child.kill()
    child.wait()
    wait_until(lambda: not processes_of(folder), seconds=5)
    assert not all((cell / "outcome.json").exists() for cell in cells)
    kept = max(lines(cell) for cell in cells)
    assert kept >= 6
    child = process("--out", folder, *ONE_EACH)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "from about step" in err
    assert results(folder) == results(reference[0])
    for cell in cells:
        assert rows_of(cell) == rows_of(reference[0] / "cells" / cell.name)
        assert not (cell / "log.txt").read_text()


def test_ctrl_c_finishes_the_steps_and_a_second_sweep_is_refused_meanwhile(process, plan_file, reference, tmp_path):
    folder = tmp_path / "a sweep"
    child = process(plan_file(), "--out", folder, *ONE_EACH, "--format", "json")
    cells = [folder / "cells" / name for name in CELLS]
    wait_until(lambda: child.poll() is not None or (cells[0] / "run.toml").exists())
    second = process("--out", folder, *ONE_EACH)  # refused before the first has loaded torch
    refused = second.communicate(timeout=60)[1].splitlines()
    assert second.returncode == 1 and refused[-1].startswith(f"error: {folder} is being swept by another process: wait")
    wait_until(lambda: child.poll() is not None or all(lines(cell) >= 1 for cell in cells))
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert f"continue with: hunyuan sweep --out '{folder}' --workers 2 --threads 1" in err.splitlines()[-1]
    assert json.loads(out)["left"] == 2 - json.loads(out)["finished"] >= 1
    assert processes_of(folder) == []
    for cell in cells:
        steps = len(rows_of(cell))
        assert rows_of(cell) == rows_of(reference[0] / "cells" / cell.name)[:steps]
        if not (cell / "outcome.json").exists():
            assert json.loads((cell / "summary.json").read_text())["status"] == "interrupted"
            assert (cell / "checkpoints" / f"step-{steps:08d}" / "manifest.json").exists()


def test_a_cell_that_diverges_is_recorded_and_the_other_finishes(plan_file, tmp_path, capsys):
    """A rule that gives ladder-64 an ordinary rate, and ladder-96, 1.7 times its size, one of 1e36."""
    rule = {"value": 5e-3, "at_params": 63_104, "params_exponent": 165.0, "at_batch_tokens": 256}
    plan = plan_file(sweep={"budgets": [2e9], "learning_rate": rule})
    folder = tmp_path / "sweep"
    assert main.run(["sweep", str(plan), "--out", str(folder), *ONE_EACH, "--quiet"]) == 3
    healthy, diverged = results(folder)
    assert (healthy["status"], healthy["error"]) == ("finished", "") and float(healthy["loss"]) < 5
    assert (diverged["status"], diverged["loss"], diverged["train_loss"]) == ("diverged", "", "")
    assert float(diverged["learning_rate"]) > 1e30
    assert "stopped before the update" in diverged["error"]
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith(("diverged 2e+09_ladder-96_s0 (1 of 2): ", "diverged 2e+09_ladder-96_s0 (2"))
    assert last == (
        "1 of 2 cells failed or diverged (the column error says why); run them again with: "
        f"hunyuan sweep --out {folder} --workers 2 --threads 1 --retry-failed"
    )


# --- one cell ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cell(home, tmp_path):
    """cell("training.x=y") -> the run folder of a small cell that was not started."""

    def make(**changes):
        plan = sections(home)
        for section, values in changes.items():
            plan[section] |= values
        (first, *_) = SweepPlan.from_sections(plan).cells()
        (tmp_path / "run.toml").write_text(first.settings.to_toml())
        return tmp_path

    return make


def test_a_cell_that_cannot_be_trained_has_a_sentence(cell):
    folder = cell(data={"sources": ["/nowhere/at/all.txt"]})
    outcome = run_cell(folder)
    assert outcome["status"] == "failed" and "/nowhere/at/all.txt" in outcome["error"] and "traceback" not in outcome


def test_a_bug_is_an_outcome_with_its_traceback(cell, monkeypatch):
    monkeypatch.setattr("model.training.pretraining.pretrain", lambda *arguments, **options: {}["status"])
    outcome = run_cell(cell())
    assert (outcome["status"], outcome["error"]) == ("failed", "KeyError: 'status' (its traceback is in outcome.json)")
    assert "Traceback" in outcome["traceback"]


@pytest.mark.parametrize(("loss", "status"), [(6.19, "finished"), (6.21, "diverged"), (float("nan"), "diverged")])
def test_worse_than_guessing_is_diverged(cell, monkeypatch, loss, status):
    """The logarithm of 300 is 5.704; half a nat more is allowed."""
    summary = {"status": "finished", "val_loss": loss}
    monkeypatch.setattr("model.training.pretraining.pretrain", lambda *arguments, **options: summary)
    outcome = run_cell(cell())
    assert outcome["status"] == status
    assert ("worse than guessing (ln 300 = 5.704)" in outcome["error"]) == (status == "diverged")


def test_two_processes_never_have_the_same_cell(cell, monkeypatch):
    folder = cell()
    monkeypatch.setattr(sweep_cell, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(sweep_cell, "_Stop", lambda: None)  # this process keeps its signals
    with sweep_cell.hold(folder / ".lock"):
        assert sweep_cell.main([str(folder)]) == BUSY
    (folder / "outcome.json").write_text("{}")
    assert sweep_cell.main([str(folder)]) == 0  # another had it, and ended it
    assert not (folder / "metrics.jsonl").exists()


def test_a_cell_whose_parent_is_gone_does_not_begin(cell):
    command = [sys.executable, "-m", "hunyuan_cli.sweep_cell", str(cell()), "--parent", "1"]
    done = subprocess.run(command, timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 130


def test_gpus_go_round(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("model.sweep.engines.launch", lambda *started: given.append(started))
    engine = LocalEngine("a.module", workers=5, threads=3, gpus=["0", "MIG-7"])
    for place in range(5):
        engine.start(str(place), tmp_path)
    assert [started[:3] for started in given] == [("a.module", tmp_path, 3)] * 5
    assert [env["CUDA_VISIBLE_DEVICES"] for *_, env, _ in given] == ["0", "MIG-7", "0", "MIG-7", "0"]
    assert engine.running == ["0", "1", "2", "3", "4"]


def test_a_cell_of_several_processes_has_gpus_of_its_own(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("model.sweep.engines.launch", lambda *started: given.append(started[3:]))
    engine = LocalEngine("a.module", workers=2, threads=3, gpus=list("34567"), processes=2)
    for place in range(2):
        engine.start(str(place), tmp_path)
    assert given == [({"CUDA_VISIBLE_DEVICES": "3,4"}, 2), ({"CUDA_VISIBLE_DEVICES": "5,6"}, 2)]


# --- the expected time ------------------------------------------------------------------------------------------------


def test_expected_times_are_interpolated_between_the_measured_sizes():
    """FLOP/s 1e9 and 4e9 at sizes that lie a factor of 16 apart: 2e9 halfway in logarithms."""
    cells = SweepPlan.from_sections({"sweep": {"budgets": [1e13], "sizes": ["ladder-64", "ladder-96"]}}).cells()
    first = cells[0]
    low, high = first.activated // 4, first.activated * 4
    speeds = [Speed(low, first.total // 10, 1e9, 0.01, 1.0), Speed(high, first.total * 10, 4e9, 0.01, 1.0)]
    evaluation = 65_536 * 2_973_696 / 3
    expected = (first.flops + evaluation) / 2e9 + 821 * 0.01
    assert seconds_alone(first, speeds) == pytest.approx(expected, rel=1e-6)
    assert seconds_alone(first, speeds[:1]) == pytest.approx((first.flops + evaluation) / 1e9 + 8.21, rel=1e-6)


def test_the_longest_cells_go_first_to_whoever_is_free():
    assert makespan([3, 3, 2, 2, 2], 2) == 7
    assert makespan([5, 1, 1, 1], 2) == 5
    assert makespan([1, 2], 1) == 3


def test_a_measurement_is_of_this_machine(home):
    (first, *_) = SweepPlan.from_sections(sections(home)).cells()
    speed = measure(first.settings, 0.2)
    assert 1e6 < speed.flops_per_second < 1e13 and 0 < speed.update_seconds < 5
    assert (speed.activated, speed.total, speed.busy) == (first.activated, first.total, 1.0)
