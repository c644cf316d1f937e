"""Where the cells of a sweep run: the Engine that the runner asks, and the one of this machine's processes.

LocalEngine shares out the processor's threads, or the visible GPUs in turn; several workers may have one GPU, which is
the normal case for small models. model/sweep/ray_engine.py has the other.

Each cell is a process of the `module` that an engine is given: python -m MODULE FOLDER --processes M --threads N --parent PID,
with the exit statuses of model/sweep/cell.py. It trains in M processes of N threads, on as many GPUs. The command line has
that module, hunyuan_cli/sweep_cell.py.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import model

LOG = "log.txt"  # of a cell: what its process had to say, which is nothing unless it crashed


@dataclass(frozen=True)
class Ended:
    """A cell's process is over."""

    id: str
    code: int  # its exit status (model/sweep/cell.py), or minus the number of the signal that ended it
    detail: str = ""  # what is known of a crash


class Engine(Protocol):
    """Runs cells beside each other."""

    @property
    def running(self) -> list[str]:
        """The ids of the cells that were started and have not been told as ended."""

    @property
    def places(self) -> int:
        """How many cells may run at a time."""

    def start(self, id: str, folder: Path) -> None:
        """Runs the cell whose run folder is `folder`."""

    def ended(self) -> list[Ended]:
        """The cells that are over since the last call."""

    def stop(self) -> None:
        """Asks every running cell to finish its step and save."""

    def close(self) -> None:
        """Ends whatever still runs, at once."""


def launch(
    module: str, folder: Path, threads: int, environment: dict[str, str] | None = None, processes: int = 1
) -> subprocess.Popen[bytes]:
    """Starts the process of one cell, which ends when this process does; to be called in its main thread.

    (Linux sends the signal of a parent's death when the thread that started the child is over.)
    """
    how = {"--processes": processes, "--threads": threads, "--parent": os.getpid()}
    arguments = [str(folder.absolute()), *(word for name, value in how.items() for word in (name, str(value)))]
    return module_process(module, arguments, folder / LOG, threads, environment)


def module_process(
    module: str, arguments: list[str], log: Path, threads: int, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A Python process of a module installed beside this package, with so many threads, that writes into `log` only."""
    root = str(Path(model.__file__).parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    # Python's -m puts the current folder first, where a user may have a model.py: the safe path leaves it out.
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    given = os.environ | own | (environment or {})
    with log.open("ab") as file:
        # A session of its own: Ctrl-C of the terminal is for the sweep, which asks its cells to stop.
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=given, start_new_session=True,
        )  # fmt: skip


def last_words(folder: Path) -> str:
    """The last line of a cell's log."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class LocalEngine:
    """Cells of `processes` processes of this machine, `workers` at a time, on the visible GPUs in turn where there are any.

    Each process has `threads` threads, or a GPU.
    """

    def __init__(
        self, module: str, workers: int, threads: int, gpus: list[str] | None = None, processes: int = 1
    ) -> None:
        self.module, self.places, self.threads, self.processes = module, workers, threads, processes
        names = gpus or []
        self.gpus = [",".join(names[at : at + processes]) for at in range(0, len(names) - processes + 1, processes)]
        self._processes: dict[int, tuple[str, Path, subprocess.Popen[bytes]]] = {}  # by place

    @property
    def running(self) -> list[str]:
        return [id for id, _, _ in self._processes.values()]

    def start(self, id: str, folder: Path) -> None:
        place = next(place for place in range(self.places) if place not in self._processes)
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)]} if self.gpus else {}
        self._processes[place] = id, folder, launch(self.module, folder, self.threads, gpu, self.processes)

    def ended(self) -> list[Ended]:
        over = []
        for place, (id, folder, process) in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                del self._processes[place]
                over.append(Ended(id, code, last_words(folder)))
        return over

    def stop(self) -> None:
        for _, _, process in self._processes.values():
            process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        for _, _, process in self._processes.values():
            process.kill()
        for _, _, process in self._processes.values():
            process.wait()
        self._processes.clear()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(device: str) -> list[str]:
    """The GPUs for cells of that training.device, as CUDA_VISIBLE_DEVICES names them; none on a processor."""
    if device == "cpu":
        return []
    import torch

    from model.device import pick_device

    if pick_device(device).type != "cuda":
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(index) for index in range(count)]


def share_out(
    workers: int, threads: int, gpus: int, processors: int, cells: int, processes: int = 1
) -> tuple[int, int]:
    """Workers and threads of a process, where 0 means: a process for each GPU, else each processor, but no more than cells.

    One thread a cell does the most work: small models hardly gain by a second, and lose much where processors are taken.
    """
    chosen = workers or max(1, min((gpus or processors) // processes, cells))
    return chosen, threads or max(1, processors // (chosen * processes))
