"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hunyuan_cli.files import FIGURE_SUFFIXES, check_output
from hunyuan_cli.options.sizes import parse_count, parse_number


def check_output_path(context: typer.Context, path: Path | None) -> Path | None:
    """Refuse a file that must not be written before the work is done rather than after it."""
    if path is not None:
        check_output(path, context.obj["arguments"])
    return path


def check_figure_path(context: typer.Context, path: Path | None) -> Path | None:
    """The same of a figure, whose format must be one that can be written."""
    if path is not None and path.suffix.lower() not in FIGURE_SUFFIXES:
        raise typer.BadParameter(f"'{path}' must end in {', '.join(FIGURE_SUFFIXES[:-1])} or {FIGURE_SUFFIXES[-1]}")
    return check_output_path(context, path)


Format = Annotated[
    Literal["table", "json", "csv"], typer.Option("--format", help="A table to read, or json or csv for programs.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        dir_okay=False,
        callback=check_output_path,
        help="Write the results to this file instead of standard output.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", dir_okay=False, callback=check_figure_path, help="Draw a .png, .svg or .pdf figure."),
]
_SEED = typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
_DEVICE = typer.Option("--device", help="auto, cpu, cuda, or one of several such as cuda:1.")
Seed = Annotated[int, _SEED]
OptionalSeed = Annotated[int | None, _SEED]
Device = Annotated[str, _DEVICE]
OptionalDevice = Annotated[str | None, _DEVICE]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help="A model by name, a config.json, or a folder that holds one; repeatable. A wrong name lists the known ones.",
    ),
]
ModelSet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="model.KEY=VALUE", help="Change a key of the model's configuration; repeatable."),
]
Tokens = Annotated[
    int | None, typer.Option("--tokens", parser=parse_count, metavar="TOKENS", help="Tokens, such as 2M or 1.5B.")
]
Flops = Annotated[
    float | None, typer.Option("--flops", parser=parse_number, metavar="FLOPS", help="FLOPs, such as 1e15.")
]
