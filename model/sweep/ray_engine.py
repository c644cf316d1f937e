"""The cells of a sweep as tasks of a Ray cluster: one of this machine, or, with an address, a real one.

Each task starts the same process as the local engine does, so that the numbers are the same at equal threads. The machines
of a real cluster need this package, the sweep's folder and the text under the same paths (a shared file system). Asked to
stop, a task finds the file `stop` in its cell's folder.

Ray counts the GPUs of tasks that ask for them; from others its older versions hide all GPUs, its newer ones none. So they are
asked for where the cluster has any, whatever the machine has that starts the sweep, and what device `auto` is each cell finds
where it runs.
"""

import importlib.util
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
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


def run_task(module: str, folder: str, threads: int, environment: dict[str, str], processes: int) -> int:
    """The exit status of a cell's process; runs on the cluster."""
    stop, process = Path(folder, STOP), launch(module, Path(folder), threads, environment, processes)
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


def _own_task() -> Callable[[str, str, int, dict[str, str], int], int]:
    """run_task as a function that Ray sends whole: its workers look for modules in the driver's folder first, and a user may
    have a model.py there."""
    root = str(Path(model.__file__).parents[1])

    def task(module: str, folder: str, threads: int, environment: dict[str, str], processes: int) -> int:
        import sys

        sys.path.insert(0, root)
        from model.sweep.ray_engine import run_task

        return run_task(module, folder, threads, environment, processes)

    return task


def resources(
    machines: Sequence[Mapping[str, float]], device: str, workers: int, threads: int, processes: int
) -> tuple[dict[str, Any], int]:
    """What a task asks of its machine, and how many such tasks the machines have room for.

    `machines` have so many CPU and GPU each. HunyuanError where no machine can ever have a task.
    """
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise HunyuanError("the Ray cluster has no GPU: use --device cpu, or another --address")
    asked: dict[str, Any] = {"num_cpus": threads * processes}
    kinds = {"num_cpus": ("CPU", "processors", "--threads")}
    if gpus:
        asked["num_gpus"] = processes if processes > 1 else 1 / max(1, -(-workers // gpus))
        kinds["num_gpus"] = ("GPU", "GPUs", "--cell-processes")
    for name, (key, word, option) in kinds.items():
        most = max((int(machine.get(key, 0)) for machine in machines), default=0)
        if asked[name] > most:
            raise HunyuanError(
                f"a cell takes {asked[name]:g} {word} of one machine, and none of the Ray cluster has more than {most}: "
                f"lower {option}"
            )
    rooms = [min(int(machine.get(key, 0) / asked[name]) for name, (key, _, _) in kinds.items()) for machine in machines]
    return asked, sum(rooms)


class RayEngine:
    """Tasks of `processes` processes, `workers` at a time; each process takes `threads` processors, or a GPU as well.

    A task is always on one machine. Tasks of one process may share a GPU.
    """

    def __init__(
        self, module: str, workers: int, threads: int, device: str, address: str | None = None, processes: int = 1
    ) -> None:
        """Joins the cluster at `address`, or starts one here with room for the workers.

        Device `auto` takes GPUs where the cluster has any. Zero workers are as many as the cluster has GPUs (or processors)
        for, zero threads one. HunyuanError when there is no such cluster, or none of its machines has room for a cell.
        """
        require_ray()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        import ray

        self.module, self.threads, self.processes = module, threads or 1, processes
        self._started = not ray.is_initialized()
        if self._started:
            local: dict[str, Any] = (
                {} if address else {"num_cpus": max(1, workers) * processes * self.threads, "include_dashboard": False}
            )
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            except Exception as error:
                where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot be started here"
                raise HunyuanError(
                    f"{where} ({' '.join(str(error).split())}): check --address, or use --engine local"
                ) from error
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        try:
            asked, room = resources(machines, device, workers, self.threads, processes)
        except HunyuanError:
            self.close()
            raise
        self.places = workers or room
        self._task = ray.remote(max_retries=0, **asked)(_own_task())
        self._tasks: dict[Any, tuple[str, Path]] = {}

    @property
    def running(self) -> list[str]:
        return [id for id, _ in self._tasks.values()]

    def start(self, id: str, folder: Path) -> None:
        folder = folder.absolute()
        (folder / STOP).unlink(missing_ok=True)
        passed = {name: os.environ[name] for name in ("HUNYUAN_CACHE", "XDG_CACHE_HOME") if name in os.environ}
        task = self._task.remote(self.module, str(folder), self.threads, passed, self.processes)
        self._tasks[task] = id, folder

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
