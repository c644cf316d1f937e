"""A plan as a picture: the law's parameters and tokens against compute, and what the planned shapes have."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from analyses.scaling.laws import ScalingLaw
from analyses.style import GREY, CountFormatter, color, label, legend_below, make_figure


def plot_plans(report: dict[str, Any], law: ScalingLaw) -> Figure:
    """Two panels, from the document of `hunyuan scale-plan`: parameters and tokens of every plan and its candidates."""
    figure, panels = make_figure(1, 2, height=4.0)
    plans = report["plans"]
    ends = [plan["flops"] for plan in plans] + list(law.valid or ())
    at = np.geomspace(min(ends) / 2, max(ends) * 2, 50)
    for axes, kind, power in ((panels[0], "params", law.n_opt), (panels[1], "tokens", law.d_opt)):
        _draw(axes, plans, law, at, kind, power)
    legend_below(figure, panels[0])
    return figure


def _draw(
    axes: Axes, plans: list[dict[str, Any]], law: ScalingLaw, at: np.ndarray, kind: str, power: Callable[[float], float]
) -> None:
    axes.plot(at, [power(c) for c in at.tolist()], color=color(0), lw=1.6, label=f"the law {law.name}")
    if law.valid:
        axes.axvspan(*law.valid, color=GREY, alpha=0.1, lw=0, label="budgets behind the law")
    key = "activated_params" if kind == "params" else "tokens"
    others = [(plan["flops"], row[key]) for plan in plans for row in plan["candidates"] if not row["chosen"]]
    if others:
        axes.plot(*zip(*others, strict=True), "o", color=GREY, mfc="none", ms=5, ls="none", label="candidates")
    flops = [plan["flops"] for plan in plans]
    axes.plot(
        flops, [plan[key] for plan in plans], "o", color=color(1), ms=7, ls="none", label=f"planned, {_word(kind)}"
    )
    if kind == "params":
        axes.plot(
            flops,
            [plan["total_params"] for plan in plans],
            "s",
            color=color(2),
            ms=6,
            ls="none",
            label="planned, total",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(CountFormatter())
    axes.yaxis.set_minor_formatter("")
    label(axes, "training FLOPs", "parameters" if kind == "params" else "tokens", f"best {kind} and the plan's")


def _word(kind: str) -> str:
    return "activated" if kind == "params" else "tokens"
