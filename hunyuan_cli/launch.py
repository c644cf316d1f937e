"""Starts the processes of one command on this machine, and ends with them: torch's elastic agent, inside the command.

    status = launch(4, ["train", "--processes", "4", ...])

A signal goes to every process, each of which stops where nothing is lost; the status is then 128 and its number.
"""

import logging
import os
import sys
import uuid
from pathlib import Path

from hunyuan_cli.console import stderr

SAVING = "600"  # seconds that the processes have to save after a signal, before they are killed


def launch(processes: int, arguments: list[str]) -> int:
    """The exit status of `hunyuan ARGUMENTS` in so many processes, which share out this one's cores."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what is said there is said here as well
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
    )
    try:
        elastic_launch(config, sys.executable)("-m", "hunyuan_cli", *arguments)
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        how = f"status {failure.exitcode}" if failure.exitcode >= 0 else f"signal {-failure.exitcode}"
        stderr(f"error: rank {rank} of {processes} ended with {how}, and the others with it")
        return 1
    return 0


def was_interrupted(folder: Path) -> bool:
    """Whether the run in a folder was last ended by a signal."""
    from model.files import read_json

    try:
        return bool(read_json(folder / "summary.json")["status"] == "interrupted")
    except (OSError, ValueError, KeyError, TypeError):
        return False
