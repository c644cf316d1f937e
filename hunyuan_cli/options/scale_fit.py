"""The options of `hunyuan scale-fit`, and what they ask for as one value."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hunyuan_cli.options.sizes import parse_bytes, parse_count, parse_fraction, parse_number, split_numbers

if TYPE_CHECKING:
    from analyses.scaling.options import Options

BYTES_PER_PARAMETER = 2  # bf16
_ASK, _DATA, _HOW = "Questions", "The table", "Method"

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUNS.csv...",
        help="Tables of runs: CSV, JSON, JSON lines or parquet, also .gz or .zst; - is standard input; or folders of runs. "
        "The laws of several are laid side by side.",
    ),
]
Method = Annotated[
    Literal["quadratic", "parametric", "both", "sparsity"],
    typer.Option(
        "--method",
        help="A curve per budget, the surface E + A/N^a + B/D^b, both, or for mixtures E + A/(N^a R^g) + B/D^b, R = total by "
        "activated parameters.",
        rich_help_panel=_HOW,
    ),
]
Predict = Annotated[
    list[str] | None,
    typer.Option(
        "--predict",
        metavar="FLOPS",
        help="Predict the best size for budgets, such as 3.1e24 or 1e22,1e23; repeatable.",
        rich_help_panel=_ASK,
    ),
]
PredictParams = Annotated[
    list[str] | None,
    typer.Option(
        "--predict-params",
        metavar="PARAMS",
        help="Predict the budget for which this size is the best; repeatable.",
        rich_help_panel=_ASK,
    ),
]
PredictLoss = Annotated[
    list[str] | None,
    typer.Option(
        "--predict-loss",
        metavar="NATS",
        help="Predict the budget that reaches this loss; repeatable.",
        rich_help_panel=_ASK,
    ),
]
ServedTokens = Annotated[
    str | None,
    typer.Option(
        "--served-tokens",
        metavar="TOKENS",
        help="Tokens that the budget serves after training, such as 2T: smaller models (a surface's).",
        rich_help_panel=_ASK,
    ),
]
UniqueTokens = Annotated[
    str | None,
    typer.Option(
        "--unique-tokens",
        metavar="TOKENS",
        help="Tokens of data that there are, such as 300B: more are repetitions, worth less (a surface's).",
        rich_help_panel=_ASK,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="What the model has to fit in: bytes such as 640GB (2 a parameter), or total parameters such as 300B.",
        rich_help_panel=_ASK,
    ),
]
Interaction = Annotated[
    bool,
    typer.Option(
        "--interaction",
        help="Let what sparsity buys depend on size and tokens (--method sparsity).",
        rich_help_panel=_HOW,
    ),
]
Flat = Annotated[
    str,
    typer.Option(
        "--flat", metavar="SHARE", help="Sizes count as flat up to so much above the least loss.", rich_help_panel=_ASK
    ),
]
Law = Annotated[
    list[str] | None,
    typer.Option(
        "--law",
        metavar="NAME|FILE",
        help="Compare with a law: paper, chinchilla, or the JSON of a fit.",
        rich_help_panel=_ASK,
    ),
]
Cost = Annotated[
    str | None,
    typer.Option(
        "--cost",
        metavar="RULE",
        help="FLOPs of a run: 6nd, paper (9.59 N D + 2.3e8 D), or K1,K2. By default that of the table's columns, else 6nd.",
        rich_help_panel=_DATA,
    ),
]
ColumnName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The name of this column in the table.", rich_help_panel=_DATA)
]
Unit = Annotated[
    str | None,
    typer.Option(metavar="UNIT", help="The unit of this column: 1e6, million, M, billion, B.", rich_help_panel=_DATA),
]
LossUnit = Annotated[
    Literal["nats", "bits", "perplexity"] | None,
    typer.Option(
        "--loss-unit",
        help="The unit of the loss of a token. By default nats, or as the column is called.",
        rich_help_panel=_DATA,
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="COLUMN=VALUE",
        help="Only rows with this value, such as dataset=c4; repeatable.",
        rich_help_panel=_DATA,
    ),
]
BestOf = Annotated[
    bool,
    typer.Option(
        "--best-of", help="Of each size and budget the best learning rate, or the least loss.", rich_help_panel=_DATA
    ),
]
Rates = Annotated[
    bool,
    typer.Option(
        "--rates",
        help="Laws of the best learning rate and batch as well, from several rates of each size (implies --best-of).",
        rich_help_panel=_ASK,
    ),
]
Last = Annotated[
    bool,
    typer.Option("--last", help="Of several checkpoints of a run (column run) the last.", rich_help_panel=_DATA),
]
BatchTokens = Annotated[
    str | None,
    typer.Option(
        "--batch-tokens",
        metavar="TOKENS",
        help="The batch of all runs, if the table has no such column.",
        rich_help_panel=_DATA,
    ),
]
Tolerance = Annotated[
    str,
    typer.Option(
        "--tolerance",
        metavar="SHARE",
        help="Runs whose FLOPs differ by less belong to one budget.",
        rich_help_panel=_DATA,
    ),
]
KeepOutliers = Annotated[
    bool,
    typer.Option(
        "--keep-outliers", help="Name outliers and runs of deviant budgets, but use them.", rich_help_panel=_DATA
    ),
]
CMinFlag = Annotated[
    bool,
    typer.Option(
        "--c-min", help="Correct budgets to C_min = C / (1 + B / B_crit(L)), B_crit = B_star / L^(1/alpha_B).",
        rich_help_panel=_HOW,
    ),
]  # fmt: skip
BStar = Annotated[str, typer.Option("--b-star", metavar="TOKENS", help="B_star of --c-min.", rich_help_panel=_HOW)]
AlphaB = Annotated[float, typer.Option("--alpha-b", help="alpha_B of --c-min.", rich_help_panel=_HOW)]
Loss = Annotated[
    Literal["huber", "lad"],
    typer.Option(
        "--loss",
        help="The loss of the parametric fit: Huber's with delta 1e-4, or absolute deviations.",
        rich_help_panel=_HOW,
    ),
]
Shape = Annotated[
    Literal["shared", "parabola"] | None,
    typer.Option(
        "--shape",
        help="Of a budget's losses: parabola, the report's, or with cubic and quartic terms that all budgets share. By default "
        "shared where there are enough runs for it.",
        rich_help_panel=_HOW,
    ),
]
Interval = Annotated[
    Literal["delta", "residual", "case"],
    typer.Option(
        "--interval",
        help="How intervals are made: delta method, or residual or case bootstrap, which resample parabolas.",
        rich_help_panel=_HOW,
    ),
]
Confidence = Annotated[
    str, typer.Option("--confidence", metavar="SHARE", help="The confidence of the intervals.", rich_help_panel=_HOW)
]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples", min=100, max=10**6, help="The number of resamples of each bootstrap.", rich_help_panel=_HOW
    ),
]
Term = Annotated[bool, typer.Option("--term", help="Draw in the terminal (extra: term).")]


def study_options(given: dict[str, Any]) -> "Options":
    """What the command was given, by the names of its parameters, checked and read."""
    from analyses.scaling.cost import parse_cost
    from analyses.scaling.options import Options
    from analyses.scaling.parabola import CMin
    from analyses.scaling.selection import parse_where
    from analyses.scaling.units import parse_unit

    alpha_b, b_star, c_min = given["alpha_b"], given["b_star"], given["c_min"]
    if not 0.01 <= alpha_b < 100:
        raise typer.BadParameter(f"--alpha-b is {alpha_b:g}: give a number from 0.01 up, such as 0.21")
    if not c_min and (b_star, alpha_b) != ("2e8", 0.21):
        raise typer.BadParameter("--b-star and --alpha-b are for --c-min: add it, or leave them out")
    if given["loss"] == "lad" and given["method"] == "quadratic":
        raise typer.BadParameter("--loss is for the surface: add --method both or parametric, or leave it out")
    if given["shape"] == "shared" and (given["method"] == "parametric" or given["interval"] != "delta"):
        raise typer.BadParameter(
            "--shape shared is of the quadratic method, with intervals by the delta method: leave out --method or --interval"
        )
    _check_surface_questions(given)
    level, share = parse_fraction(given["confidence"]), parse_fraction(given["flat"])
    if not (level > 0 and share > 0):
        raise typer.BadParameter("--confidence and --flat must be above 0: write 95% and 0.1%")
    columns = {name: given[f"{name}_column"] for name in ("flops", "params", "tokens", "loss")}
    columns["batch_tokens"] = given["batch_column"]
    units = {name: given[f"{name}_unit"] for name in ("flops", "params", "tokens")}
    return Options(
        method=given["method"],
        cost=parse_cost(given["cost"]) if given["cost"] else None,
        columns={name: column for name, column in columns.items() if column},
        units={name: parse_unit(f"--{name}-unit", unit) for name, unit in units.items() if unit is not None},
        loss_unit=given["loss_unit"],
        where=parse_where(given["where"] or []),
        best_of=given["best_of"],
        batch_tokens=parse_count(given["batch_tokens"]) if given["batch_tokens"] else None,
        tolerance=parse_fraction(given["tolerance"]),
        c_min=CMin(parse_number(b_star), alpha_b) if c_min else None,
        keep_outliers=given["keep_outliers"],
        shape=given["shape"],
        interval=given["interval"],
        confidence=level,
        resamples=given["resamples"],
        seed=given["seed"],
        lad=given["loss"] == "lad",
        predict=_numbers(given["predict"]),
        predict_params=_numbers(given["predict_params"]),
        predict_loss=_numbers(given["predict_loss"]),
        flat=share,
        memory=_parameters(given["memory"]),
        served_tokens=parse_number(given["served_tokens"]) if given["served_tokens"] else 0.0,
        unique_tokens=parse_number(given["unique_tokens"]) if given["unique_tokens"] else None,
        interaction=given["interaction"],
        rates=given["rates"],
        last=given["last"],
    )


def _numbers(texts: list[str] | None) -> tuple[float, ...]:
    """Repeated options, each with one number or several: 1e22 and 1e22,1e23."""
    return tuple(parse_number(item) for text in texts or [] for item in split_numbers(text))


def _parameters(memory: str | None) -> float | None:
    """A memory as the parameters that it holds in bf16: of bytes half as many; a count of parameters is one already."""
    if memory is None:
        return None
    is_bytes = re.search(r"[kmgt]i?b\s*$", memory, re.IGNORECASE) is not None
    return parse_bytes(memory) / BYTES_PER_PARAMETER if is_bytes else parse_number(memory)


def _check_surface_questions(given: dict[str, Any]) -> None:
    """Options that only some methods understand are refused elsewhere."""
    method = given["method"]
    for name, methods in (
        ("served_tokens", ("parametric", "both", "sparsity")),
        ("unique_tokens", ("parametric", "both")),
        ("memory", ("sparsity",)),
        ("interaction", ("sparsity",)),
    ):
        if given[name] and method not in methods:
            option = name.replace("_", "-")
            raise typer.BadParameter(
                f"--{option} needs --method {' or '.join(methods)}: add it, or leave --{option} out"
            )
