"""One cell of a sweep: the training of one run folder, and how it ended.

The folder's run.toml says what to train, its newest checkpoint where to go on. hunyuan_cli/sweep_cell.py is the process of a
cell, which writes what run_cell returns to outcome.json.
"""

import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUTCOME = "outcome.json"
INTERRUPTED, BUSY = 130, 75  # exit statuses of the process; 75 is EX_TEMPFAIL of sysexits.h
WORSE_THAN_GUESSING = 0.5  # nats over ln(vocabulary), from which a loss is no result


def run_cell(folder: Path, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
    """Trains the cell in `folder`, whose lock is held, or goes on with it; None when should_stop() ended it before its end.

    The outcome is {"status": "finished" | "failed" | "diverged", "error": a sentence, "notes": [sentences]}. Every error is
    one: nothing is raised for a cell that cannot be trained.
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
