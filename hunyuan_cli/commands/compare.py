"""`hunyuan compare`: what several training runs reached, at what cost, and in what they differ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Output, Plot, check_figure_path
from hunyuan_cli.results import emit, result_format

if TYPE_CHECKING:
    from analyses.training.runs import Run

CONFIDENCE = 0.95

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

Seeds = Annotated[
    bool,
    typer.Option(
        "--seeds",
        help="Differences between arms, paired by seed, with intervals: runs that differ in training.seed alone are an arm.",
    ),
]
Baseline = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="ARM",
        show_default=False,
        help="With --seeds: the arm to take differences from; by default the one that shares most settings with the others.",
    ),
]
Measure = Annotated[
    str,
    typer.Option(
        "--measure",
        metavar="NAME",
        show_default=False,
        help="With --seeds: a column of the table of runs; by default val_loss.",
    ),
]
Confidence = Annotated[
    float, typer.Option("--confidence", min=0.5, max=0.999, help="With --seeds: of the intervals (Student's t).")
]


def compare(
    folders: Runs,
    format: Format = "table",
    output: Output = None,
    plot: Plot = None,
    plot_experts: PlotExperts = None,
    seeds: Seeds = False,
    baseline: Baseline = "",
    measure: Measure = "",
    confidence: Confidence = CONFIDENCE,
) -> None:
    """Compare training runs: one table, one figure, and the settings in which they differ.

    Runs that differ only in training.seed become one row: mean ± standard deviation.

    Example: hunyuan compare runs/first runs/second --plot compare.png

    All runs of a folder as JSON: hunyuan compare runs --format json

    A study over seeds: hunyuan compare runs --seeds --baseline mixture --plot differences.png
    """
    from analyses.posttraining import preferences
    from analyses.training import plots as run_plots
    from analyses.training import runs
    from analyses.training.expert_rates import expert_rates_table

    if not seeds and (baseline or measure or confidence != CONFIDENCE):
        raise typer.BadParameter("--baseline, --measure and --confidence are of differences between seeds: add --seeds")
    found = runs.load_runs(folders)
    if seeds:
        if plot_experts is not None:
            raise typer.BadParameter("--plot-experts draws one run: leave --seeds out")
        _compare_seeds(found, format, output, plot, baseline, measure, confidence)
        return
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
    rates = expert_rates_table(groups)
    if not rates.empty:
        result["expert_rates"] = rates
    emit(result, format=format, output=output, as_written=list(result["differences"].columns))
    if plot is not None:
        if preferences.learnt_preferences(found):
            figure = preferences.plot_preferences(groups)
        else:
            figure = run_plots.plot_training(found[0]) if len(found) == 1 else run_plots.plot_runs(groups)
        save_figure(figure, plot)
    if plot_experts is not None:
        save_figure(run_plots.plot_expert_load(found[0]), plot_experts)


def _compare_seeds(
    found: "list[Run]",
    format: str,
    output: Path | None,
    plot: Path | None,
    baseline: str,
    measure: str,
    confidence: float,
) -> None:
    """The same runs as a study: what an arm differs by from the baseline, pair by pair."""
    from analyses.training.arms import study_of
    from analyses.training.expert_rates import expert_rates_table
    from analyses.training.runs import RunGroup
    from analyses.training.seeds import plot_differences, variants_table

    study = study_of(found, baseline, measure)
    table = variants_table(study.cells, study.baseline, study.measure, confidence)
    result: dict[str, Any] = {"arms": table, "settings": study.settings_table()}
    rates = expert_rates_table([RunGroup(arm.name, arm.runs) for arm in study.arms])
    if not rates.empty:
        result["expert_rates"] = rates
    kind = result_format(format, output)
    if kind == "json":
        result |= {"baseline": study.baseline, "measure": study.measure, "confidence": confidence, "notes": study.notes}
    if kind == "table":  # mean and deviation as one column, under the name of what they are of
        result["arms"] = table.rename(columns={"mean": study.measure, "sd": f"{study.measure}_sd"})
    explained = f"{study.measure}: differences from {study.baseline}, seed by seed, with {confidence:.0%} intervals"
    emit(result, format=format, output=output, note="\n".join([explained, *study.notes]))
    if plot is not None:
        figure = plot_differences(table, study.cells, study.curves, study.baseline, study.measure, confidence)
        save_figure(figure, plot)
