"""How long commands take from their start to their end, beside the start of Python itself.

Every command runs in a process of its own, and they take turns, round after round. Processor seconds stand beside those of the
clock: on a busy machine the clock's are longer, the processor's nearly the same.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from model.errors import HunyuanError


class Run(NamedTuple):
    """One run of a command, in seconds."""

    wall: float
    cpu: float  # user and system, of all its threads


def startup_table(
    commands: Mapping[str, Sequence[str]], *, rounds: int = 5, progress: Callable[[int], None] = lambda done: None
) -> pd.DataFrame:
    """One row a command: seconds of clock and processor, and the ratios to the first command, that of Python itself.

    A ratio is the median over rounds, in each of which every command runs once. HunyuanError when a command fails.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, line in commands.items():
            runs[name].append(_run(name, line))
            progress(1)
    return _table(runs)


def _table(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    base = next(iter(runs.values()))
    rows = []
    for name, timed in runs.items():
        wall, cpu = [run.wall for run in timed], [run.cpu for run in timed]
        rows.append(
            {
                "command": name,
                "least_seconds": min(wall),
                "seconds": statistics.median(wall),
                "least_cpu_seconds": min(cpu),
                "cpu_seconds": statistics.median(cpu),
                "of_python": statistics.median(run.wall / first.wall for run, first in zip(timed, base, strict=True)),
                "cpu_of_python": statistics.median(run.cpu / first.cpu for run, first in zip(timed, base, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _run(name: str, line: Sequence[str]) -> Run:
    start = time.perf_counter()
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise HunyuanError(f"'{name}' ends with status {process.returncode}: see what it says when it runs alone")
    return Run(seconds, used.ru_utime + used.ru_stime)
