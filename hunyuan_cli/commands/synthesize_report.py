"""`hunyuan synthesize report` and `trace`: what became of a synthesis, and where one record comes from."""

from pathlib import Path
from typing import Annotated

import typer

from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Output, Plot
from hunyuan_cli.options.synthesize import Folder
from hunyuan_cli.results import emit

From = Annotated[Path, typer.Option("--in", exists=True, file_okay=False, help="The folder of the synthesis.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A record's id, or its beginning.")]


def report(folder: Folder, format: Format = "table", output: Output = None, plot: Plot = None) -> None:
    """Show what every stage kept and dropped, of which domains and difficulty, how votes fell, and planted errors found.

    Example: hunyuan synthesize report data --plot report.png
    """
    from analyses.synthesis.composition import difficulty_table, domains_table, votes_table
    from analyses.synthesis.funnel import dropped_table, funnel_table
    from analyses.synthesis.planted import planted_table

    tables = {
        "stages": funnel_table(folder), "dropped": dropped_table(folder), "domains": domains_table(folder),
        "difficulty": difficulty_table(folder), "votes": votes_table(folder), "planted_errors": planted_table(folder),
    }  # fmt: skip
    emit(tables, format=format, output=output)
    if plot is not None:
        from analyses.synthesis.plots import plot_report

        save_figure(plot_report(folder), plot)


def trace(id: Id, folder: From = Path("runs/synthesis"), format: Format = "table", output: Output = None) -> None:
    """Show how a record came about: the span of text, then what each stage made of it, kept or dropped.

    Example: hunyuan synthesize trace 3f2a90c1 --in data
    """
    from hunyuan_cli.views.synthesis_trace import emit_lineage
    from model.data.synthesis.trace import trace as lineage_of

    emit_lineage(lineage_of(folder, id), format, output)
