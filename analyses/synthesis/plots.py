"""The figure of a synthesis: its funnel, domains before and after, difficulty, votes, and recall of planted errors."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analyses.style import COLORS, GREY, color, count_axis, label, make_figure
from analyses.synthesis.composition import difficulty_table, domains_table, votes_table
from analyses.synthesis.funnel import funnel_table
from analyses.synthesis.planted import planted_table


def plot_report(folder: Path) -> Figure:
    """One panel a question; votes and planted errors only where there are any."""
    votes, planted = votes_table(folder), planted_table(folder)
    panels = 3 + bool(len(votes)) + bool(len(planted))
    figure, axes = make_figure(-(-panels // 2), 2, height=3.6)
    places = iter(axes)
    _funnel(next(places), funnel_table(folder))
    _shares(next(places), domains_table(folder), "domain", "domains")
    _shares(next(places), difficulty_table(folder), "difficulty", "difficulty")
    if len(votes):
        _votes(next(places), votes)
    if len(planted):
        _planted(next(places), planted)
    for unused in places:
        unused.set_axis_off()
    return figure


def _funnel(axes: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    axes.barh(places, table["kept"], color=COLORS[0], label="kept")
    axes.barh(places, table["dropped"], left=table["kept"], color=COLORS[1], label="dropped")
    axes.set_yticks(places, table["stage"])
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    count_axis(axes.xaxis)
    label(axes, "records", "", "what each stage kept")


def _shares(axes: Axes, table: pd.DataFrame, heading: str, title: str) -> None:
    """The distribution over the values of a column, one bar a stage."""
    stages = [name for name in table.columns if name != heading]
    places, width = np.arange(len(table)), 0.8 / len(stages)
    for index, stage in enumerate(stages):
        counts = table[stage].to_numpy()
        shares = counts / max(1, counts.sum())
        axes.bar(places + (index - (len(stages) - 1) / 2) * width, shares, width, color=color(index), label=stage)
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in table[heading]]
    axes.set_xticks(places, names, rotation=20 if max(map(len, names)) > 4 else 0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, fontsize=8)
    label(axes, "", "share of records", title)


def _votes(axes: Axes, table: pd.DataFrame) -> None:
    width = table["share"].iloc[0]
    axes.bar(table["share"] - width / 2, table["instructions"], width * 0.9, color=COLORS[2])
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label(axes, "share of the winning answer", "instructions", "votes; more than half keeps it")


def _planted(axes: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    spread = np.clip([table["recall"] - table["low"], table["high"] - table["recall"]], 0, None)
    axes.errorbar(table["recall"], places, xerr=spread, fmt="o", color=COLORS[0], ecolor=GREY, markersize=4)
    names = [f"{name} ({count:,})" for name, count in zip(table["error"], table["planted"], strict=True)]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.set_xlim(min(0.9, float(table["low"].min()) - 0.02), 1.005)
    label(axes, "recall by error, and precision; 95% intervals", "", "planted errors")
