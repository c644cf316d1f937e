"""The process of one cell of a sweep: python -m hunyuan_cli.sweep_cell FOLDER [--threads N] [--parent PID]

FOLDER is a run folder. How its training ended is written to outcome.json there (model/sweep/cell.py).

Exit status: 0 there is an outcome, 130 stopped after a step and saved (SIGTERM or SIGINT), 75 another process runs this cell.
No torch before this process has its cell.
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

from model.files import LOCK, hold, write_json
from model.sweep.cell import BUSY, INTERRUPTED, OUTCOME, run_cell

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


def die_with(parent: int) -> None:
    """Has Linux end this process with its parent, however that ends; elsewhere only the cell's lock is left."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
