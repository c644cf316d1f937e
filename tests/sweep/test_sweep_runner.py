"""What a sweep records and what it does again, with an engine that only pretends to train."""

import json
import random
import signal

import pytest
import tomli_w
from small_sweep import results, sections, write_text

from model.errors import CheckpointError, ConfigError, HunyuanError
from model.files import hold
from model.sweep.cell import BUSY, INTERRUPTED
from model.sweep.engines import Ended, share_out
from model.sweep.plan import SweepPlan
from model.sweep.runner import COLUMNS, Sweep, plan_of


class Pretended:
    """An engine whose cells end in a random order, each as `ends` says: finished, failed, or the status of a crash."""

    def __init__(self, ends=None, places=2, seed=0):
        self.ends, self.places, self.running, self.started = ends or {}, places, [], []
        self._folders, self._draw, self.stopped, self.closed = {}, random.Random(seed), False, False

    def start(self, id, folder):
        assert len(self.running) < self.places and not (folder / "outcome.json").exists()
        self.running.append(id)
        self.started.append(id)
        self._folders[id] = folder

    def ended(self):
        if not self.running:
            return []
        id = self._draw.choice(self.running)
        self.running.remove(id)
        folder, end = self._folders[id], self.ends.get(id, "finished")
        if isinstance(end, int):
            return [Ended(id, end, "Segmentation fault")]
        (folder / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        loss = 2.0 + len(id) / 7 + sum(map(ord, id)) / 1000
        summary = {"status": "finished", "val_loss": loss, "loss": loss + 0.1, "val_bits_per_byte": 1.5}
        summary |= {"seconds": self._draw.random(), "tokens_per_second": 5.0, "load_imbalance": 1.25}
        (folder / "summary.json").write_text(json.dumps(summary))
        error = "" if end == "finished" else f"it {end}"
        (folder / "outcome.json").write_text(json.dumps({"status": end, "error": error, "notes": []}))
        return [Ended(id, 0)]

    def stop(self):
        self.stopped = True

    def close(self):
        self.closed, self.running = True, []


class Quiet:
    def __init__(self):
        self.ends = {}

    def started(self, cell):
        pass

    def ended(self, cell, row, note):
        self.ends[cell.id] = row and row["status"], note

    def tick(self):
        pass


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr("model.sweep.runner.POLL_SECONDS", 0.0)


@pytest.fixture
def sweep(home, tmp_path):
    """sweep(engine, sweep={"seeds": [0, 1]}, ...) -> (Sweep, Quiet) after a run in tmp_path/sweep with these changes."""

    def run(engine, *, folder="sweep", **changes):
        plan = sections(home)
        options = changes.pop("run", {})
        for section, values in changes.items():
            plan[section] |= values
        grid, watcher = Sweep(tmp_path / folder, SweepPlan.from_sections(plan)), Quiet()
        with grid.held():
            grid.prepare()
            grid.run(engine, watcher, **options)
        return grid, watcher

    return run


FOUR = {"sweep": {"budgets": [4e9, 8e9]}}
CELLS = ["4e+09_ladder-64_s0", "4e+09_ladder-96_s0", "8e+09_ladder-64_s0", "8e+09_ladder-96_s0"]


def test_runs_csv_has_every_column_in_the_order_of_the_grid_whatever_ended_first(sweep):
    files = []
    for seed in range(3):
        grid, _ = sweep(Pretended(seed=seed), folder=f"sweep{seed}", **FOUR)
        files.append(results(grid.folder))
    assert files[0] == files[1] == files[2]
    assert [row["cell"] for row in files[0]] == CELLS
    row = results(grid.folder, but=())[1]
    assert tuple(row) == COLUMNS
    assert row["status"] == "finished" and row["error"] == "" and row["model"] == "ladder-96" and row["seed"] == "0"
    # ladder-96 with vocabulary 300, 4 experts of width 32, at 32 tokens: 6 FLOPs for each of 120,192 multiply-adds
    assert (row["budget"], row["steps"], row["batch_tokens"]) == ("4000000000.0", "22", "256")
    assert int(row["flops"]) == 22 * 256 * 721_152 and int(row["tokens"]) == 22 * 256
    assert int(row["activated_params"]) - int(row["activated_params_without_embedding"]) == 300 * 96
    assert int(row["total_params"]) - int(row["activated_params"]) == 2 * 3 * (3 * 96 * 32)
    assert float(row["epochs"]) == 22 * 256 / 7044
    assert float(row["train_loss"]) == pytest.approx(float(row["loss"]) + 0.1)
    assert not list(grid.folder.glob("cells/*/checkpoints"))  # given back


def test_what_ended_is_not_run_again_and_more_may_be_added(sweep):
    engine = Pretended()
    sweep(engine)
    assert sorted(engine.started) == CELLS[:2]
    again = Pretended()
    grid, _ = sweep(again, sweep={"seeds": [0, 5], "budgets": [4e9, 8e9]})
    assert len(again.started) == 6 and not set(again.started) & set(CELLS[:2])
    assert len(results(grid.folder)) == 8
    nothing = Pretended()
    sweep(nothing, sweep={"seeds": [0, 5], "budgets": [4e9, 8e9]})
    assert nothing.started == []


def test_a_failed_cell_stops_no_other_and_stays_failed_unless_asked(sweep):
    ends = {CELLS[0]: "diverged", CELLS[1]: -signal.SIGKILL, CELLS[2]: 1}
    grid, watcher = sweep(Pretended(ends), **FOUR)
    rows = results(grid.folder)
    assert [row["status"] for row in rows] == ["diverged", "failed", "failed", "finished"]
    assert rows[0]["error"] == "it diverged"
    assert rows[1]["error"] == (
        "its process was ended by SIGKILL: the machine may be out of memory, lower --workers (Segmentation fault)"
    )
    assert rows[2]["error"] == "its process ended with status 1: Segmentation fault"
    assert all(row["loss"] == "" and row["tokens"] for row in rows[:3])
    assert watcher.ends[CELLS[3]] == ("finished", "")
    nothing, retried = Pretended(), Pretended()
    sweep(nothing, **FOUR)
    assert nothing.started == []
    grid, _ = sweep(retried, **FOUR, run={"retry_failed": True})
    assert sorted(retried.started) == CELLS[:3]
    assert {row["status"] for row in results(grid.folder)} == {"finished"}


def test_interrupted_and_busy_cells_have_no_outcome(sweep):
    ends = {CELLS[0]: INTERRUPTED, CELLS[1]: BUSY}
    grid, watcher = sweep(Pretended(ends))
    assert results(grid.folder) == []
    assert watcher.ends[CELLS[0]] == (None, "")
    assert watcher.ends[CELLS[1]] == (
        None,
        f"another process still runs {CELLS[1]}: end it, then start the sweep again",
    )
    assert [cell.id for cell in grid.todo()] == CELLS[:2]


def test_stopping_starts_nothing_more_and_closes_the_engine(sweep):
    engine = Pretended(places=1)
    sweep(engine, **FOUR, run={"should_stop": lambda: len(engine.started) == 2})
    assert len(engine.started) == 2 and engine.stopped and engine.closed


def test_an_error_of_the_engine_closes_it(sweep):
    engine = Pretended()
    engine.ended = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        sweep(engine)
    assert engine.closed


def test_the_order_is_the_callers(sweep):
    engine = Pretended(places=1)
    sweep(engine, **FOUR, run={"order": lambda cell: -cell.activated * 1e9 - cell.budget})
    assert engine.started == [CELLS[3], CELLS[1], CELLS[2], CELLS[0]]


def test_checkpoints_stay_where_the_plan_keeps_them(sweep):
    grid, _ = sweep(Pretended({CELLS[1]: "failed"}), sweep={"keep_checkpoints": True})
    assert len(list(grid.folder.glob("cells/*/checkpoints"))) == 2
    grid, _ = sweep(Pretended(), sweep={"keep_checkpoints": False})
    assert [path.parent.name for path in grid.folder.glob("cells/*/checkpoints")] == [CELLS[1]]  # to go on from


def test_a_sweep_goes_on_with_another_choice_of_compilation(sweep):
    """As a resumed run may: those from before `auto` have compile = false in their files."""
    sweep(Pretended({CELLS[1]: INTERRUPTED}), training={"compile": False})
    _, watcher = sweep(Pretended(), training={"compile": "auto"})
    assert {status for status, _ in watcher.ends.values()} == {"finished"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"weight_decay": 0.2}}, "(training.weight_decay was 0.1 and is now 0.2): only budgets, sizes and seeds"),
        ({"model": {"moe_topk": 2}}, "(model.moe_topk was left out and is now 2)"),
        ({"sweep": {"learning_rate": {"value": 1e-3, "at_batch_tokens": 256}}}, "(sweep.learning_rate.value was 0.003 and is"),
        ({"data": {"text_key": "body"}}, "(data.text_key was text and is now body)"),
        ({"sweep": {"budgets": [8e9]}}, "has 2 cells that this plan has not, such as 4e+09_ladder-64_s0: budgets, sizes and"),
        ({"sweep": {"sizes": ["ladder-64"]}}, "has 1 cell that this plan has not, such as 4e+09_ladder-96_s0"),
        ({"sweep": {"times": 10}}, "has 2 cells that this plan has not"),
    ],
)  # fmt: skip
def test_another_plan_is_refused_by_name(sweep, changes, says):
    sweep(Pretended())
    with pytest.raises(ConfigError) as refused:
        sweep(Pretended(), **changes)
    (problem,) = refused.value.problems
    assert says in problem and problem.endswith("or choose another folder with --out")


def test_a_cell_whose_settings_are_no_longer_the_plans_is_refused(sweep):
    """As when a preset changed between two versions of the program."""
    grid, _ = sweep(Pretended({CELLS[0]: INTERRUPTED}))
    path = grid.folder / "cells" / CELLS[0] / "run.toml"
    path.write_text(path.read_text().replace("num_hidden_layers = 2", "num_hidden_layers = 3"))
    with pytest.raises(ConfigError, match=r"model\.num_hidden_layers was 3 and is now 2"):
        sweep(Pretended())


def test_other_text_is_refused(sweep, home, tmp_path):
    own = {"data": {"sources": [str(write_text(tmp_path / "text.txt"))]}}
    sweep(Pretended(), **own)
    write_text(tmp_path / "text.txt", seed=1)
    with pytest.raises(CheckpointError, match=r"the data of .* has changed since it began \(fingerprint"):
        sweep(Pretended(), **own)


def test_the_folder_of_a_run_is_not_swept(home, tmp_path):
    (tmp_path / "run.toml").touch()
    with pytest.raises(CheckpointError, match="holds a run, not a sweep: choose another folder"):
        Sweep(tmp_path, SweepPlan.from_sections(sections(home)))


def test_a_folder_is_swept_by_one_process(sweep, tmp_path):
    grid, _ = sweep(Pretended())
    with hold(grid.folder / ".lock"), pytest.raises(CheckpointError, match="is being swept by another process: wait"):
        sweep(Pretended())
    sweep(Pretended())


def test_a_damaged_outcome_is_a_sentence(sweep):
    grid, _ = sweep(Pretended())
    path = grid.folder / "cells" / CELLS[0] / "outcome.json"
    path.write_text("{")
    with pytest.raises(HunyuanError, match=r"outcome\.json is damaged .*: remove it, and the cell is run again"):
        sweep(Pretended())
    path.unlink()
    again = Pretended()
    sweep(again)
    assert again.started == [CELLS[0]]


def test_progress_is_the_last_whole_line(sweep):
    grid, _ = sweep(Pretended({CELLS[0]: INTERRUPTED}))
    cell = grid.cells[0]
    assert grid.progress(cell).step == 0
    path = grid.cell_folder(cell) / "metrics.jsonl"
    rows = [{"step": step, "loss": 5 - step, "tokens_per_second": 9.0, "pad": "x" * 9000} for step in range(1, 21)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 21, "lo')
    progress = grid.progress(cell)
    assert (progress.step, progress.loss, progress.tokens_per_second) == (20, -15, 9.0)
    assert grid.status(cell) == "interrupted"


def test_the_folders_plan_is_the_resolved_one(sweep, home):
    grid, _ = sweep(Pretended())
    assert SweepPlan.from_sections(plan_of(grid.folder)) == SweepPlan.from_sections(sections(home))
    assert plan_of(home) is None
    assert tomli_w.dumps(plan_of(grid.folder)) == (grid.folder / "plan.toml").read_text()


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ((0, 0, 0, 8, 100), (8, 1)), ((0, 0, 0, 8, 3), (3, 2)), ((2, 0, 0, 8, 100), (2, 4)), ((0, 4, 0, 8, 100), (8, 4)),
        ((0, 0, 4, 32, 100), (4, 8)), ((8, 0, 1, 16, 100), (8, 2)), ((16, 0, 0, 8, 9), (16, 1)), ((0, 0, 0, 8, 0), (1, 8)),
        ((0, 0, 0, 8, 100, 2), (4, 1)), ((0, 0, 5, 32, 100, 2), (2, 8)), ((1, 0, 0, 8, 9, 2), (1, 4)),
    ],
)  # fmt: skip
def test_processors_are_shared_out(given, shared):
    """workers, threads, GPUs, processors, cells and processes of each -> workers, threads of a process."""
    assert share_out(*given) == shared


@pytest.mark.parametrize(("code", "status"), [(-15, None), (-2, None), (-9, "failed")])
def test_a_cell_that_is_stopped_before_its_python_listens_is_not_failed(sweep, code, status):
    class UntilStopped(Pretended):
        def ended(self):
            return super().ended() if self.stopped else []

    engine = UntilStopped(dict.fromkeys(CELLS, code), places=1)
    grid, watcher = sweep(engine, run={"should_stop": lambda: bool(engine.started)}, **FOUR)
    assert engine.stopped and len(engine.started) == 1
    assert watcher.ends == {engine.started[0]: (status, watcher.ends[engine.started[0]][1])}
    assert (grid.cell_folder(grid.cells[CELLS.index(engine.started[0])]) / "outcome.json").exists() == (
        status is not None
    )
