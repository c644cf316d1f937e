"""One rank of a sweep's cell that trains in several processes: python -m hunyuan_cli.sweep_rank FOLDER --threads N --parent PID

hunyuan_cli/sweep_cell.py starts the ranks and holds the cell. Of a cell that was trained the first rank writes the outcome;
what the ranks know of a failure they leave for their launcher (hunyuan_cli/failures.py), and a traceback in the cell's log.
"""

import argparse
import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

import torch

from hunyuan_cli import failures
from hunyuan_cli.options.parallel import HANG_SECONDS
from hunyuan_cli.signals import die_with
from model.errors import HunyuanError, PeerError
from model.files import write_json
from model.parallel.layout import Layout
from model.parallel.start import joined, processes_started
from model.parallel.watch import Failure, kind_of
from model.sweep.cell import INTERRUPTED, OUTCOME, sentence, train_cell
from model.sweep.engines import LOG
from model.training.run_folder import settings_of


class _Stop:
    """A signal ends the step that is going on; before the first one it ends the process, even where that waits for others."""

    def __init__(self) -> None:
        self.asked = self.training = False

    def __call__(self) -> bool:
        if not self.training:
            self.training = True
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._ask)
        return self.asked

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True


def main(arguments: list[str]) -> int:
    """The process of one rank; returns its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(arguments)
    if not die_with(given.parent):
        return INTERRUPTED
    try:
        _train(given.folder, given.threads)
    except PeerError:
        return 1  # which has been told
    except Exception as error:
        rank = int(os.environ["RANK"])
        failures.write(Failure(rank, kind_of(error), _words(error), rank))
        return 1
    return 0


def _train(folder: Path, threads: int) -> None:
    layout, device = Layout(processes=processes_started()), settings_of(folder).training.device
    tell, leave = failures.teller(_words, lambda: ""), partial(os._exit, 1)
    with joined(layout, device, hang_seconds=HANG_SECONDS, tell=tell, leave=leave) as ranks:
        torch.set_num_threads(threads)
        outcome = train_cell(folder, _Stop(), [], ranks)
        if outcome is not None and ranks.is_first:
            write_json(folder / OUTCOME, outcome)


def _words(error: Exception) -> str:
    if not isinstance(error, HunyuanError):
        traceback.print_exception(error)
    return sentence(error, LOG)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if status:  # the threads of its groups would abort a process that leaves the others
        sys.stderr.flush()
        os._exit(status)
