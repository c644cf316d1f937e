"""A sweep's folder: what is to be done, what was done, and runs.csv.

    plan.toml    the resolved plan                      runs.csv   one row for every cell that ended
    data.json    the text: fingerprint, tokens          cells/ID/  an ordinary run folder, and outcome.json

The cells of a plan may become more, nothing else may change. What ended is never run again, but failed cells with
retry_failed; what was interrupted goes on from its newest checkpoint.
"""

import csv
import io
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from model.data.corpus import Progress, prepare_corpus
from model.errors import CheckpointError, ConfigError, HunyuanError
from model.files import LOCK, hold, read_json, write_file, write_json
from model.sweep.cell import BUSY, INTERRUPTED, OUTCOME
from model.sweep.engines import Ended, Engine
from model.sweep.plan import Cell, SweepPlan, read_plan
from model.training.settings import RunSettings

PLAN, RUNS, DATA = "plan.toml", "runs.csv", "data.json"
COLUMNS = (
    "cell", "status", "budget", "flops", "model", "seed", "activated_params", "activated_params_without_embedding",
    "total_params", "tokens", "steps", "batch_tokens", "learning_rate", "loss", "train_loss", "val_bits_per_byte",
    "epochs", "seconds", "tokens_per_second", "load_imbalance", "error",
)  # fmt: skip
TIMING = ("seconds", "tokens_per_second")  # the columns in which two equal sweeps differ
GROWING = (
    "sweep.budgets", "sweep.sizes", "sweep.seeds", "sweep.times", "sweep.tokens_per_param",
    "sweep.learning_rate.factors", "sweep.batch_tokens.factors",
)  # fmt: skip
FREE = (
    "sweep.keep_checkpoints",
    "training.compile",
    "training.graph",
)  # may differ: a resumed run, too, may change its compilation
POLL_SECONDS = 0.1

STOP_SIGNALS = (-signal.SIGTERM, -signal.SIGINT)  # of a cell that is stopped before its Python listens


class Watcher(Protocol):
    """Is told what happens; may draw it."""

    def started(self, cell: Cell) -> None: ...

    def ended(self, cell: Cell, row: Mapping[str, Any] | None, note: str) -> None:
        """`row` is the cell's in runs.csv, None when it was interrupted; `note` what should be read."""

    def tick(self) -> None:
        """A few times a second."""


@dataclass(frozen=True)
class Text:
    """What the cells are trained on."""

    fingerprint: str
    train_tokens: int
    validation_tokens: int
    documents: int  # for training
    bytes_per_token: float


@dataclass(frozen=True)
class CellProgress:
    """How far a cell is, by the last line of its metrics."""

    step: int
    loss: float | None = None
    tokens_per_second: float | None = None


class Sweep:
    """A plan and its folder."""

    def __init__(self, folder: Path, plan: SweepPlan) -> None:
        """ConfigError when the folder was begun with another plan. Nothing is written."""
        self.folder, self.plan = folder, plan
        self.text: Text | None = None
        self._check_same_plan()

    @cached_property
    def cells(self) -> list[Cell]:
        return self.plan.cells()

    def cell_folder(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.id

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, and keeps other sweeps out of it."""
        (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        lock = hold(self.folder / LOCK)
        if lock is None:
            raise CheckpointError(
                f"{self.folder} is being swept by another process: wait until it is done, or choose another folder with --out"
            )
        with lock:
            self._check_same_plan()  # another sweep may have ended just now
            write_file(self.folder / PLAN, self.plan.to_toml())
            yield

    def prepare(self, progress: Progress | None = None) -> Text:
        """Reads and tokenizes the text, once for all cells, into the cache; DataError when another text began the sweep."""
        settings = self.cells[0].settings
        corpus = prepare_corpus(settings.data, settings.model.vocab_size, progress)
        self.text = Text(
            fingerprint=corpus.fingerprint,
            train_tokens=sum(map(len, corpus.train.values())),
            validation_tokens=sum(map(len, corpus.validation.values())),
            documents=sum(shard.documents for shard in corpus.train.values()),
            bytes_per_token=corpus.bytes_per_token,
        )
        before = _read_json(self.folder / DATA).get("fingerprint", corpus.fingerprint)
        if before != corpus.fingerprint:
            raise CheckpointError(
                f"the data of {self.folder} has changed since it began (fingerprint {before[:12]}, now "
                f"{corpus.fingerprint[:12]}): bring the same text back, or choose another folder with --out"
            )
        return self.text

    # --- what there is to do ------------------------------------------------------------------------------------------

    def status(self, cell: Cell) -> str:
        """finished, failed, diverged; or interrupted, or empty for a cell that was never started."""
        outcome = _read_json(self.cell_folder(cell) / OUTCOME)
        started = (self.cell_folder(cell) / "metrics.jsonl").exists()
        return str(outcome.get("status", "interrupted" if started else ""))

    def todo(self, retry_failed: bool = False) -> list[Cell]:
        """The cells that have no outcome yet, or, to be tried again, none that is a result."""
        over = ("finished",) if retry_failed else ("finished", "failed", "diverged")
        return [cell for cell in self.cells if self.status(cell) not in over]

    def progress(self, cell: Cell) -> CellProgress:
        """How far a cell is; step 0 when it has logged nothing."""
        row = _last_row(self.cell_folder(cell) / "metrics.jsonl")
        return CellProgress(int(row.get("step", 0)), row.get("loss"), row.get("tokens_per_second"))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of runs.csv: of every cell with an outcome, in the order of the grid."""
        return [row for cell in self.cells if (row := self.row(cell))]

    def row(self, cell: Cell) -> dict[str, Any]:
        """The row of one cell, in which the seconds and speed are those of its run; empty when it has no outcome."""
        folder = self.cell_folder(cell)
        outcome = _read_json(folder / OUTCOME)
        if not outcome:
            return {}
        training = cell.settings.training
        row = {
            "cell": cell.id,
            "status": outcome["status"],
            "budget": cell.budget,
            "flops": cell.flops,
            "model": cell.size,
            "seed": cell.seed,
            "activated_params": cell.activated,
            "activated_params_without_embedding": cell.activated_without_embedding,
            "total_params": cell.total,
            "tokens": cell.tokens,
            "steps": training.steps,
            "batch_tokens": training.global_batch_tokens,
            "learning_rate": training.learning_rate,
            "epochs": cell.tokens / (self.text or Text(**_read_json(self.folder / DATA))).train_tokens,
            "error": outcome.get("error", ""),
        }
        if outcome["status"] == "finished":
            summary = _read_json(folder / "summary.json")
            row |= {"loss": summary["val_loss"], "train_loss": summary["loss"]}
            row |= {name: summary.get(name) for name in ("val_bits_per_byte", "load_imbalance", *TIMING)}
        return {name: row.get(name) for name in COLUMNS}

    # --- doing it -----------------------------------------------------------------------------------------------------

    def run(
        self,
        engine: Engine,
        watcher: Watcher,
        *,
        retry_failed: bool = False,
        order: Callable[[Cell], float] = lambda cell: -cell.budget,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Runs what there is to do, smallest `order` first, and records each end; False when should_stop() ended it early.

        To be called inside held() and after prepare(). A cell that fails is recorded, and stops no other.
        """
        if self.text is None:
            raise ValueError("prepare() first: the text is read once, before any cell")
        write_json(self.folder / DATA, asdict(self.text))
        waiting = sorted(self.todo(retry_failed), key=order)
        for cell in waiting:
            self._make_ready(cell)
        for cell in self.cells:
            self._give_back_checkpoints(cell)
        self._write_runs()
        by_id = {cell.id: cell for cell in waiting}
        stopped = self.stopping = False
        try:
            while engine.running or (waiting and not stopped):
                if not stopped and should_stop():
                    stopped = self.stopping = True
                    engine.stop()
                while waiting and not stopped and len(engine.running) < engine.places:
                    cell = waiting.pop(0)
                    engine.start(cell.id, self.cell_folder(cell))
                    watcher.started(cell)
                for end in engine.ended():
                    self._record(by_id[end.id], end, watcher)
                watcher.tick()
                time.sleep(POLL_SECONDS)
        finally:
            engine.close()
        return not stopped

    def _make_ready(self, cell: Cell) -> None:
        """The run folder with its run.toml, from which the cell's process starts or goes on."""
        folder = self.cell_folder(cell)
        if (folder / "run.toml").exists():
            there = RunSettings.from_toml(folder / "run.toml")
            if difference := _first_difference(asdict(there), asdict(cell.settings)):
                raise ConfigError([
                    f"{folder} was begun with other settings than this plan gives it ({difference}): "
                    "choose another folder with --out"
                ])  # fmt: skip
        else:
            folder.mkdir(exist_ok=True)
            write_file(folder / "run.toml", cell.settings.to_toml())
        (folder / OUTCOME).unlink(missing_ok=True)  # of a failure that is tried again

    def _record(self, cell: Cell, end: Ended, watcher: Watcher) -> None:
        folder = self.cell_folder(cell)
        if not (folder / OUTCOME).exists():
            if end.code in (INTERRUPTED, BUSY) or (self.stopping and end.code in STOP_SIGNALS):
                busy = f"another process still runs {cell.id}: end it, then start the sweep again"
                watcher.ended(cell, None, busy if end.code == BUSY else "")
                return
            write_json(folder / OUTCOME, {"status": "failed", "error": _crash(end)})
        notes = _read_json(folder / OUTCOME).get("notes", [])
        self._give_back_checkpoints(cell)
        self._write_runs()
        watcher.ended(cell, self.row(cell), "; ".join(notes))

    def _give_back_checkpoints(self, cell: Cell) -> None:
        if not self.plan.sweep.keep_checkpoints and self.status(cell) == "finished":
            shutil.rmtree(self.cell_folder(cell) / "checkpoints", ignore_errors=True)

    def _write_runs(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        write_file(self.folder / RUNS, text.getvalue())

    def _check_same_plan(self) -> None:
        """Refuses a plan that changes what the folder's has, or lacks one of its cells."""
        if not (self.folder / PLAN).exists():
            if (self.folder / "run.toml").exists():
                raise CheckpointError(f"{self.folder} holds a run, not a sweep: choose another folder with --out")
            return
        before = SweepPlan.from_sections(read_plan(self.folder / PLAN))
        if difference := _first_difference(before.to_sections(), self.plan.to_sections(), GROWING):
            raise ConfigError([
                f"{self.folder} was begun with another plan ({difference}): only budgets, sizes and seeds may be added; "
                "undo the change, or choose another folder with --out"
            ])  # fmt: skip
        here = {cell.id for cell in self.cells}
        lost = [cell.id for cell in before.cells() if cell.id not in here]
        if lost:
            count = f"{len(lost)} cell{'s'[: len(lost) > 1]}"
            raise ConfigError([
                f"{self.folder} has {count} that this plan has not, such as {lost[0]}: budgets, sizes and seeds may only be "
                "added; name the earlier ones, too, or choose another folder with --out"
            ])  # fmt: skip


def plan_of(folder: Path) -> dict[str, Any] | None:
    """The sections of the plan that a sweep's folder was begun with, None when it is none."""
    return read_plan(folder / PLAN) if (folder / PLAN).exists() else None


def _crash(end: Ended) -> str:
    """A sentence on a process that left no outcome."""
    if end.code < 0:
        name = signal.Signals(-end.code).name
        why = ": the machine may be out of memory, lower --workers" if -end.code == signal.SIGKILL else ""
        return f"its process was ended by {name}{why}" + (f" ({end.detail})" if end.detail else "")
    return f"its process ended with status {end.code}" + (f": {end.detail}" if end.detail else "")


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str] = ()) -> str:
    """The first setting that is not the same, with both values, but for those that may differ."""
    old, new = dict(_flatten(before)), dict(_flatten(now))
    for name in dict.fromkeys((*old, *new)):
        if name not in (*but, *FREE) and old.get(name) != new.get(name):
            return f"{name} was {_shown(old.get(name))} and is now {_shown(new.get(name))}"
    return ""


def _shown(value: Any) -> str:
    return "left out" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, tuple(value) if isinstance(value, list) else value


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics.jsonl that may be growing."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0, io.SEEK_END)
        file.seek(max(0, file.tell() - 65_536))
        for line in reversed(file.read().split(b"\n")):
            with suppress(ValueError):
                row = json.loads(line)
                return row if isinstance(row, dict) else {}
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    """An object; empty where there is no file."""
    try:
        document = read_json(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise HunyuanError(f"{path} is damaged ({error}): remove it, and the cell is run again") from error
    return document if isinstance(document, dict) else {}
