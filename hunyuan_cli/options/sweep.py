"""The options of `hunyuan sweep`, and the plan that they and its file make."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hunyuan_cli.options.sizes import parse_number

if TYPE_CHECKING:
    from model.sweep.plan import SweepPlan

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
Threads = Annotated[
    int, typer.Option("--threads", min=0, help="Threads of each process of a cell; 0: the processors shared out.")
]
CellProcesses = Annotated[
    int,
    typer.Option(
        "--cell-processes", metavar="N", min=1,
        help="Train each cell as hunyuan train --processes N does, with N GPUs of its own where there are any.",
    ),
]  # fmt: skip
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
Rates = Annotated[
    Path | None,
    typer.Option(
        "--rates",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Rules of learning rate and batch by the laws that hunyuan scale-fit --rates has written.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only failures and the result.")]


def chosen_plan(file: Path, options: Mapping[str, Mapping[str, Any]], settings: list[str] | None) -> "SweepPlan":
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


def numbers(text: str | None) -> list[float] | None:
    return None if text is None else [parse_number(item) for item in text.split(",")]


def names(text: str | None) -> list[str] | None:
    found = None if text is None else [item.strip() for item in text.split(",") if item.strip()]
    if found == []:
        raise typer.BadParameter(f"'{text}' names no size: write ladder-64,ladder-96, or leave --sizes out")
    return found


def whole_numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(item) for item in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of seeds: write 0,1,2") from error
