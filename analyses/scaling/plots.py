"""The report's figure 3 for any study: parabolas with their minima, both laws with band and prediction, residuals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from analyses.scaling.fit import ScaleFit
from analyses.scaling.isoflop import MIN_SIZES, PowerFit
from analyses.scaling.laws import ScalingLaw
from analyses.scaling.parabola import BudgetFit
from analyses.style import GREY, INK, color, count_axis, label, legend_below, make_figure
from model.errors import MissingExtraError

# From light to dark with the budget: colour tells the order, labels the value.
BUDGETS = LinearSegmentedColormap.from_list("budgets", ["#9ecae1", "#0072B2", "#08306b"])


def plot_scaling(result: ScaleFit, laws: Sequence[ScalingLaw] = ()) -> Figure:
    """Four panels: loss against parameters, N_opt and D_opt against compute, residuals. Laws are overlays."""
    figure, panels = make_figure(2, 2, height=4.2)
    parabolas, params, tokens, residuals = panels
    _draw_parabolas(parabolas, result)
    for axes, of, law in ((params, "params", result.fit.params_law), (tokens, "tokens", result.fit.tokens_law)):
        _draw_law(axes, result, of, law, laws)
    _draw_residuals(residuals, result)
    legend_below(figure, params)
    return figure


def _colors(result: ScaleFit) -> list[Any]:
    flops = np.log([budget.flops for budget in result.fit.budgets])
    span = float(np.ptp(flops)) or 1.0
    return [BUDGETS((value - flops.min()) / span) for value in flops]


def _draw_parabolas(axes: Axes, result: ScaleFit) -> None:
    for budget, shade in zip(result.fit.budgets, _colors(result), strict=True):
        usable = any(budget is one for one in result.fit.usable)
        face = shade if usable else "none"
        axes.plot(budget.runs.params, budget.runs.loss, "o", ms=4.5, color=shade, mfc=face, zorder=3)
        if budget.design is None or budget.sizes < MIN_SIZES:
            continue
        ends = np.log(budget.runs.params.min()), np.log(budget.runs.params.max())
        at = np.linspace(
            min(ends[0], budget.y if usable else ends[0]), max(ends[1], budget.y if usable else ends[1]), 100
        )
        curve = np.einsum("k,kn->n", budget.g, budget.design.polynomials(at))
        axes.plot(np.exp(at), curve, color=shade, lw=1.4, ls="-" if usable else ":")
        if usable:
            axes.plot(math.exp(budget.y), budget.loss, "*", ms=11, color="#D55E00", mec="white", mew=0.6, zorder=4)
        axes.annotate(
            f" {_power_of_ten(budget.flops)}", (math.exp(at[-1]), curve[-1]), fontsize=8, color=shade, va="center"
        )
    axes.set_xscale("log")
    axes.margins(x=0.14)
    _count_ticks(axes.xaxis)
    label(axes, "activated parameters", "loss (nats per token)", "loss by budget (FLOPs); stars: minima")


def _power_of_ten(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(mantissa) == 1 else f"${float(mantissa):g}\\cdot {power}$"


def _draw_law(axes: Axes, result: ScaleFit, of: str, law: PowerFit | None, laws: Sequence[ScalingLaw]) -> None:
    name, long = {"params": ("N", "activated parameters"), "tokens": ("D", "tokens")}[of]
    corrected = result.options.c_min is not None
    compute = "C_{min}" if corrected else "C"
    predictions = [row for row in result.document["predictions"] if "flops" in row]
    points = [(_x(budget), math.exp(budget.place[1 if of == "params" else 2])) for budget in result.fit.usable]
    axes.plot(
        *zip(*points, strict=True), "*", ms=11, color="#D55E00", mec="white", mew=0.6, zorder=4
    ) if points else None
    ends = [x for x, _ in points] + [row["flops"] for row in predictions]
    if not ends:
        ends = [budget.flops for budget in result.fit.budgets]
    at = np.geomspace(min(ends) / 1.6, max(ends) * 1.6, 200)
    if law is not None:
        x = np.log(at)
        low, high = law.ends(x - law.x_mean, result.options.confidence)
        axes.plot(at, np.exp(law.at(x)), color=color(0), lw=1.6, label="fitted law")
        axes.fill_between(
            at, np.exp(low), np.exp(high), color=color(0), alpha=0.18, lw=0,
            label=f"{result.options.confidence:.0%} band",
        )  # fmt: skip
        least, most = (float(end) for end in law.ends(None, result.options.confidence))
        title = f"${name}_{{opt}} \\propto {compute}^{{{law.exponent:.3f}}}$, {least:.3f} to {most:.3f}"
    else:
        title = f"no law for ${name}_{{opt}}$"
    for index, other in enumerate(laws):
        power = other.n_opt if of == "params" else other.d_opt
        axes.plot(at, [power(c) for c in at], color=color(index + 2), ls="--", lw=1.3, label=f"{other.name}'s law")
    if predictions and law is not None:
        axes.plot(
            [row["flops"] for row in predictions], [row[f"{of}_opt"] for row in predictions], "D", ms=6,
            color=INK, mfc="white", zorder=5, label="prediction",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _count_ticks(axes.yaxis)
    label(axes, f"training FLOPs ${compute}$", f"best {long}", title)


def _count_ticks(axis: Any) -> None:
    """Counts on a logarithmic axis, at 1, 2 and 5 where it spans less than two decades."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    count_axis(axis)
    axis.set_minor_formatter("")


def _x(budget: BudgetFit) -> float:
    return math.exp(budget.x)


def _draw_residuals(axes: Axes, result: ScaleFit) -> None:
    for budget, shade in zip(result.fit.budgets, _colors(result), strict=True):
        if any(budget is one for one in result.fit.usable):
            axes.plot(budget.runs.params / math.exp(budget.y), 1000 * budget.residuals, "o", ms=4.5, color=shade)
    axes.axhline(0, color=GREY, lw=1)
    if result.fit.params_law is not None:
        band = 2000 * math.sqrt(result.fit.params_law.noise_variance)
        axes.axhspan(-band, band, color=GREY, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    label(
        axes,
        "parameters / best parameters of the budget",
        "residual (0.001 nats)",
        "residuals; grey: two standard deviations",
    )


# --- in a terminal ---------------------------------------------------------------------------------------------------


def terminal_plot(
    result: ScaleFit, laws: Sequence[ScalingLaw] = (), *, width: int = 100, height: int = 24, colors: bool = False
) -> str:
    """Loss against parameters by budget, and N_opt against compute, drawn with characters."""
    try:
        import plotext
    except ImportError as error:
        raise MissingExtraError("plotext", "term", "drawing in the terminal") from error
    figure = plotext.figure

    def finish(title: str) -> str:
        """The picture drawn so far; the figure, which the package keeps for itself, is empty again."""
        figure.title(title)
        figure.plot_size(width, height)
        figure.theme("default" if colors else "colorless")
        picture = figure.build()
        figure.clear()
        return str(picture.string(colorless=not colors))

    figure.clear()
    for budget in result.fit.budgets:
        points = figure.signal(np.log10(budget.runs.params).tolist(), budget.runs.loss.tolist())
        figure.draw(points.label(f"{budget.flops:.3g} FLOPs"))
    pictures = [finish("loss against log10 activated parameters")]
    law, ten = result.fit.params_law, math.log(10)
    if law is not None:
        asked = [math.log(row["flops"]) for row in result.document["predictions"] if "flops" in row]
        x = np.linspace(law.x.min(), max([law.x.max(), *asked]), 60)
        lines = {f"C^{law.exponent:.3f}": law.at(x) / ten}
        lines |= {other.name: np.log10([other.n_opt(math.exp(at)) for at in x]) for other in laws}
        for name, y in lines.items():
            figure.draw(figure.signal((x / ten).tolist(), y.tolist()).lines().label(name))
        figure.draw(figure.signal((law.x / ten).tolist(), (law.y / ten).tolist(), marker="*").label("minima"))
        pictures.append(finish("log10 best parameters against log10 FLOPs"))
    return "\n\n".join(pictures)
