"""What the cells of `hunyuan sweep` run on: the engine, its workers, and the modules that it starts as processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.sweep.engines import Engine
    from model.sweep.estimate import Estimate
    from model.sweep.plan import Cell, SweepPlan

CELL, MEASURE = "hunyuan_cli.sweep_cell", "hunyuan_cli.sweep_measure"


@dataclass(frozen=True)
class Machine:
    """Where the cells run, how many at a time, and with how many threads each."""

    engine: "Callable[[], Engine]"
    where: str  # in words
    workers: int
    threads: int
    gpus: list[str]
    here: bool  # whether a measurement on this machine says anything

    def estimate(self, cells: "Sequence[Cell]") -> "Estimate | None":
        """The time that the cells will take, by a measurement here; None when that failed."""
        from model.sweep import engines, estimate

        return estimate.estimate(
            cells,
            module=MEASURE,
            workers=self.workers,
            threads=self.threads,
            gpus=self.gpus,
            processors=engines.cores(),
        )


def machine_of(name: str, address: str | None, plan: "SweepPlan", workers: int, threads: int, cells: int) -> Machine:
    """The machine of --engine `name`; zero workers and threads are shared out here, or by the cluster at `address`."""
    from model.sweep import engines

    device = plan.training["device"]
    if name == "ray":
        from model.sweep.ray_engine import RayEngine, require_ray

        require_ray()
    gpus = [] if address else engines.visible_gpus(device)
    if not address:
        workers, threads = engines.share_out(workers, threads, len(gpus), engines.cores(), cells)
    if name == "ray":
        where = f"on the Ray cluster at {address}" if address else f"on a local Ray cluster, {workers} at a time"
        uses_gpu = device == "cuda" or bool(gpus)
        return Machine(
            lambda: RayEngine(CELL, workers, threads, uses_gpu, address), where, workers, threads, gpus, not address
        )
    on = f"{len(gpus)} GPU{'s'[: len(gpus) > 1]}" if gpus else "the processor"
    where = f"on {on}, {workers} at a time, {threads} thread{'s'[: threads > 1]} each"
    return Machine(lambda: engines.LocalEngine(CELL, workers, threads, gpus), where, workers, threads, gpus, True)
