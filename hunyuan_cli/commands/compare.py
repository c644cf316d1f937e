"""`hunyuan compare`: what several training runs reached, at what cost, and in what they differ."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Output, Plot, check_figure_path
from hunyuan_cli.results import emit, result_format

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold runs.", show_default=False)
]
PlotExperts = Annotated[
    Path | None,
    typer.Option(
        "--plot-experts", dir_okay=False, callback=check_figure_path,
        help="Draw the load of each expert over training; for one run.",
    ),
]  # fmt: skip


def compare(
    folders: Runs, format: Format = "table", output: Output = None, plot: Plot = None, plot_experts: PlotExperts = None
) -> None:
    """Compare training runs: one table, one figure, and the settings in which they differ.

    Runs that differ only in training.seed become one row: mean ± standard deviation.

    Example: hunyuan compare runs/first runs/second --plot compare.png

    All runs of a folder as JSON: hunyuan compare runs --format json
    """
    from analyses.posttraining import preferences
    from analyses.training import plots as run_plots
    from analyses.training import runs

    found = runs.load_runs(folders)
    groups = runs.group_runs(found)
    if plot_experts is not None and len(found) > 1:
        raise typer.BadParameter("--plot-experts draws one run: name a single run folder")

    whole = result_format(format, output) == "json"  # for programs everything, for eyes the shortest
    repeated = len(groups) < len(found)
    result: dict[str, Any] = {}
    if repeated:
        result["groups"] = runs.groups_table(groups)
    if whole or not repeated:
        result["runs"] = runs.runs_table(found)
    result["differences"] = runs.config_differences(found if whole else runs.representatives(groups))
    emit(result, format=format, output=output, as_written=list(result["differences"].columns))
    if plot is not None:
        if preferences.learnt_preferences(found):
            figure = preferences.plot_preferences(groups)
        else:
            figure = run_plots.plot_training(found[0]) if len(found) == 1 else run_plots.plot_runs(groups)
        save_figure(figure, plot)
    if plot_experts is not None:
        save_figure(run_plots.plot_expert_load(found[0]), plot_experts)
