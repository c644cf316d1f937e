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
    """Where the cells run, how many at a time, and of how many processes with how many threads."""

    engine: "Callable[[], Engine]"
    where: str  # in words
    workers: int
    threads: int
    processes: int  # of a cell
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
            processes=self.processes,
            gpus=self.gpus,
            processors=engines.cores(),
        )


def machine_of(
    name: str, address: str | None, plan: "SweepPlan", *, workers: int, threads: int, processes: int, cells: int
) -> Machine:
    """The machine of --engine `name`; zero workers and threads are shared out here, or by the cluster at `address`."""
    from model.errors import ConfigError
    from model.sweep import engines

    device = plan.training["device"]
    if name == "ray":
        from model.sweep.ray_engine import RayEngine, require_ray

        require_ray()
    gpus = [] if address else engines.visible_gpus(device)
    if 0 < len(gpus) < processes:
        raise ConfigError([
            f"--cell-processes is {processes} and each takes a GPU, of which there are {len(gpus)}: give as many at most, "
            "or --device cpu"
        ])  # fmt: skip
    if not address:
        workers, threads = engines.share_out(workers, threads, len(gpus), engines.cores(), cells, processes)
    here = not address
    each = f", {processes} processes each" if processes > 1 else ""
    if name == "ray":
        where = f"on the Ray cluster at {address}" if address else f"on a local Ray cluster, {workers} at a time"
        kind = device if address or gpus else "cpu"
        return Machine(
            lambda: RayEngine(CELL, workers, threads, kind, address, processes),
            where + each, workers, threads, processes, gpus, here,
        )  # fmt: skip
    on = f"{len(gpus)} GPU{'s'[: len(gpus) > 1]}" if gpus else "the processor"
    where = f"on {on}, {workers} at a time{each}, {threads} thread{'s'[: threads > 1]} each"
    return Machine(
        lambda: engines.LocalEngine(CELL, workers, threads, gpus, processes),
        where, workers, threads, processes, gpus, here,
    )  # fmt: skip
