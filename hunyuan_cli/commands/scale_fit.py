"""`hunyuan scale-fit`: a table of training runs turned into scaling laws with intervals, predictions and doubts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Output, Plot, Seed
from hunyuan_cli.options.sizes import parse_count, parse_fraction, parse_number
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.scale_fit import notes, tables

if TYPE_CHECKING:
    from analyses.scaling.fit import ScaleFit

_ASK, _DATA, _HOW = "Questions", "The table", "Method"

Runs = Annotated[Path, typer.Argument(metavar="RUNS.csv", help="A table of runs: CSV, JSON, JSON lines or parquet.")]
Method = Annotated[
    Literal["quadratic", "parametric", "both"],
    typer.Option(
        "--method", help="Parabolas per budget, the surface E + A/N^a + B/D^b, or both.", rich_help_panel=_HOW
    ),
]
Predict = Annotated[
    list[str] | None,
    typer.Option(
        "--predict", metavar="FLOPS", help="The optimum at a budget, such as 3.1e24; repeatable.", rich_help_panel=_ASK
    ),
]
PredictParams = Annotated[
    list[str] | None,
    typer.Option(
        "--predict-params",
        metavar="PARAMS",
        help="The budget for which this size is best; repeatable.",
        rich_help_panel=_ASK,
    ),
]
PredictLoss = Annotated[
    list[str] | None,
    typer.Option(
        "--predict-loss", metavar="NATS", help="The budget that reaches this loss; repeatable.", rich_help_panel=_ASK
    ),
]
Flat = Annotated[
    str,
    typer.Option(
        "--flat", metavar="SHARE", help="How far above the least loss the flat region reaches.", rich_help_panel=_ASK
    ),
]
Law = Annotated[
    list[str] | None,
    typer.Option(
        "--law", metavar="NAME|FILE", help="Lay a law beside: paper, chinchilla, or a fit's JSON.", rich_help_panel=_ASK
    ),
]
Cost = Annotated[
    str | None,
    typer.Option(
        "--cost",
        metavar="RULE",
        help="FLOPs of a run: 6nd, paper (9.59 N D + 2.3e8 D), or K1,K2. By default the table's own, else 6nd.",
        rich_help_panel=_DATA,
    ),
]
ColumnName = Annotated[str | None, typer.Option(metavar="NAME", help="Its name in the table.", rich_help_panel=_DATA)]
BatchTokens = Annotated[
    str | None,
    typer.Option(
        "--batch-tokens", metavar="TOKENS", help="Batch of every run, where the table has none.", rich_help_panel=_DATA
    ),
]
Tolerance = Annotated[
    str,
    typer.Option("--tolerance", metavar="SHARE", help="FLOPs this close are one budget.", rich_help_panel=_DATA),
]
KeepOutliers = Annotated[
    bool, typer.Option("--keep-outliers", help="Name outliers, but fit them.", rich_help_panel=_DATA)
]
CMinFlag = Annotated[
    bool,
    typer.Option(
        "--c-min", help="Correct budgets to C_min = C / (1 + B / B_crit(L)), B_crit = B_star / L^(1/alpha_B).",
        rich_help_panel=_HOW,
    ),
]  # fmt: skip
BStar = Annotated[
    str, typer.Option("--b-star", metavar="TOKENS", help="B_star of the correction.", rich_help_panel=_HOW)
]
AlphaB = Annotated[float, typer.Option("--alpha-b", help="alpha_B of the correction.", rich_help_panel=_HOW)]
Loss = Annotated[
    Literal["huber", "lad"],
    typer.Option(
        "--loss", help="Of the parametric fit: Huber's at 1e-3, or absolute deviations.", rich_help_panel=_HOW
    ),
]
Interval = Annotated[
    Literal["delta", "residual", "case"],
    typer.Option("--interval", help="Delta method, or residual or case bootstrap.", rich_help_panel=_HOW),
]
Confidence = Annotated[
    str, typer.Option("--confidence", metavar="SHARE", help="Of the intervals.", rich_help_panel=_HOW)
]
Resamples = Annotated[
    int, typer.Option("--resamples", min=100, max=10**6, help="Of each bootstrap.", rich_help_panel=_HOW)
]
Term = Annotated[bool, typer.Option("--term", help="Draw in the terminal (extra: term).")]

REFUSALS = ("too_few_budgets", "no_surface")


def scale_fit(
    runs: Runs,
    method: Method = "quadratic",
    predict: Predict = None,
    predict_params: PredictParams = None,
    predict_loss: PredictLoss = None,
    flat: Flat = "0.1%",
    law: Law = None,
    cost: Cost = None,
    flops_column: ColumnName = None,
    params_column: ColumnName = None,
    tokens_column: ColumnName = None,
    loss_column: ColumnName = None,
    batch_column: ColumnName = None,
    batch_tokens: BatchTokens = None,
    tolerance: Tolerance = "10%",
    keep_outliers: KeepOutliers = False,
    c_min: CMinFlag = False,
    b_star: BStar = "2e8",
    alpha_b: AlphaB = 0.21,
    loss: Loss = "huber",
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

    Columns: flops (or budget), activated_params (or params, N), tokens (or D), loss; one of the first three may be missing.
    Exit status: 0 clean, 3 fitted with something left out (named on standard error), 1 no law.

    Example: hunyuan scale-fit runs.csv --predict 1e18 --plot law.png

    As in the report: hunyuan scale-fit runs.csv --cost paper --c-min --law paper --predict 3.1e24
    """
    from analyses.scaling.cost import parse_cost
    from analyses.scaling.fit import scale_fit as fit
    from analyses.scaling.laws import LAWS, read_law
    from analyses.scaling.options import Options
    from analyses.scaling.parabola import CMin
    from analyses.scaling.tables import read_table

    if not 0.01 <= alpha_b < 100:
        raise typer.BadParameter(f"--alpha-b is {alpha_b:g}: give a number from 0.01 up, such as 0.21")
    if not c_min and (b_star, alpha_b) != ("2e8", 0.21):
        raise typer.BadParameter("--b-star and --alpha-b are for --c-min: add it, or leave them out")
    if loss == "lad" and method == "quadratic":
        raise typer.BadParameter("--loss is for the surface: add --method both or parametric, or leave it out")
    level, share = parse_fraction(confidence), parse_fraction(flat)
    if not (level > 0 and share > 0):
        raise typer.BadParameter("--confidence and --flat must be above 0: write 95% and 0.1%")
    columns = {
        "flops": flops_column, "params": params_column, "tokens": tokens_column, "loss": loss_column,
        "batch_tokens": batch_column,
    }  # fmt: skip
    unknown = next((name for name in law or [] if name not in LAWS and not Path(name).is_file()), None)
    if unknown is not None:
        raise typer.BadParameter(f"--law '{unknown}' is neither a file nor one of {', '.join(LAWS)}")
    laws = [LAWS[name] if name in LAWS else read_law(Path(name)) for name in law or []]
    options = Options(
        method=method,
        cost=parse_cost(cost) if cost else None,
        columns={name: column for name, column in columns.items() if column},
        batch_tokens=parse_count(batch_tokens) if batch_tokens else None,
        tolerance=parse_fraction(tolerance),
        c_min=CMin(parse_number(b_star), alpha_b) if c_min else None,
        keep_outliers=keep_outliers,
        interval=interval,
        confidence=level,
        resamples=resamples,
        seed=seed,
        lad=loss == "lad",
        predict=tuple(map(parse_number, predict or [])),
        predict_params=tuple(map(parse_number, predict_params or [])),
        predict_loss=tuple(map(parse_number, predict_loss or [])),
        flat=share,
    )
    result = fit(read_table(runs), options)
    document = result.document
    if laws:
        document["laws"] = [_law_row(one, options.predict) for one in laws]
    kind = result_format(format, output)
    emit(tables(document) if kind == "table" else document, format=kind, output=output, note=notes(document))
    if kind == "csv":
        stderr("note: csv holds the budgets; laws and predictions are in --format json and table")
    for warning in document["warnings"]:
        stderr(f"{'error' if warning['code'] in REFUSALS and result.status == 1 else 'warning'} "
               f"[{warning['code']}]: {warning['reason']}")  # fmt: skip
    if plot is not None or term:
        _draw(result, laws, plot, term, beside=kind == "table" and output is None)
    if result.status:
        raise typer.Exit(result.status)


def _draw(result: "ScaleFit", laws: list[Any], plot: Path | None, term: bool, beside: bool) -> None:
    """Pictures; in the terminal beside the table, and on standard error where the output is for programs."""
    from analyses.scaling.plots import plot_scaling, terminal_plot

    if term:
        typer.echo(terminal_plot(result, laws, colors=sys.stdout.isatty() and beside), err=not beside)
    if plot is not None:
        save_figure(plot_scaling(result, laws), plot)


def _law_row(law: Any, flops: tuple[float, ...]) -> dict[str, Any]:
    """Another law beside the fitted one, with what it says of the budgets asked for."""
    predictions = [{"flops": c, "params_opt": law.n_opt(c), "tokens_opt": law.d_opt(c)} for c in flops]
    laws = {
        name: {"coefficient": one.coefficient, "exponent": one.exponent}
        for name, one in (("n_opt", law.n_opt), ("d_opt", law.d_opt))
    }
    return {"name": law.name, "source": law.source} | laws | {"predictions": predictions}
