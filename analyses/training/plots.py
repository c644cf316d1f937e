"""Figures of training runs: several beside each other, one in detail, and where its experts' tokens went.

    plot_runs(groups)        loss against tokens, FLOPs and time; seeds as a mean with a band of one standard deviation
    plot_training(run)       loss, gradient norm, learning rate and speed; dotted where a stage begins
    plot_expert_load(run)    each expert's share of the router's choices over training, relative to an even share

A run whose metrics lack what a figure needs is one sentence, as a HunyuanError.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from analyses.style import COLORS, GREY, count_axis, label, legend_below, line_style, make_figure, time_unit
from analyses.training.runs import Run, RunGroup
from model.errors import HunyuanError

SMOOTHED_FROM = 100  # points
MAX_LAYERS = 8  # heat maps in one figure
MAX_COLUMNS = 240  # columns of a heat map: as many as its width can show


def smooth(values: pd.Series) -> pd.Series:
    """A mean over about a fiftieth of the series around each point, narrower at the ends to stay centred.

    An average of the past alone would lag a falling loss, and the more the longer the run.
    """
    known = values.dropna()
    index = np.arange(len(known))
    reach = np.minimum(len(known) // SMOOTHED_FROM, np.minimum(index, len(known) - 1 - index))
    sums = np.concatenate([[0.0], np.cumsum(known)])
    return pd.Series((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1), known.index).reindex(
        values.index
    )


def _smooths(values: pd.Series) -> bool:
    """Whether the series is long enough for its smoothed line to be another."""
    return int(values.notna().sum()) >= SMOOTHED_FROM


# --- several runs ----------------------------------------------------------------------------------------------------


def plot_runs(groups: Sequence[RunGroup]) -> Figure:
    """Validation loss, or where a run has none the smoothed training loss, against tokens, FLOPs and time."""
    runs = [run for group in groups for run in group.runs]
    column = "val_loss" if all(_points(run, "val_loss") > 1 for run in runs) else "loss"
    curves = [(group, curve) for group in groups if len(curve := _curve(group, column))]
    if not curves:
        raise HunyuanError("none of these runs has logged a loss yet: there is nothing to draw")

    divisor, unit = time_unit(max(curve["seconds"].max() for _, curve in curves))
    power = math.floor(math.log10(max(1.0, max(curve["flops"].max() for _, curve in curves))))
    figure, panels = make_figure(1, 3, height=3.4 + 0.2 * (len(curves) // 4), share_y=True)
    for index, (group, curve) in enumerate(curves):
        name = group.name if len(group.runs) == 1 else f"{group.name} (mean ± sd, {len(group.runs)} seeds)"
        style = line_style(index) | ({"marker": "o", "markersize": 3.5} if len(curve) <= 25 else {})
        ways = curve["tokens"], curve["flops"] / 10.0**power, curve["seconds"] / divisor
        for axes, x in zip(panels, ways, strict=True):
            axes.plot(x, curve["mean"], label=name, **style)
            if len(group.runs) > 1:
                low, high = curve["mean"] - curve["sd"], curve["mean"] + curve["sd"]
                axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)

    smoothed = ", smoothed" if any(_smooths(run.metrics[column]) for run in runs if column in run.metrics) else ""
    what = "validation loss" if column == "val_loss" else f"training loss{smoothed}"
    label(panels[0], "tokens", f"{what}\n(nats per token)", "By tokens")
    label(panels[1], f"training FLOPs ($10^{{{power}}}$)", "", "By compute")
    label(panels[2], f"training time ({unit})", "", "By time")
    reach = [curve["tokens"].max() for _, curve in curves]
    for axes in panels:
        if max(reach) >= 10 * min(reach):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.set_xlim(left=0)
    count_axis(panels[0].xaxis)
    _limit(panels[0], [curve["mean"] + sign * curve["sd"] for _, curve in curves for sign in (-1, 1)])
    legend_below(figure, panels[0], columns=4)
    return figure


def _points(run: Run, column: str) -> int:
    return int(run.metrics[column].notna().sum()) if column in run.metrics else 0


def _curve(group: RunGroup, column: str) -> pd.DataFrame:
    """tokens, flops, seconds, mean and sd at the steps that all runs of the group have logged."""
    needed = ["step", "tokens", "flops", "seconds"]
    parts = []
    for run in group.runs:
        rows = run.metrics.reindex(columns=[*needed, column])
        values = rows[column] if column == "val_loss" else smooth(rows[column])
        parts.append(rows[needed].assign(value=values).dropna(subset=["step", "value"]))
    steps = pd.concat(parts).groupby("step")
    curve = steps[["tokens", "flops", "seconds"]].mean()
    curve = curve.assign(mean=steps["value"].mean(), sd=steps["value"].std(ddof=1).fillna(0.0))
    return curve[steps.size() == len(group.runs)]


def _limit(axes: Axes, curves: Sequence[pd.Series], inside: pd.Series | None = None) -> None:
    """Leave the fall from the untrained loss, which would flatten all the rest, out at the top; not the points `inside`."""
    settled = [curve.iloc[len(curve) // 10 :] if len(curve) >= 10 else curve for curve in curves]
    points = [] if inside is None or inside.empty else [inside]
    low = min(curve.min() for curve in [*curves, *points])
    high = max(curve.max() for curve in [*settled, *points])
    if np.isfinite([low, high]).all():
        air = 0.05 * ((high - low) or 1.0)
        axes.set_ylim(low - air, high + air)


# --- one run ---------------------------------------------------------------------------------------------------------


def plot_training(run: Run) -> Figure:
    """Four panels over tokens: loss (raw, smoothed, validation), gradient norm, learning rate, tokens per second."""
    metrics = run.metrics
    if _points(run, "loss") == 0:
        raise HunyuanError(f"run '{run.name}' has logged no loss yet: there is nothing to draw")
    figure, (loss, norm, rate, speed) = make_figure(2, 2, height=2.9)
    tokens = metrics["tokens"]

    smoothed = smooth(metrics["loss"])
    validation = None
    if _smooths(metrics["loss"]):
        loss.plot(tokens, metrics["loss"], color=COLORS[0], alpha=0.3, linewidth=0.8, label="training")
        loss.plot(tokens, smoothed, color=COLORS[0], linewidth=1.8, label="training, smoothed")
    else:
        loss.plot(tokens, smoothed, color=COLORS[0], linewidth=1.4, label="training")
    if _points(run, "val_loss"):
        seen = metrics[metrics["val_loss"].notna()]
        loss.plot(
            seen["tokens"], seen["val_loss"], "o-", color=COLORS[1], markersize=4, linewidth=1.4, label="validation"
        )
        validation = seen["val_loss"]
    loss.legend(frameon=False, fontsize=9)
    _limit(loss, [smoothed], validation)
    label(loss, "tokens", "loss (nats per token)", "Loss")

    series = metrics.reindex(columns=["grad_norm", "lr", "tokens_per_second"])
    norm.plot(tokens, series["grad_norm"], color=COLORS[2], linewidth=1.0)
    norm.set_yscale("log" if (series["grad_norm"].dropna() > 0).all() else "linear")
    if norm.get_yscale() == "log":
        norm.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        norm.yaxis.set_minor_formatter(NullFormatter())
    norm.yaxis.set_major_formatter("{x:g}")
    label(norm, "tokens", "gradient norm", "Gradient norm, before clipping")
    rate.plot(tokens, series["lr"], color=COLORS[3], linewidth=1.6)
    rate.yaxis.set_major_formatter("{x:g}")
    label(rate, "tokens", "learning rate", "Learning rate")
    speed.plot(tokens, series["tokens_per_second"], color=COLORS[5], linewidth=1.0)
    speed.set_ylim(bottom=0)
    count_axis(speed.yaxis)
    label(speed, "tokens", "tokens per second", "Speed")
    for axes in (loss, norm, rate, speed):
        count_axis(axes.xaxis)
        for begin, _ in stage_starts(metrics)[1:]:
            axes.axvline(begin, color=GREY, linewidth=0.9, linestyle=":")
    for begin, name in stage_starts(metrics):
        rate.annotate(
            name, (begin, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
            va="top", fontsize=8, color=GREY,
        )  # fmt: skip
    figure.suptitle(run.name, fontsize=12, x=0.01, ha="left")
    return figure


def stage_starts(metrics: pd.DataFrame) -> list[tuple[float, str]]:
    """Where each stage of a run begins, in tokens, and its name; none for a run without stages."""
    if "stage" not in metrics:
        return []
    names = metrics["stage"].tolist()
    firsts = [
        index
        for index, name in enumerate(names)
        if isinstance(name, str) and name != (names[index - 1] if index else "")
    ]
    return [(float(metrics["tokens"].iloc[index - 1]) if index else 0.0, names[index]) for index in firsts]


def plot_expert_load(run: Run) -> Figure:
    """A heat map a layer: experts over tokens seen, purple below an even share of the choices, orange above it."""
    layers = _expert_shares(run)
    if not layers:
        raise HunyuanError(f"run '{run.name}' has logged no tokens_per_expert: a dense model has no experts to draw")
    chosen = [list(layers)[i] for i in np.unique(np.linspace(0, len(layers) - 1, MAX_LAYERS).round().astype(int))]
    columns = len(chosen) if len(chosen) <= 3 else 2
    rows = -(-len(chosen) // columns)
    figure, panels = make_figure(rows, columns, height=2.6 if rows == 1 else 1.9)
    for axes in panels[len(chosen) :]:
        axes.remove()
    image: Any = None
    for axes, layer in zip(panels, chosen, strict=False):
        tokens, shares = layers[layer]
        experts = shares.shape[1]
        image = axes.pcolormesh(
            _edges(tokens), np.arange(experts + 1) - 0.5, (shares * experts).T.clip(0.25, 4.0),
            cmap="PuOr_r", norm=LogNorm(0.25, 4.0), rasterized=True,
        )  # fmt: skip
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        count_axis(axes.xaxis)
        label(axes, "", "expert", f"layer {layer}")
    for axes in panels[max(0, len(chosen) - columns) : len(chosen)]:
        axes.set_xlabel("tokens", fontsize=10)
    bar = figure.colorbar(
        image, ax=panels[: len(chosen)], ticks=[0.25, 0.5, 1, 2, 4], extend="both", aspect=30, pad=0.02
    )
    bar.ax.set_yticklabels(["¼", "½", "1, even", "2", "4"], fontsize=9)
    bar.ax.minorticks_off()
    bar.set_label("share ÷ even share", fontsize=9)
    bar.outline.set_edgecolor(GREY)
    left_out = f", {len(chosen)} of {len(layers)} layers" if len(chosen) < len(layers) else ""
    figure.suptitle(f"{run.name}: load of each expert{left_out}", fontsize=12, x=0.01, ha="left")
    return figure


def _expert_shares(run: Run) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each layer with experts: tokens (N,) and share of the choices (N, E), in at most MAX_COLUMNS rows."""
    if "tokens_per_expert" not in run.metrics:
        return {}
    logged = [
        (tokens, counts)
        for tokens, counts in zip(run.metrics["tokens"], run.metrics["tokens_per_expert"], strict=True)
        if isinstance(counts, list) and counts
    ]
    shares = {}
    for layer in range(max((len(counts) for _, counts in logged), default=0)):
        rows = [(tokens, counts[layer]) for tokens, counts in logged if len(counts) > layer and sum(counts[layer]) > 0]
        if not rows:
            continue
        load = np.array([counts for _, counts in rows], dtype=float)
        bins = np.array_split(np.arange(len(rows)), min(len(rows), MAX_COLUMNS))
        load = np.stack([load[steps].sum(axis=0) for steps in bins])
        tokens = np.array([rows[steps[-1]][0] for steps in bins], dtype=float)
        shares[layer] = tokens, load / load.sum(axis=1, keepdims=True)
    return shares


def _edges(tokens: np.ndarray) -> np.ndarray:
    """The columns' borders: each ends at its own token count."""
    return np.concatenate([[tokens[0] - (tokens[1] - tokens[0] if len(tokens) > 1 else tokens[0] or 1.0)], tokens])
