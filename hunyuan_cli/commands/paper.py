"""`hunyuan paper`: the numbers of the report, each recomputed, with what to think of the two."""

from pathlib import Path
from typing import Annotated

import typer

from hunyuan_cli.options.common import Format, Output, Plot
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.paper import note, tables

Runs = Annotated[
    Path | None,
    typer.Option(
        "--runs", exists=True, dir_okay=False, help="The sweep of figure 3, a table of runs; otherwise one on an H200."
    ),
]


def paper(plot: Plot = None, runs: Runs = None, format: Format = "table", output: Output = None) -> None:
    """Every number of the Hunyuan-Large report that can be recomputed, beside this project's.

    Example: hunyuan paper

    For programs: hunyuan paper --format json

    The report's figures 2 and 3 from this project's code and runs: hunyuan paper --plot figures.png
    """
    from analyses.paper.report import paper_report

    if runs is not None and plot is None:
        raise typer.BadParameter("--runs is drawn by --plot FILE: give both or neither")
    report = paper_report()
    if plot is not None:
        from analyses.paper.figures import plot_paper
        from hunyuan_cli.files import save_figure

        save_figure(plot_paper(runs), plot)
    kind = result_format(format, output)
    if kind == "table":
        emit(tables(report), format=kind, output=output, note=note(report))
    else:
        emit(report if kind == "json" else report["rows"], format=kind, output=output)
