"""The options of a run on several processes, and the layout that they make."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model.parallel.layout import Layout

PANEL = "Several processes"
HANG_SECONDS = 300.0
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, rich_help_panel=PANEL,
        help="Train on so many processes of this machine, with a GPU each where there are any. torchrun does as well.",
    ),
]  # fmt: skip
ExpertParallel = Annotated[
    int,
    typer.Option(
        "--expert-parallel", min=1, rich_help_panel=PANEL, help="Processes that hold the experts between them."
    ),
]
ContextParallel = Annotated[
    int,
    typer.Option("--context-parallel", min=1, rich_help_panel=PANEL, help="Processes that share out each sequence."),
]
Shard = Annotated[
    int | None,
    typer.Option(
        "--shard", min=1, rich_help_panel=PANEL,
        help="Processes that hold one copy of the other weights between them; 1 gives each its own, by default all share one.",
    ),
]  # fmt: skip

Restarts = Annotated[
    int,
    typer.Option(
        "--restarts", min=0, rich_help_panel=PANEL,
        help="How often all processes are started again, from the last checkpoint, when one has died or hangs. "
        "With torchrun its --max-restarts does this.",
    ),
]  # fmt: skip
HangTimeout = Annotated[
    float | None,
    typer.Option(
        "--hang-timeout", min=1, rich_help_panel=PANEL,
        help=f"Seconds without progress in a step after which a process counts as hung and the run ends, by default "
        f"{HANG_SECONDS:.0f}; 15 minutes at the start and while files are read and written.",
    ),
]  # fmt: skip


def chosen_layout(
    processes: int | None, started: int, *, expert_parallel: int, context_parallel: int, shard: int | None
) -> "Layout | None":
    """The layout of a run, None where it has one process; `started` is how many a launcher has started."""
    from model.parallel.layout import Layout

    if processes is not None and started not in (1, processes):
        raise typer.BadParameter(
            f"--processes is {processes} and torchrun has started {started}: leave --processes out"
        )
    count = processes or started
    asked = {"--expert-parallel": expert_parallel, "--context-parallel": context_parallel, "--shard": shard or 1}
    if count == 1:
        for name, size in asked.items():
            if size > 1:
                raise typer.BadParameter(f"{name} {size} needs several processes: add --processes, or use torchrun")
        return None
    return Layout(processes=count, expert_parallel=expert_parallel, context_parallel=context_parallel, shard=shard or 0)
