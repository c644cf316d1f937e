"""One cell of a sweep: the training of one run folder, and how it ended.

The folder's run.toml says what to train, its newest checkpoint where to go on. hunyuan_cli/sweep_cell.py is the process of a
cell, which writes what run_cell returns to outcome.json; where a cell has several, hunyuan_cli/sweep_rank.py is each of them.
"""

import math
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.parallel.start import Ranks

OUTCOME = "outcome.json"
INTERRUPTED, BUSY = 130, 75  # exit statuses of the process; 75 is EX_TEMPFAIL of sysexits.h
WORSE_THAN_GUESSING = 0.5  # nats over ln(vocabulary), from which a loss is no result


def run_cell(folder: Path, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
    """Trains the cell in `folder`, whose lock is held, or goes on with it; None when should_stop() ended it before its end.

    The outcome is {"status": "finished" | "failed" | "diverged", "error": a sentence, "notes": [sentences]}. Every error is
    one: nothing is raised for a cell that cannot be trained.
    """
    from model.errors import TrainingError

    notes: list[str] = []
    try:
        return train_cell(folder, should_stop, notes)
    except TrainingError as problem:
        return {"status": "diverged", "error": str(problem), "notes": notes}
    except Exception as problem:
        outcome = {"status": "failed", "error": sentence(problem, OUTCOME), "notes": notes}
        return outcome | ({"traceback": traceback.format_exc()} if OUTCOME in outcome["error"] else {})


def train_cell(
    folder: Path, should_stop: Callable[[], bool], notes: list[str], ranks: "Ranks | None" = None
) -> dict[str, Any] | None:
    """The outcome of a cell that was trained to its end, None of one that was stopped; errors are raised.

    With `ranks` all processes of the cell call it, and have the same outcome.
    """
    from model.training.pretraining import pretrain
    from model.training.run_folder import settings_of

    settings, reporter = settings_of(folder), _Notes(notes)
    reporter.note_unused_gpus(settings.training.device)
    summary = pretrain(
        folder, settings, reporter, resume=True, should_stop=should_stop, locked=True, ranks=ranks,
    )  # fmt: skip
    if summary["status"] == "interrupted":
        return None
    error = _bad_loss(summary["val_loss"], settings.model.vocab_size)
    return {"status": "diverged" if error else "finished", "error": error, "notes": notes}


class _Notes:
    """A Reporter that keeps what should be read later."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def start(self, plan: object) -> None:
        del plan

    def step(self, row: dict[str, Any]) -> None:
        del row

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finish(self, summary: dict[str, Any]) -> None:
        del summary

    def note_unused_gpus(self, device: str) -> None:
        """Where an engine has given GPUs and torch here has no use for them."""
        from model.device import pick_device

        if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) and device == "auto" and pick_device(device).type == "cpu":
            self.note(f"torch sees none of the GPUs {given} that the cell was given, so the processor trained it")


def _bad_loss(loss: float, vocab_size: int) -> str:
    """What is wrong with a final validation loss, or nothing."""
    guessing = math.log(vocab_size)
    if math.isfinite(loss) and loss <= guessing + WORSE_THAN_GUESSING:
        return ""
    return (
        f"the validation loss ended at {loss:.4g}, worse than guessing (ln {vocab_size} = {guessing:.4g}): "
        "lower sweep.learning_rate.value"
    )


def sentence(error: Exception, where: str) -> str:
    """What went wrong, and in which file of the cell is more of what nobody foresaw."""
    import torch

    from model.errors import HunyuanError, missing_compiler

    if isinstance(error, HunyuanError):
        return str(error)
    if said := missing_compiler(error):
        return said
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if memory:
        return "the device is out of memory: lower --workers or training.micro_batch_size"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} (its traceback is in {where})"
