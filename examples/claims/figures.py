"""The tables and figures of README.md, from the data that study.py left.

python examples/claims/figures.py examples/claims                                  tables in Markdown
python examples/claims/figures.py examples/claims --figures examples/claims        and the figures

FOLDER has cells.csv and curves.csv, and compare.json with the expert rates, which `hunyuan compare --seeds` says.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from analyses.style import GREY, color, count_axis, label, legend_below, make_figure
from analyses.training.seeds import paired_curves, plot_differences, variants_table
from hunyuan_cli.files import save_figure


class Question(NamedTuple):
    title: str
    baseline: str
    arms: tuple[str, ...]
    beside: tuple[str, ...] = ()  # columns of cells.csv that belong to it


QUESTIONS = (
    Question("Chance", "report", ("measured",)),
    Question("Chance, 5.9M activated", "large, expert rate 0.31", ("large, measured",)),
    Question(
        "Cross-layer attention", "report", ("no CLA", "no CLA, one KV head"),
        ("cache_bytes_per_token", "activated_params"),
    ),
    Question("Shared expert", "report", ("routed only",), ("activated_params", "load_imbalance")),
    Question("Annealing", "report", ("no annealing", "cosine to 0.1")),
    Question("QK norm", "report", ("no QK norm",)),
    Question("QK norm at four times the rate", "high rate", ("high rate, no QK norm",)),
    Question("Balance", "report", ("bias 0.001", "bias 0.01", "unbalanced"), ("load_imbalance",)),
    Question("Capacity 1.0", "report", ("drop", "recycle"), ("dropped_fraction", "recycled_fraction")),
    Question("Recycle against drop", "drop", ("recycle",)),
    Question(
        "Capacity 1.0 without a balance loss", "unbalanced", ("unbalanced, drop", "unbalanced, recycle"),
        ("dropped_fraction", "recycled_fraction", "load_imbalance"),
    ),
    Question("Recycle against drop without a balance loss", "unbalanced, drop", ("unbalanced, recycle",)),
    Question(
        "Expert rate, 5.9M activated", "large, expert rate 0.31",
        ("large, expert rate 0.56", "large, expert rate 1.0"),
    ),
    Question("Is that rate tuned?", "large, expert rate 0.56", ("large, half the rate", "large, twice the rate")),
)  # fmt: skip
PHASES = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)  # of the training tokens
BINS = 20
UNSHARED = ("no CLA", "no CLA, one KV head")


def question_table(cells: pd.DataFrame, question: Question) -> pd.DataFrame:
    """The rows of analyses.training.seeds.variants_table, with means of what belongs to the question."""
    part = cells[cells["variant"].isin([question.baseline, *question.arms])]
    table = variants_table(part, question.baseline, "val_loss")
    means = part.groupby("variant")[list(question.beside)].mean()
    return table.join(means, on="variant")


def phases_table(curves: pd.DataFrame, baseline: str, arm: str, measure: str = "loss") -> pd.DataFrame:
    """The paired difference of the mean training loss in each phase of training, and what either had no place for."""
    share = curves["tokens"] / curves["tokens"].max()
    rows = []
    for low, high in pairwise(PHASES):
        part = curves[(share > low) & (share <= high) & curves["variant"].isin([baseline, arm])]
        if part[measure].isna().all():
            continue
        means = (
            part.groupby(["variant", "seed"])[[measure, "dropped_fraction", "recycled_fraction"]].mean().reset_index()
        )
        found = variants_table(means, baseline, measure).set_index("variant").loc[arm]
        lost = means.groupby("variant")[["dropped_fraction", "recycled_fraction"]].mean().max(axis=1)
        rows.append({"from": low, "to": high} | found[["difference", "low", "high", "pairs"]].to_dict())
        rows[-1] |= {f"over capacity, {name}": lost[name] for name in (baseline, arm)}
    return pd.DataFrame(rows)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(row: pd.Series) -> str:
    if not np.isfinite(row.get("difference", np.nan)):
        return ""
    if not np.isfinite(row["low"]):
        return f"{row['difference']:+.4f} (one pair)"
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def _number(name: str, value: float) -> str:
    if name.endswith("_fraction"):
        return f"{value:.1%}"
    return f"{value:,.0f}" if value > 100 else f"{value:.2f}"


def claims_rows(cells: pd.DataFrame) -> list[list[str]]:
    """A row an arm: its question, itself, its loss, what it is compared with, the difference, and what belongs to it."""
    rows = []
    for question in QUESTIONS:
        table = question_table(cells, question).set_index("variant")
        base = table.loc[question.baseline]
        for arm in question.arms:
            row = table.loc[arm]
            beside = (
                f"{name.replace('_', ' ')} {_number(name, row[name])}, against {_number(name, base[name])}"
                for name in question.beside
                if _number(name, row[name]) != _number(name, base[name])
            )
            loss = f"{row['mean']:.4f} ± {row['sd']:.4f}"
            against = f"{question.baseline}: {base['mean']:.4f}"
            rows.append([question.title, arm, loss, against, interval(row), "; ".join(beside)])
    return rows


def phases_rows(curves: pd.DataFrame) -> list[list[str]]:
    """A row a phase of training: recycle less drop and the choices that drop lost, with a balance loss and without."""
    tables = [phases_table(curves, before + "drop", before + "recycle") for before in ("", "unbalanced, ")]
    rows = []
    for pair in zip(*(table.iterrows() for table in tables), strict=True):
        balanced, unbalanced = (row for _, row in pair)
        row = [f"{balanced['from']:.0%} to {balanced['to']:.0%}"]
        row += [interval(balanced), f"{balanced['over capacity, drop']:.1%}"]
        rows.append([*row, interval(unbalanced), f"{unbalanced['over capacity, unbalanced, drop']:.1%}"])
    return rows


def by_seed(curves: pd.DataFrame, arm: str, baseline: str = "report") -> pd.DataFrame:
    """The differences in validation loss: a row a seed, a column a number of tokens."""
    values = curves.pivot_table(index=["seed", "tokens"], columns="variant", values="val_loss")
    return (values[arm] - values[baseline]).unstack().dropna(axis=1)


def rate_rows(rates: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row a moment of the runs that measured their noise scale, of the table `expert_rates` of compare.json."""
    return [
        [
            rate["name"].replace("large-", "large, "), f"{rate['of_the_run']:.0%}",
            f"{rate['noise_scale_shared']:,.0f}", f"{rate['noise_scale_routed']:,.0f}",
            f"{rate['batch_noise_ratio']:.3f}", f"{rate['by_the_rule']:.2f}", f"{rate['by_both_noise_scales']:.2f}",
        ]
        for rate in rates
    ]  # fmt: skip


def print_tables(cells: pd.DataFrame, curves: pd.DataFrame, rates: Sequence[dict[str, Any]] = ()) -> None:
    print(markdown(["question", "arm", "val loss", "against", "difference", "beside it"], claims_rows(cells)))
    heads = ["part of training", "recycle less drop", "dropped", "the same without a balance loss", "dropped"]
    print(markdown(heads, phases_rows(curves)))
    if rates:
        heads = ["runs", "after", "noise scale, shared", "routed", "B / B_noise", "rate by the rule", "by both scales"]
        print(markdown(heads, rate_rows(rates)))


def plot_transition(curves: pd.DataFrame) -> Figure:
    """Each seed's validation loss without CLA, less that of the report's arm, over training."""
    figure, panels = make_figure(1, len(UNSHARED), share_y=True)
    for axes, arm in zip(panels, UNSHARED, strict=True):
        for seed, line in by_seed(curves, arm).iterrows():
            axes.plot(line.index, line, color=color(int(seed)), label=f"seed {seed}")
        axes.axhline(0, color=GREY, linewidth=0.9)
        label(axes, "training tokens", "val loss, less the report's", f"{arm[0].upper()}{arm[1:]}")
        count_axis(axes.xaxis)
    legend_below(figure, panels[0], columns=5)
    return figure


def plot_recycling(curves: pd.DataFrame) -> Figure:
    """Recycle less drop in training loss over training, and the choices over capacity; with and without a balance loss."""
    figure, (difference, over) = make_figure(1, 2)
    width = curves["tokens"].max() / BINS
    binned = curves.assign(tokens=(np.ceil(curves["tokens"] / width) - 0.5) * width)
    means = binned.groupby(["variant", "seed", "tokens"])[["loss", "dropped_fraction", "recycled_fraction"]].mean()
    means = means.reset_index()
    for index, (before, name) in enumerate((("", "balance loss"), ("unbalanced, ", "without"))):
        pair = means[means["variant"].isin([before + "drop", before + "recycle"])]
        part = paired_curves(pair, before + "drop", "loss")
        difference.plot(part["tokens"], part["difference"], color=color(index), label=name)
        difference.fill_between(part["tokens"], part["low"], part["high"], color=color(index), alpha=0.2, lw=0)
        for column, policy, dashes in (("dropped_fraction", "drop", "-"), ("recycled_fraction", "recycle", "--")):
            share = pair[pair["variant"] == before + policy].groupby("tokens")[column].mean()
            over.plot(share.index, share, dashes, color=color(index), label=f"{policy}, {name}")
    difference.axhline(0, color=GREY, linewidth=0.9)
    label(difference, "training tokens", "training loss (nats)", "Recycle less drop, 95% interval")
    label(over, "training tokens", "share of the choices", "Choices over capacity")
    over.set_ylim(bottom=0)
    for axes in (difference, over):
        count_axis(axes.xaxis)
    legend_below(figure, over)
    return figure


def plot_noise(curves: pd.DataFrame, batch: int = 4096) -> Figure:
    """The gradient noise scale over training, by role and size: the mean over seeds of its logarithm."""
    figure, panels = make_figure(1, 2, share_y=True)
    for axes, arm, title in zip(
        panels, ("measured", "large, measured"), ("1.2M activated", "5.9M activated"), strict=True
    ):
        rows = curves[curves["variant"] == arm]
        for index, role in enumerate(("shared", "routed")):
            values = rows.dropna(subset=f"noise_scale_{role}")
            mean = np.exp(np.log(values[f"noise_scale_{role}"]).groupby(values["tokens"]).mean())
            axes.plot(mean.index, mean, color=color(index), label={"routed": "routed experts"}.get(role, role))
        axes.axhline(batch, color=GREY, linewidth=0.9, linestyle=":", label="the batch")
        axes.set_yscale("log")
        label(axes, "training tokens", "noise scale (tokens)", title)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        count_axis(axes.xaxis)
        count_axis(axes.yaxis)
    legend_below(figure, panels[0])
    return figure


def figures(cells: pd.DataFrame, curves: pd.DataFrame) -> dict[str, Figure]:
    """By file name."""

    def against(baseline: str, arms: list[str]) -> Figure:
        part, lines = (frame[frame["variant"].isin([baseline, *arms])] for frame in (cells, curves))
        return plot_differences(variants_table(part, baseline, "val_loss"), part, lines, baseline, "val_loss")

    arms = [name for name in dict.fromkeys(cells["variant"]) if name != "report" and not name.startswith("large")]
    settled = [name for name in arms if not name.startswith(("unbalanced", "high"))]
    return {
        "differences.png": against("report", settled),
        "expert_rate.png": against("large, expert rate 0.31", ["large, expert rate 0.56", "large, expert rate 1.0"]),
        "cross_layer.png": plot_transition(curves),
        "recycling.png": plot_recycling(curves),
        "noise_scale.png": plot_noise(curves),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figures", type=Path, help="draw the figures into this folder")
    options = parser.parse_args()
    cells, curves = (pd.read_csv(options.folder / name) for name in ("cells.csv", "curves.csv"))
    compared = options.folder / "compare.json"
    print_tables(cells, curves, json.loads(compared.read_text())["expert_rates"] if compared.exists() else ())
    if options.figures is not None:
        for name, figure in figures(cells, curves).items():
            save_figure(figure, options.figures / name)


if __name__ == "__main__":
    main()
