"""Long texts: score against length, and against where in the text the answer lies.

Samples are those of an evaluation's samples.jsonl (model.evaluation.record.read_samples): each has a task, a length in tokens,
its scores from 0 to 1, and the depth of what its answer needs, 0 at the beginning and 1 at the end.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from analyses.style import GREY, INK, color, label, legend_below, line_style, make_figure
from model.errors import HunyuanError
from model.evaluation.intervals import interval

Samples = Mapping[Any, Mapping[str, Any]] | Iterable[Mapping[str, Any]]

BINS = 10  # of depth
EFFECTIVE = (
    85.6  # percent: RULER calls a length effective where a model reaches what Llama 2 7B does at 4K (arXiv:2404.06654)
)
MEAN = "mean of tasks"
SCORES = LinearSegmentedColormap.from_list("scores", ["#b2182b", "#f4d9b0", "#0072B2"])  # red 0, blue 100


def lengths_table(samples: Samples) -> pd.DataFrame:
    """A row for each task and length, then one for the mean of the tasks at each: score, 95% interval, n, nulls, truncated.

    A score is the first metric of its sample, in percent. The mean weighs every task alike.
    """
    frame = _frame(samples)
    rows = [_row(str(task), length, part) for task, of_task in frame.groupby("task", sort=False) for length, part in
            of_task.groupby("length")]  # fmt: skip
    table = pd.DataFrame(rows)
    if frame["task"].nunique() == 1:
        return table
    means = [_mean(length, part) for length, part in table.groupby("length")]
    return pd.concat([table, pd.DataFrame(means)], ignore_index=True)


def effective_length(table: pd.DataFrame, threshold: float = EFFECTIVE) -> int | None:
    """The greatest length up to which the mean of the tasks is nowhere below `threshold` percent; None where it always is."""
    means = table[table["task"] == MEAN] if MEAN in set(table["task"]) else table
    reached = None
    for length, score in sorted(zip(means["length"], means["score"], strict=True)):
        if score < threshold:
            break
        reached = int(length)
    return reached


def depths_table(samples: Samples, bins: int = BINS) -> pd.DataFrame:
    """A row for each length and part of the text: score in percent and n, of samples whose answer lies at one place.

    The parts are equal shares of the text; `depth` is the middle of one. Of a sample with several places the score does not
    say which was missed, so that it is left out. HunyuanError where no sample has one place.
    """
    frame = _frame(samples)
    frame = frame[frame["depth"].map(len) == 1]
    if frame.empty:
        raise HunyuanError("no sample has its answer at one place: evaluate RULER's niah_single or niah_multikey tasks")
    part = (frame["depth"].map(lambda depth: depth[0]) * bins).astype(int).clip(upper=bins - 1)
    grouped = frame.assign(depth=(part + 0.5) / bins).groupby(["length", "depth"])["score"]
    return grouped.agg(score="mean", n="size").reset_index()


def plot_lengths(evaluations: Mapping[str, Samples]) -> Figure:
    """Score against length by task, and by model where there are several, each with its band."""
    figure, (axes,) = make_figure(width=7.5, height=4.4)
    draw_lengths(axes, evaluations)
    legend_below(figure, axes)
    return figure


def plot_long_context(evaluations: Mapping[str, Samples], bins: int = BINS) -> Figure:
    """Score against length, then for each model the map of length and depth, where it has samples for one."""
    maps = {}
    for name, samples in evaluations.items():
        if any(len(depth) == 1 for depth in _frame(samples)["depth"]):
            maps[name] = depths_table(samples, bins)
    figure, panels = make_figure(1, 1 + len(maps), width=5.2 * (1 + len(maps)), height=4.4)
    draw_lengths(panels[0], evaluations)
    for axes, (name, table) in zip(panels[1:], maps.items(), strict=True):
        draw_depths(axes, table, bins, name)
    legend_below(figure, panels[0])
    return figure


def draw_lengths(axes: Axes, evaluations: Mapping[str, Samples]) -> None:
    """One model: a line a task and the mean in black. Several: the mean of each."""
    several = len(evaluations) > 1
    for index, (name, samples) in enumerate(evaluations.items()):
        table = lengths_table(samples)
        only = table["task"].nunique() == 1
        for place, (task, rows) in enumerate(table.groupby("task", sort=False)):
            if several and task != MEAN and not only:
                continue
            main = several or only or task == MEAN
            style: dict[str, Any] = line_style(place) | {"linewidth": 1.0, "alpha": 0.75}
            if main:
                style = {"color": color(index) if several or only else INK, "linewidth": 2.0, "zorder": 3}
            axes.plot(rows["length"], rows["score"], marker="o", ms=4, label=name if several else str(task), **style)
            if main:
                axes.fill_between(rows["length"], rows["low"], rows["high"], color=style["color"], alpha=0.15, lw=0)
    axes.set_ylim(-3, 103)
    axes.set_xscale("log", base=2)
    lengths = sorted({int(row) for samples in evaluations.values() for row in _frame(samples)["length"]})
    axes.set_xticks(lengths, [_tokens(length) for length in lengths])
    axes.minorticks_off()
    label(axes, "tokens of the prompt and its answer", "score, %", "score against length")


def draw_depths(axes: Axes, table: pd.DataFrame, bins: int, name: str) -> None:
    """A map: lengths from left to right, the text from its beginning above to its end below; what was not asked is blank."""
    lengths = sorted(set(table["length"]))
    grid = np.full((bins, len(lengths)), np.nan)
    for length, depth, score in zip(table["length"], table["depth"], table["score"], strict=True):
        grid[int(depth * bins), lengths.index(length)] = score
    axes.pcolormesh(np.ma.masked_invalid(grid), cmap=SCORES, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    for (y, x), value in np.ndenumerate(grid):
        if not np.isnan(value):
            middle = 25 < value < 75
            axes.text(
                x + 0.5, y + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8, color=INK if middle else "white"
            )
    axes.set_xticks(np.arange(len(lengths)) + 0.5, [_tokens(int(length)) for length in lengths])
    axes.set_yticks([0, bins / 2, bins], ["0", "50", "100"])
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    label(axes, "tokens", "depth of the answer, %", f"{name}: score, %")


def _frame(samples: Samples) -> pd.DataFrame:
    rows = samples.values() if isinstance(samples, Mapping) else samples
    found = [
        {
            "task": row["task"],
            "length": int(row["length"]),
            "score": 100 * float(next(iter(row["scores"].values()))),
            "depth": tuple(row.get("depth") or ()),
            "null": bool(row.get("null")),
            "truncated": bool(row.get("truncated")),
        }
        for row in rows
        if row.get("length") is not None and row["scores"]
    ]
    if not found:
        raise HunyuanError("no sample has a length: evaluate tasks of long texts, such as --tasks ruler")
    return pd.DataFrame(found)


def _row(task: str, length: Any, part: pd.DataFrame) -> dict[str, Any]:
    low, high = interval((part["score"] / 100).tolist())
    return {
        "task": task,
        "length": int(length),
        "score": float(part["score"].mean()),
        "low": 100 * low,
        "high": 100 * high,
        "n": len(part),
        "nulls": int(part["null"].sum()),
        "truncated": int(part["truncated"].sum()),
    }


def _mean(length: Any, tasks: pd.DataFrame) -> dict[str, Any]:
    """Over tasks at one length. The distances to the ends of their intervals add up as independent errors do (MOVER)."""
    score = float(tasks["score"].mean())
    down = float(np.sqrt(((tasks["score"] - tasks["low"]) ** 2).sum())) / len(tasks)
    up = float(np.sqrt(((tasks["high"] - tasks["score"]) ** 2).sum())) / len(tasks)
    sums = {name: int(tasks[name].sum()) for name in ("n", "nulls", "truncated")}
    return {"task": MEAN, "length": int(length), "score": score, "low": score - down, "high": score + up, **sums}


def _tokens(length: int) -> str:
    return f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}"
