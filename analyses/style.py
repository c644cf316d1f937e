"""The one look of every figure: size, colours, axes.

Figures are built on matplotlib.figure.Figure alone, never on pyplot: drawing needs no display and leaves no
global state.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

# Okabe and Ito's colours, told apart under every common colour blindness; the yellow is left out: too pale for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
GREY = "#777777"
INK = "#222222"


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th series: dashes change when the colours have all been used."""
    return {"color": color(index), "linestyle": LINES[index // len(COLORS) % len(LINES)], "linewidth": 1.6}


def make_figure(
    rows: int = 1, columns: int = 1, *, width: float = 10.0, height: float = 3.4, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of that many panels, `height` inches a row; its axes come row by row."""
    figure = Figure(figsize=(width, height * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, [style_axes(panel) for panel in axes.flat]


def style_axes(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color=GREY, labelcolor=INK)
    return axes


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", fontweight="bold")


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend for all panels, under them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(columns, len(handles))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


class CountFormatter(EngFormatter):
    """Ticks such as 250K, 1.5M, 2B: thousands by K, M, B and T, as tokens and parameters are counted."""

    ENG_PREFIXES = {0: "", 3: "K", 6: "M", 9: "B", 12: "T"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(sep="")


def count_axis(axis: Any) -> None:
    axis.set_major_formatter(CountFormatter())


def time_unit(seconds: float) -> tuple[float, str]:
    """The seconds in the unit in which an axis up to `seconds` reads best, and the unit's name."""
    for divisor, unit in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * divisor:
            return divisor, unit
    return 1.0, "seconds"
