"""One cell of a sweep, as a process of its own: python -m hunyuan_cli.sweep_cell FOLDER [--threads N] [--parent PID]

FOLDER is a run folder. Its run.toml says what to train, its newest checkpoint where to go on; how it ended is written to
outcome.json: {"status": "finished" | "failed" | "diverged", "error": a sentence, "notes": [sentences]}.

Exit status: 0 there is an outcome, 130 stopped after a step and saved (SIGTERM or SIGINT), 75 another process runs this cell.
No torch before run_cell.
"""

import argparse
import ctypes
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.files import LOCK, hold, write_json

OUTCOME = "outcome.json"
INTERRUPTED, BUSY = 130, 75  # 75 is EX_TEMPFAIL of sysexits.h
LOCK_SECONDS = 10.0  # a killed process may take this long to let go of its cell
WORSE_THAN_GUESSING = 0.5  # nats over ln(vocabulary), from which a loss is no result


def run_cell(folder: Path, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
    """Trains the cell in `folder`, or goes on with it; its outcome, or None when should_stop() ended it before its end.

    Every error is an outcome: nothing is raised for a cell that cannot be trained.
    """
    from model.errors import HunyuanError, TrainingError
    from model.training.pretraining import pretrain
    from model.training.run_folder import settings_of

    reporter = _Notes()
    status, error = "failed", ""
    details: dict[str, Any] = {}
    try:
        settings = settings_of(folder)
        summary = pretrain(folder, settings, reporter, resume=True, should_stop=should_stop, locked=True)
        if summary["status"] == "interrupted":
            return None
        error = _bad_loss(summary["val_loss"], settings.model.vocab_size)
        status = "diverged" if error else "finished"
    except TrainingError as problem:
        status, error = "diverged", str(problem)
    except HunyuanError as problem:
        error = str(problem)
    except Exception as problem:
        error = _sentence(problem)
        details["traceback"] = traceback.format_exc()
    return {"status": status, "error": error, "notes": reporter.notes} | details


class _StoppedError(BaseException):
    """The process is to end before there is anything to save."""


def die_with(parent: int) -> None:
    """Has Linux end this process with its parent, however that ends; elsewhere only the cell's lock is left."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        raise _StoppedError


class _Notes:
    """A Reporter that keeps what should be read later."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, plan: object) -> None:
        del plan

    def step(self, row: dict[str, Any]) -> None:
        del row

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finish(self, summary: dict[str, Any]) -> None:
        del summary


def _bad_loss(loss: float, vocab_size: int) -> str:
    """What is wrong with a final validation loss, or nothing."""
    guessing = math.log(vocab_size)
    if math.isfinite(loss) and loss <= guessing + WORSE_THAN_GUESSING:
        return ""
    return (
        f"the validation loss ended at {loss:.4g}, worse than guessing (ln {vocab_size} = {guessing:.4g}): "
        "lower sweep.learning_rate.value"
    )


def _sentence(error: Exception) -> str:
    import torch

    from model.errors import missing_compiler

    if said := missing_compiler(error):
        return said
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if memory:
        return "the device is out of memory: lower --workers or training.micro_batch_size"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} (its traceback is in {OUTCOME})"


class _Stop:
    """A signal ends the step that is going on; before the first step there is nothing to save, and it ends the process."""

    def __init__(self) -> None:
        self.asked = self.training = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        self.training = True
        return self.asked

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        if not self.training:
            raise _StoppedError


def main(arguments: list[str]) -> int:
    """The process of one cell; returns its exit status."""
    try:
        return _run(arguments)
    except _StoppedError:
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hunyuan_cli.sweep_cell")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--parent", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.parent:
        die_with(given.parent)
    stop = _Stop()
    lock = hold(given.folder / LOCK, LOCK_SECONDS)
    if lock is None:
        return BUSY
    with lock:
        if (given.folder / OUTCOME).exists():  # another sweep process had the cell, and finished it
            return 0
        import torch

        if given.threads:
            torch.set_num_threads(given.threads)
        outcome = run_cell(given.folder, stop)
        if outcome is None:
            return INTERRUPTED
        write_json(given.folder / OUTCOME, outcome)
    return 0
