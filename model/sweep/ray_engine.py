"""The cells of a sweep as tasks of a Ray cluster: one of this machine, or, with an address, a real one.

Each task starts the same process as the local engine does, so that the numbers are the same at equal threads. The machines
of a real cluster need this package, the sweep's folder and the text under the same paths (a shared file system). Asked to
stop, a task finds the file `stop` in its cell's folder.
"""

import importlib.util
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model
from model.errors import HunyuanError, MissingExtraError
from model.sweep.engines import Ended, last_words, launch

STOP = "stop"
POLL_SECONDS = 0.1


def require_ray() -> None:
    """MissingExtraError where the extra is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "sweep", "--engine ray")


def run_task(module: str, folder: str, threads: int, environment: dict[str, str]) -> int:
    """The exit status of a cell's process; runs on the cluster."""
    stop, process = Path(folder, STOP), launch(module, Path(folder), threads, environment)
    asked = False
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if not asked and stop.exists():
                    asked = True
                    process.send_signal(signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def _own_task() -> Callable[[str, str, int, dict[str, str]], int]:
    """run_task as a function that Ray sends whole: its workers look for modules in the driver's folder first, and a user may
    have a model.py there."""
    root = str(Path(model.__file__).parents[1])

    def task(module: str, folder: str, threads: int, environment: dict[str, str]) -> int:
        import sys

        sys.path.insert(0, root)
        from model.sweep.ray_engine import run_task

        return run_task(module, folder, threads, environment)

    return task


class RayEngine:
    """Tasks of `threads` processors each, and on GPUs of a share of one, `workers` at a time."""

    def __init__(self, module: str, workers: int, threads: int, uses_gpu: bool, address: str | None = None) -> None:
        """Joins the cluster at `address`, or starts one here with room for workers x threads.

        Zero workers are as many as the cluster has GPUs (or processors) for, zero threads one. HunyuanError when there is no
        such cluster.
        """
        require_ray()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        import ray

        self.module, self.threads = module, threads or 1
        self._started = not ray.is_initialized()
        if self._started:
            local: dict[str, Any] = (
                {} if address else {"num_cpus": max(1, workers) * self.threads, "include_dashboard": False}
            )
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            except Exception as error:
                where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot be started here"
                raise HunyuanError(
                    f"{where} ({' '.join(str(error).split())}): check --address, or use --engine local"
                ) from error
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0)) if uses_gpu else 0
        if uses_gpu and not gpus:
            self.close()
            raise HunyuanError("the Ray cluster has no GPU: use --device cpu, or another --address")
        self.places = workers or gpus or max(1, int(there.get("CPU", 1)) // self.threads)
        share: dict[str, Any] = {"num_gpus": min(1.0, gpus / self.places)} if gpus else {}
        self._task = ray.remote(max_retries=0, num_cpus=self.threads, **share)(_own_task())
        self._tasks: dict[Any, tuple[str, Path]] = {}

    @property
    def running(self) -> list[str]:
        return [id for id, _ in self._tasks.values()]

    def start(self, id: str, folder: Path) -> None:
        folder = folder.absolute()
        (folder / STOP).unlink(missing_ok=True)
        passed = {name: os.environ[name] for name in ("HUNYUAN_CACHE", "XDG_CACHE_HOME") if name in os.environ}
        self._tasks[self._task.remote(self.module, str(folder), self.threads, passed)] = id, folder

    def ended(self) -> list[Ended]:
        import ray

        over: list[Ended] = []
        ready, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if self._tasks else ([], [])
        for task in ready:
            id, folder = self._tasks.pop(task)
            try:
                over.append(Ended(id, ray.get(task), last_words(folder)))
            except ray.exceptions.RayError as error:
                over.append(Ended(id, 1, str(error).strip().split("\n")[-1]))
            (folder / STOP).unlink(missing_ok=True)
        return over

    def stop(self) -> None:
        for _, folder in self._tasks.values():
            (folder / STOP).touch()

    def close(self) -> None:
        import ray

        for task in getattr(self, "_tasks", {}):
            ray.cancel(task, force=True)  # its process ends with the worker that started it
        if self._started:
            ray.shutdown()
