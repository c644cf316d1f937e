"""`hunyuan sweep`: an isoFLOP grid of runs, the data of a scaling law."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.options.common import Format, OptionalDevice, Output
from hunyuan_cli.options.sizes import parse_number
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.signals import FINISH_CELLS, stop_on_signal

if TYPE_CHECKING:
    from model.sweep.engines import Engine
    from model.sweep.estimate import Estimate
    from model.sweep.plan import Cell, SweepPlan
    from model.sweep.runner import Sweep

PlanFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PLAN.toml]",
        exists=True,
        dir_okay=False,
        help="TOML with tables model, data, training (for every cell) and sweep; left out: that of --out, else a laptop's.",
    ),
]
Out = Annotated[Path, typer.Option("--out", file_okay=False, help="The sweep's folder; starting again in it goes on.")]
Budgets = Annotated[
    str | None, typer.Option("--budgets", metavar="FLOPS,...", help="Training FLOPs, such as 1e13,3e13.")
]
Sizes = Annotated[
    str | None,
    typer.Option("--sizes", metavar="NAME,...", help="Presets; left out: the ladder's inside sweep.tokens_per_param."),
]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="N,...", help="Seeds, such as 0,1.")]
Times = Annotated[
    float | None,
    typer.Option("--times", help="Multiply every budget; the window of tokens per parameter moves the sizes."),
]
Data = Annotated[list[str] | None, typer.Option("--data", help="A file, folder, glob, hf:NAME or stdlib; repeatable.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Any setting of the plan, also sweep.learning_rate.value=2e-3; repeatable.",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Cells at a time; several may share a GPU. 0: by the machine.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of each cell; 0: the processors shared out.")]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--engine", help="Processes of this machine, or tasks of a Ray cluster (extra: sweep). The same numbers."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="A Ray cluster, whose machines must share --out and the data; left out: a local one."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the grid, tokens and expected time, and train nothing.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed and diverged cells again, too.")]
NoEstimate = Annotated[bool, typer.Option("--no-estimate", help="Do not measure (10 s) how long it will take.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only failures and the result.")]


def sweep(
    plan: PlanFile = None,
    out: Out = Path("runs/sweep"),
    budgets: Budgets = None,
    sizes: Sizes = None,
    seeds: Seeds = None,
    times: Times = None,
    data: Data = None,
    settings: Set = None,
    device: OptionalDevice = None,
    workers: Workers = 0,
    threads: Threads = 0,
    engine: EngineName = "local",
    address: Address = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    no_estimate: NoEstimate = False,
    quiet: Quiet = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Train a grid of budgets x sizes x seeds, for scaling laws: every size at the same FLOPs; results in OUT/runs.csv.

    The longest cells run first. Killed or stopped (Ctrl-C finishes the steps and saves), the same command goes on; what
    ended is never run twice, and budgets, sizes and seeds may be added. Exit status 3: some cells failed.

    Example: hunyuan sweep --budgets 1e13,3e13,1e14 --set sweep.tokens_per_param=[1,100] --out runs/iso --dry-run

    Then the same without --dry-run, and: hunyuan scale-fit runs/iso/runs.csv
    """
    from hunyuan_cli.views.sweep import make_view
    from model.sweep.runner import Sweep

    if address is not None and engine != "ray":
        raise typer.BadParameter("--address is that of a Ray cluster: add --engine ray")
    if address is not None and device in (None, "auto"):
        raise typer.BadParameter(
            "what devices a cluster at --address has is not seen from here: add --device cuda or cpu"
        )
    options = {"budgets": _numbers(budgets), "sizes": _names(sizes), "seeds": _seeds(seeds), "times": times}
    chosen = _plan(
        plan or out / "plan.toml",
        {"sweep": options, "data": {"sources": data}, "training": {"device": device}},
        settings,
    )
    grid = Sweep(out, chosen)
    machine = _machine(engine, address, chosen, workers, threads, len(grid.todo(retry_failed)))
    if dry_run:
        rows, expected = _look_ahead(grid, machine, retry_failed, no_estimate, quiet, show=False)
        total = {"total_flops": sum(row["flops"] for row in rows), "total_tokens": sum(row["tokens"] for row in rows)}
        total |= {"expected_seconds": expected.total_seconds if expected else None}  # of the cells to do
        emit({"cells": _shown(rows, BEFORE, format, output), **total}, format=format, output=output)
        return
    with grid.held():
        _, expected = _look_ahead(grid, machine, retry_failed, no_estimate, quiet, show=True)
        todo = grid.todo(retry_failed)
        with (
            stop_on_signal(stderr, FINISH_CELLS, at_once=False) as should_stop,
            make_view(grid, todo, expected, quiet) as view,
        ):
            order = _longest_first(expected)
            whole = grid.run(machine.engine(), view, retry_failed=retry_failed, order=order, should_stop=should_stop)
    again = ["hunyuan", "sweep", "--out", str(out)]  # the folder has the plan, options and all
    for name, value in {"--engine": engine, "--address": address, "--workers": workers, "--threads": threads}.items():
        again += [name, str(value)] if value and value != "local" else []
    _report(grid, shlex.join(again), whole, format, output)


# --- the plan ---------------------------------------------------------------------------------------------------------


def _plan(file: Path, options: dict[str, dict[str, Any]], settings: list[str] | None) -> "SweepPlan":
    """The plan of the file, where there is one, changed by the options."""
    from model.sweep.plan import SweepPlan, override, read_plan

    sections = read_plan(file) if file.exists() else {}
    for section, values in options.items():
        given = {key: value for key, value in values.items() if value is not None}
        table = sections.setdefault(section, {})
        if isinstance(table, dict):  # else the plan says what is wrong with it
            table |= given
    for assignment in settings or []:
        override(sections, assignment)
    return SweepPlan.from_sections(sections)


def _numbers(text: str | None) -> list[float] | None:
    return None if text is None else [parse_number(item) for item in text.split(",")]


def _names(text: str | None) -> list[str] | None:
    names = None if text is None else [item.strip() for item in text.split(",") if item.strip()]
    if names == []:
        raise typer.BadParameter(f"'{text}' names no size: write ladder-64,ladder-96, or leave --sizes out")
    return names


def _seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(item) for item in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of seeds: write 0,1,2") from error


# --- where it runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Machine:
    """What the cells run on."""

    engine: "Callable[[], Engine]"
    where: str
    workers: int
    threads: int
    gpus: list[str]
    here: bool  # whether a measurement on this machine says anything


def _machine(name: str, address: str | None, plan: "SweepPlan", workers: int, threads: int, cells: int) -> _Machine:
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
        return _Machine(
            lambda: RayEngine(workers, threads, uses_gpu, address), where, workers, threads, gpus, not address
        )
    on = f"{len(gpus)} GPU{'s'[: len(gpus) > 1]}" if gpus else "the processor"
    where = f"on {on}, {workers} at a time, {threads} thread{'s'[: threads > 1]} each"
    return _Machine(lambda: engines.LocalEngine(workers, threads, gpus), where, workers, threads, gpus, True)


def _look_ahead(
    grid: "Sweep", machine: _Machine, retry_failed: bool, no_estimate: bool, quiet: bool, show: bool
) -> "tuple[list[dict[str, Any]], Estimate | None]":
    """Prepares the text, measures, and tells what will happen; the grid's rows and the expected times."""
    from hunyuan_cli.views.sweep import data_progress, grid_rows, print_grid, remarks
    from model.sweep.engines import cores
    from model.sweep.estimate import estimate

    grid.prepare(None if quiet else data_progress())
    todo, expected = grid.todo(retry_failed), None
    if machine.here and not no_estimate:
        if todo and not quiet:
            stderr("measuring the smallest and the largest size ...")
        expected = estimate(
            todo, workers=machine.workers, threads=machine.threads, gpus=machine.gpus, processors=cores()
        )
        if expected is None:
            stderr("note: the measurement failed, so there is no expected time; the cells will say why")
    rows = grid_rows(grid, expected)
    if not quiet:
        if show:
            print_grid(rows)
        for line in remarks(grid, todo, expected, machine.where):
            stderr(line)
    return rows, expected


def _longest_first(expected: "Estimate | None") -> "Callable[[Cell], float]":
    """So that no worker is left with a long cell while the others have nothing to do."""
    seconds = expected.seconds if expected else {}
    return lambda cell: -seconds.get(cell.id, float(cell.flops))


# --- results ----------------------------------------------------------------------------------------------------------


BEFORE = ("cell", "status", "flops", "activated_params", "tokens", "tokens_per_param", "steps", "batch_tokens",
          "learning_rate", "epochs", "expected_seconds")  # fmt: skip
AFTER = ("cell", "status", "activated_params", "tokens", "steps", "batch_tokens", "learning_rate", "loss",
         "val_bits_per_byte", "seconds", "error")  # fmt: skip


def _shown(rows: list[dict[str, Any]], names: Sequence[str], format: str, output: Path | None) -> list[dict[str, Any]]:
    """All there is for programs, the columns that fit a screen for a table; a learning rate has a name of its kind there."""
    if result_format(format, output) != "table":
        return rows
    short = {"learning_rate": "peak_lr", "tokens_per_param": "per_param"}
    return [{short.get(name, name): row[name] or None for name in names} for row in rows]


def _report(grid: "Sweep", again: str, whole: bool, format: str, output: Path | None) -> None:
    """The table of results, and the exit status; `again` is the command that goes on."""
    from model.sweep.runner import RUNS

    rows = grid.rows()
    counts = {status: sum(row["status"] == status for row in rows) for status in ("finished", "failed", "diverged")}
    left = len(grid.cells) - len(rows)
    emit({"cells": _shown(rows, AFTER, format, output), **counts, "left": left}, format=format, output=output)
    if not whole:
        stderr(f"stopped and saved, {left} of {len(grid.cells)} cells left; continue with: {again}")
        raise typer.Exit(130)
    lost = counts["failed"] + counts["diverged"]
    if lost or left:
        why = [f"{lost} of {len(grid.cells)} cells failed or diverged (the column error says why)"] if lost else []
        why += [f"{left} were interrupted"] if left else []
        stderr(f"{' and '.join(why)}; run them again with: {again}{' --retry-failed' if lost else ''}")
        raise typer.Exit(3)
    stderr(f"next: hunyuan scale-fit {shlex.quote(str(grid.folder / RUNS))}")
