"""Starts the processes of one command on this machine, and ends with them: torch's elastic agent, inside the command.

    status = launch(4, ["train", "--processes", "4", ...], restarts=2, go_on=...)
    status, failure = start("hunyuan_cli.a_module", 4, [...])                       once, and nothing is said

A signal goes to every process, each of which stops where nothing is lost; the status is then 128 and its number. Of a failure
one sentence is said. Where all are started again, it is with a new agent: what the old one keeps would lead them astray.
"""

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hunyuan_cli import failures
from hunyuan_cli.console import stderr

if TYPE_CHECKING:
    from model.parallel.watch import Failure

SAVING = "600"  # seconds that the processes have to save after a signal, before they are killed


def launch(processes: int, arguments: list[str], *, restarts: int, go_on: Callable[[bool], str]) -> int:
    """The exit status of `hunyuan ARGUMENTS` in so many processes, which share out this one's cores.

    They are started again up to `restarts` times, unless the failure would come again at once. `go_on` says how the run goes
    on: by itself (True), or with which command.
    """
    for restart in range(restarts + 1):
        os.environ[failures.RESTARTS] = str(restart)
        status, failure = start("hunyuan_cli", processes, arguments)
        if failure is None:
            return status
        if restart == restarts or failure.kind in ("mistake", "final") or status != 1:
            stderr(f"error: {failures.told(failure, processes, go_on(False))}")
            return status
        stderr(f"{failures.told(failure, processes, go_on(True))} (restart {restart + 1} of {restarts})")
    raise AssertionError("unreachable")


def start(module: str, processes: int, arguments: list[str]) -> "tuple[int, Failure | None]":
    """Starts `python -m MODULE ARGUMENTS` in all and waits for them: the status, and what made them fail."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what is said there is said here as well
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SAVING)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    with tempfile.TemporaryDirectory(prefix="hunyuan-") as folder:
        place = Path(folder, "failure.json")
        os.environ[failures.FILE] = str(place)
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except SignalException as stopped:
            failure = failures.read(place, {})
            # Those that are stopped at once, without saving, die before each other's eyes.
            return 128 + stopped.sigval, None if failure is None or failure.kind == "died" else failure
        except ChildFailedError as failed:
            statuses = {rank: failure.exitcode for rank, failure in failed.failures.items()}
            return 1, failures.read(place, statuses)
    return 0, None


def was_interrupted(folder: Path) -> bool:
    """Whether the run in a folder was last ended by a signal."""
    from model.files import read_json

    try:
        return bool(read_json(folder / "summary.json")["status"] == "interrupted")
    except (OSError, ValueError, KeyError, TypeError):
        return False
