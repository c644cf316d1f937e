"""A pool of ranks that lives as long as the tests: processes that have met once and answer one check after the other.

    pool.run(function, *arguments) -> [function(rank, *arguments) of every rank]

They are forked from a server that has torch loaded, and meet in a file: no ports. A rank that does not answer in time takes the
pool with it, and the next check starts another.
"""

import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOADED = ["torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "model.transformer"]


class Pool:
    def __init__(self, size: int) -> None:
        self.size, self._folder = size, Path(tempfile.mkdtemp())
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, size, str(self._folder / "meeting"), there), daemon=True
            )
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)
        self.run(_nothing, seconds=60)

    @property
    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def run(self, check: Callable[..., Any], *arguments: Any, seconds: float = 60) -> list[Any]:
        """What every rank returns; AssertionError with the traceback of the first rank that raised."""
        for end in self._ends:
            end.send((check, arguments))
        answers, limit = [], time.monotonic() + seconds
        for rank, end in enumerate(self._ends):
            if not end.poll(max(0.0, limit - time.monotonic())):
                failed = [text for other in self._ends if other.poll() for ok, text in [other.recv()] if not ok]
                self.close()
                raise AssertionError(f"rank {rank} of {self.size} did not answer within {seconds} s; {failed}")
            answers.append(end.recv())
        wrong = [f"rank {rank}:\n{answer}" for rank, (ok, answer) in enumerate(answers) if not ok]
        assert not wrong, "\n".join(wrong)
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        shutil.rmtree(self._folder, ignore_errors=True)


def _nothing(rank: int) -> None:
    del rank


def _serve(rank: int, size: int, meeting: str, end: Connection) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(meeting, size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    while True:
        try:
            check, arguments = end.recv()
        except EOFError:
            return
        try:
            end.send((True, check(rank, *arguments)))
        except BaseException:
            end.send((False, traceback.format_exc()))
