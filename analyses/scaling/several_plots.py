"""The laws of several tables of runs in one picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from analyses.scaling.laws import ScalingLaw
from analyses.style import CountFormatter, color, label, legend_below, make_figure


def plot_side_by_side(documents: Mapping[str, dict[str, Any]], laws: Sequence[ScalingLaw] = ()) -> Figure:
    """N_opt and D_opt against compute: every table's law with the optima of its budgets; `laws` are overlays."""
    figure, panels = make_figure(1, 2, height=4.2)
    for axes, of, kind in ((panels[0], "n_opt", "params"), (panels[1], "d_opt", "tokens")):
        _draw(axes, documents, laws, of, kind)
    legend_below(figure, panels[0])
    return figure


def _draw(axes: Axes, documents: Mapping[str, dict[str, Any]], laws: Sequence[ScalingLaw], of: str, kind: str) -> None:
    every = [row["flops"] for document in documents.values() for row in (*document["budgets"], *document["predictions"])
             if row.get("flops")]  # fmt: skip
    at = np.geomspace(min(every) / 1.6, max(every) * 1.6, 60)
    for index, (name, document) in enumerate(documents.items()):
        shade, law = color(index), document[of]
        used = [row for row in document["budgets"] if row["used"] and row[f"{kind}_opt"]]
        points = [(row["flops"], row[f"{kind}_opt"]) for row in used]
        if points:
            axes.plot(*zip(*points, strict=True), "o", ms=5, color=shade, ls="none")
        if law is None:
            continue
        low, high = law["exponent_interval"]
        curve = math.log(law["coefficient"]) + law["exponent"] * np.log(at)
        axes.plot(at, np.exp(curve), color=shade, lw=1.6,
                  label=f"{name}: {law['exponent']:.3f} ({low:.3f} to {high:.3f})")  # fmt: skip
    for index, other in enumerate(laws):
        power = other.n_opt if of == "n_opt" else other.d_opt
        axes.plot(at, [power(c) for c in at.tolist()], color=color(len(documents) + index), ls="--", lw=1.3,
                  label=f"{other.name}'s law")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    axes.yaxis.set_major_formatter(CountFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter("")
    label(axes, "training FLOPs", f"best {kind}", f"best {kind}, and exponents")
