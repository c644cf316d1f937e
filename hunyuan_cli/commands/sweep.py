"""`hunyuan sweep`: an isoFLOP grid of runs, the data of a scaling law."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunyuan_cli.console import data_progress, stderr
from hunyuan_cli.options.common import Format, OptionalDevice, Output
from hunyuan_cli.options.sweep import (
    Address,
    Budgets,
    CellProcesses,
    Data,
    DryRun,
    EngineName,
    NoEstimate,
    Out,
    PlanFile,
    Quiet,
    Rates,
    RetryFailed,
    Seeds,
    Set,
    Sizes,
    Threads,
    Times,
    Workers,
    chosen_plan,
    names,
    numbers,
    whole_numbers,
)
from hunyuan_cli.signals import FINISH_CELLS, stop_on_signal
from hunyuan_cli.sweep_machine import Machine, machine_of

if TYPE_CHECKING:
    from model.sweep.estimate import Estimate
    from model.sweep.runner import Sweep


def sweep(
    plan: PlanFile = None,
    out: Out = Path("runs/sweep"),
    budgets: Budgets = None,
    sizes: Sizes = None,
    seeds: Seeds = None,
    times: Times = None,
    rates: Rates = None,
    data: Data = None,
    settings: Set = None,
    device: OptionalDevice = None,
    workers: Workers = 0,
    threads: Threads = 0,
    cell_processes: CellProcesses = 1,
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

    Cells too large for one GPU, on four each: hunyuan sweep PLAN.toml --out runs/large --cell-processes 4
    """
    from hunyuan_cli.views.sweep import emit_grid
    from hunyuan_cli.views.sweep_progress import make_view
    from model.sweep.rates import read_rates
    from model.sweep.runner import Sweep

    if address is not None and engine != "ray":
        raise typer.BadParameter("--address is that of a Ray cluster: add --engine ray")
    options: dict[str, Any] = {
        "budgets": numbers(budgets),
        "sizes": names(sizes),
        "seeds": whole_numbers(seeds),
        "times": times,
    }
    if rates is not None:
        options |= read_rates(rates).sweep_rules()
    sections: dict[str, dict[str, Any]] = {"sweep": options, "data": {"sources": data}, "training": {"device": device}}
    grid = Sweep(out, chosen_plan(plan or out / "plan.toml", sections, settings))
    todo = grid.todo(retry_failed)
    if cell_processes > 1:
        from model.sweep.shared import check_processes

        check_processes(todo, cell_processes)
    machine = machine_of(
        engine, address, grid.plan, workers=workers, threads=threads, processes=cell_processes, cells=len(todo)
    )
    if dry_run:
        rows, expected = _look_ahead(grid, machine, retry_failed, no_estimate, quiet, show=False)
        emit_grid(rows, expected, format, output)
        return
    with grid.held():
        _, expected = _look_ahead(grid, machine, retry_failed, no_estimate, quiet, show=True)
        seconds = expected.seconds if expected else {}
        with (
            stop_on_signal(stderr, FINISH_CELLS, at_once=False) as should_stop,
            make_view(grid, grid.todo(retry_failed), expected, quiet) as view,
        ):
            whole = grid.run(
                machine.engine(), view, retry_failed=retry_failed, should_stop=should_stop,
                order=lambda cell: -seconds.get(cell.id, float(cell.flops)),  # or a worker is left with a long cell alone
            )  # fmt: skip
    again = ["hunyuan", "sweep", "--out", str(out)]  # the folder has the plan, options and all
    given = {"--engine": engine, "--address": address, "--workers": workers, "--threads": threads}
    given |= {"--cell-processes": cell_processes if cell_processes > 1 else 0}
    for name, value in given.items():
        again += [name, str(value)] if value and value != "local" else []
    _report(grid, shlex.join(again), whole, format, output)


def _look_ahead(
    grid: "Sweep", machine: Machine, retry_failed: bool, no_estimate: bool, quiet: bool, show: bool
) -> "tuple[list[dict[str, Any]], Estimate | None]":
    """Prepares the text, measures, and tells what will happen; the grid's rows and the expected times."""
    from hunyuan_cli.views.sweep import grid_rows, print_grid, remarks

    grid.prepare(None if quiet else data_progress(stderr))
    todo, expected = grid.todo(retry_failed), None
    if machine.here and not no_estimate:
        if todo and not quiet:
            stderr("measuring the smallest and the largest size ...")
        expected = machine.estimate(todo)
        if expected is None:
            stderr("note: the measurement failed, so there is no expected time; the cells will say why")
    rows = grid_rows(grid, expected)
    if not quiet:
        if show:
            print_grid(rows)
        for line in remarks(grid, todo, expected, machine.where):
            stderr(line)
    return rows, expected


def _report(grid: "Sweep", again: str, whole: bool, format: str, output: Path | None) -> None:
    """The table of results, and the exit status; `again` is the command that goes on."""
    from hunyuan_cli.views.sweep import emit_results
    from model.sweep.runner import RUNS

    lost, left = emit_results(grid, format, output)
    if not whole:
        stderr(f"stopped and saved, {left} of {len(grid.cells)} cells left; continue with: {again}")
        raise typer.Exit(130)
    if lost or left:
        why = [f"{lost} of {len(grid.cells)} cells failed or diverged (the column error says why)"] if lost else []
        why += [f"{left} were interrupted"] if left else []
        stderr(f"{' and '.join(why)}; run them again with: {again}{' --retry-failed' if lost else ''}")
        raise typer.Exit(3)
    stderr(f"next: hunyuan scale-fit {shlex.quote(str(grid.folder / RUNS))}")
