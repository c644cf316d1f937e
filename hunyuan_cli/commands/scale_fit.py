"""`hunyuan scale-fit`: a table of training runs turned into scaling laws with intervals, predictions and doubts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Output, Plot, Seed
from hunyuan_cli.options.scale_fit import (
    AlphaB,
    BatchTokens,
    BestOf,
    BStar,
    CMinFlag,
    ColumnName,
    Confidence,
    Cost,
    Flat,
    Interaction,
    Interval,
    KeepOutliers,
    Last,
    Law,
    Loss,
    LossUnit,
    Memory,
    Method,
    Predict,
    PredictLoss,
    PredictParams,
    Rates,
    Resamples,
    Runs,
    ServedTokens,
    Shape,
    Term,
    Tolerance,
    UniqueTokens,
    Unit,
    Where,
    study_options,
)
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.scale_fit import law_row, notes, tables, tables_beside, warned

if TYPE_CHECKING:
    from analyses.scaling.options import Options
    from analyses.scaling.study import Study


def scale_fit(
    runs: Runs,
    method: Method = "quadratic",
    predict: Predict = None,
    predict_params: PredictParams = None,
    predict_loss: PredictLoss = None,
    served_tokens: ServedTokens = None,
    unique_tokens: UniqueTokens = None,
    memory: Memory = None,
    rates: Rates = False,
    flat: Flat = "0.1%",
    law: Law = None,
    cost: Cost = None,
    flops_column: ColumnName = None,
    params_column: ColumnName = None,
    tokens_column: ColumnName = None,
    loss_column: ColumnName = None,
    batch_column: ColumnName = None,
    params_unit: Unit = None,
    tokens_unit: Unit = None,
    flops_unit: Unit = None,
    loss_unit: LossUnit = None,
    where: Where = None,
    best_of: BestOf = False,
    last: Last = False,
    batch_tokens: BatchTokens = None,
    tolerance: Tolerance = "10%",
    keep_outliers: KeepOutliers = False,
    c_min: CMinFlag = False,
    b_star: BStar = "2e8",
    alpha_b: AlphaB = 0.21,
    loss: Loss = "huber",
    shape: Shape = None,
    interaction: Interaction = False,
    interval: Interval = "delta",
    confidence: Confidence = "95%",
    resamples: Resamples = 2000,
    seed: Seed = 0,
    plot: Plot = None,
    term: Term = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Fit scaling laws of the best activated parameters and tokens against compute, with honest intervals.

    Columns: flops (or budget), activated_params (or params, N), tokens (or D), loss, or names near these; one of the first
    three may be missing. Numbers may be written 53.3M or 16,078,219.

    Exit status: 0 fitted, 3 fitted with something left out, a prediction that has no answer, or units, costs or columns in
    doubt (standard error says which), 1 no law.

    Example: hunyuan scale-fit runs.csv --predict 1e18,1e19 --plot law.png

    As in the report: hunyuan scale-fit runs.csv --cost paper --c-min --law paper --predict 3.1e24
    """
    given = dict(locals())
    from analyses.scaling.laws import LAWS, read_law
    from analyses.scaling.study import fit_study
    from analyses.scaling.tables import read_table

    unknown = next((name for name in law or [] if name not in LAWS and not Path(name).is_file()), None)
    if unknown is not None:
        raise typer.BadParameter(f"--law '{unknown}' is neither a file nor one of {', '.join(LAWS)}")
    if term and method == "sparsity":
        raise typer.BadParameter("--term draws parabolas and the surface: use --plot with --method sparsity")
    laws = [LAWS[name] if name in LAWS else read_law(Path(name)) for name in law or []]
    options = study_options(given)
    if len(runs) > 1:
        _several(runs, options, laws, plot, term, format, output)
        return
    result = fit_study(read_table(runs[0]), options)
    document = result.document
    if laws:
        document["laws"] = [law_row(one, options.predict) for one in laws]
    kind = result_format(format, output)
    emit(tables(document) if kind == "table" else document, format=kind, output=output, note=notes(document))
    if kind == "csv":
        stderr("note: csv holds the budgets; laws and predictions are in --format json and table")
    status = result.status
    if status == 1 and document.get("rates"):
        status = 3  # a table that tunes rates need not be an isoFLOP study
    for line in warned(document, refused=status == 1):
        stderr(line)
    if plot is not None or term:
        _draw(result, laws, plot, term, beside=kind == "table" and output is None)
    if status:
        raise typer.Exit(status)


def _several(
    runs: list[Path],
    options: "Options",
    laws: list[Any],
    plot: Path | None,
    term: bool,
    format: str,
    output: Path | None,
) -> None:
    """Several tables, one after the other, and their laws in one table and one figure."""
    from analyses.scaling.several import side_by_side
    from analyses.scaling.study import fit_study
    from analyses.scaling.tables import read_table

    names = [str(path) for path in runs]
    if len(set(names)) < len(names) or term:
        raise typer.BadParameter(
            "give each table once" if not term else "--term draws one table: use --plot for several"
        )
    documents, worst = {}, 0
    for name, path in zip(names, runs, strict=True):
        result = fit_study(read_table(path), options)
        documents[name] = result.document
        worst = max(worst, result.status) if 1 not in (worst, result.status) else 1
        for line in warned(result.document, refused=result.status == 1):
            stderr(f"{name}: {line}")
    document = side_by_side(documents)
    if laws:
        document["other_laws"] = [law_row(one, options.predict) for one in laws]
    kind = result_format(format, output)
    emit(document if kind == "json" else tables_beside(document), format=kind, output=output)
    if plot is not None:
        from analyses.scaling.several_plots import plot_side_by_side

        save_figure(plot_side_by_side(documents, laws), plot)
    if worst:
        raise typer.Exit(worst)


def _draw(result: "Study", laws: list[Any], plot: Path | None, term: bool, beside: bool) -> None:
    """Pictures; in the terminal beside the table, and on standard error where the output is for programs."""
    from analyses.scaling.fit import ScaleFit
    from analyses.scaling.plots import terminal_plot
    from analyses.scaling.study import plot_study

    if term and isinstance(result, ScaleFit):
        typer.echo(terminal_plot(result, laws, colors=sys.stdout.isatty() and beside), err=not beside)
    if plot is not None:
        save_figure(plot_study(result, laws), plot)
