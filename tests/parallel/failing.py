"""Ranks of a run of which one fails: real processes, forked with torch loaded, that meet as those of a launcher do."""

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch.distributed as dist
from pool import PRELOADED

from model.errors import PeerError
from model.parallel.layout import Layout
from model.parallel.start import joined
from model.parallel.watch import Failure
from model.training.events import Silent
from model.training.pretraining import pretrain
from model.training.settings import RunSettings
from model.training.step import TrainStep


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep() -> None:
    time.sleep(1000)


def bug() -> None:
    raise ValueError("a bug")


def fill_the_disk() -> None:
    """Every file of a checkpoint that this process writes from now on."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch("model.checkpoint.sharded.write_tensors", full).start()


def die_while_saving() -> None:
    patch("model.checkpoint.sharded.sha256", lambda path: die()).start()


def run_until_one_fails(
    folder: Path, settings: RunSettings, layout: Layout, rank: int, step: int, fails: Callable[[], None], resume: bool
) -> tuple[list[Failure], list[int]]:
    """What the ranks told when `rank` did `fails` before `step` (from 0), and with which statuses they ended within 40 s."""
    server = dist.TCPStore("localhost", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    told = folder.with_name(f"{folder.name}-told")
    told.mkdir()
    ranks: list[BaseProcess] = []
    for own in range(layout.processes):
        what = fails if own == rank else None
        arguments = (own, server.port, layout, folder, settings, resume, told, step, what)
        ranks.append(context.Process(target=_rank, args=arguments))
        ranks[-1].start()
    limit = time.monotonic() + 40
    for process in ranks:
        process.join(max(0, limit - time.monotonic()))
    late = [process for process in ranks if process.is_alive()]
    for process in late:
        process.kill()
    assert not late, "a process outlives the failure of another"
    statuses = [process.exitcode for process in ranks]
    return [Failure(**json.loads(path.read_text())) for path in told.iterdir()], [int(s or 0) for s in statuses]


def _rank(
    rank: int, port: int, layout: Layout, folder: Path, settings: RunSettings, resume: bool, told: Path, step: int,
    fails: Callable[[], None] | None,
) -> None:  # fmt: skip
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(layout.processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def tell(failure: Failure, error: Exception | None) -> None:
        (told / str(rank)).write_text(json.dumps(vars(failure)))

    take = TrainStep.__call__

    def failing(self: TrainStep, number: int, *arguments: Any) -> Any:
        if number == step and fails is not None:
            fails()
        return take(self, number, *arguments)

    with (
        patch("model.training.loop.measure_peak_flops", lambda d, t: 1e11),
        patch.object(TrainStep, "__call__", failing),
    ):
        try:
            with joined(layout, "cpu", hang_seconds=3, tell=tell, leave=lambda: os._exit(3)) as ranks:
                pretrain(folder, settings, Silent(), resume=resume, ranks=ranks)
        except PeerError:
            os._exit(1)
