"""The process of one cell of a sweep: python -m hunyuan_cli.sweep_cell FOLDER [--processes M] [--threads N] [--parent PID]

FOLDER is a run folder. How its training ended is written to outcome.json there (model/sweep/cell.py). With several processes
this one starts the ranks (hunyuan_cli/sweep_rank.py), as `hunyuan train --processes` does, and waits for them.

Exit status: 0 there is an outcome, 130 stopped after a step and saved (SIGTERM or SIGINT), 75 another process runs this cell.
No torch before this process has its cell.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from hunyuan_cli.signals import die_with
from model.files import LOCK, hold, write_json
from model.sweep.cell import BUSY, INTERRUPTED, OUTCOME, run_cell

RANK = "hunyuan_cli.sweep_rank"
LOCK_SECONDS = 10.0  # a killed process may take this long to let go of its cell


class _StoppedError(BaseException):
    """The process is to end before there is anything to save."""


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
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--parent", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.parent and not die_with(given.parent):
        return INTERRUPTED
    stop = _Stop()
    lock = hold(given.folder / LOCK, LOCK_SECONDS)
    if lock is None:
        return BUSY
    with lock:
        if (given.folder / OUTCOME).exists():  # another sweep process had the cell, and finished it
            return 0
        if given.processes > 1:
            return _ranks(given.folder, given.processes, given.threads)
        import torch

        if given.threads:
            torch.set_num_threads(given.threads)
        outcome = run_cell(given.folder, stop)
        if outcome is None:
            return INTERRUPTED
        write_json(given.folder / OUTCOME, outcome)
    return 0


def _ranks(folder: Path, processes: int, threads: int) -> int:
    """Of a cell of several processes, which leave an outcome, or a failure, or were stopped."""
    from hunyuan_cli.failures import told
    from hunyuan_cli.launch import start

    arguments = [str(folder), "--threads", str(threads), "--parent", str(os.getpid())]
    _, failure = start(RANK, processes, arguments)
    if failure is not None and not (folder / OUTCOME).exists():
        diverged = failure.kind == "final"
        error = failure.what if diverged else told(failure, processes, "")
        write_json(folder / OUTCOME, {"status": "diverged" if diverged else "failed", "error": error})
    return 0 if (folder / OUTCOME).exists() else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
