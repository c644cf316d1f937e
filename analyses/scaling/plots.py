"""The report's figure 3 for any study: losses by budget with their minima, both power laws with band and predictions,
and residuals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from analyses.scaling.fit import ScaleFit
from analyses.scaling.isoflop import MIN_SIZES, PowerFit
from analyses.scaling.laws import ScalingLaw
from analyses.scaling.surface import optimum
from analyses.style import GREY, INK, CountFormatter, color, label, legend_below, make_figure
from model.errors import MissingExtraError

# From light to dark with the budget: colour tells the order, labels the value.
BUDGETS = LinearSegmentedColormap.from_list("budgets", ["#9ecae1", "#0072B2", "#08306b"])
COLORED = (color(0), color(6))  # the fitted law, and the surface beside the parabolas
LABELLED = 12  # budgets: names of more would run into each other


@dataclass(frozen=True)
class _Law:
    """A law as it is drawn: N_opt or D_opt against compute."""

    name: str  # in the legend
    exponent: float
    interval: tuple[float, float]  # of the exponent, as the table has it
    curve: Callable[
        [np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]
    ]  # at compute: best, and both ends of the band
    points: Sequence[tuple[float, float]]  # compute and best of each budget
    predictions: Sequence[Mapping[str, Any]]


def plot_scaling(result: ScaleFit, laws: Sequence[ScalingLaw] = ()) -> Figure:
    """Four panels: loss against parameters, N_opt and D_opt against compute, residuals. Laws are overlays.

    The figure shows what was fitted: parabolas, the surface, or both. The titles have the numbers of the table.
    """
    figure, panels = make_figure(2, 2, height=4.2)
    draw_losses(panels[0], result)
    for axes, of in ((panels[1], "params"), (panels[2], "tokens")):
        draw_laws(axes, result, of, laws)
    _draw_residuals(panels[3], result)
    legend_below(figure, panels[1])
    return figure


def _by_parabolas(result: ScaleFit) -> bool:
    return result.options.method != "parametric"


def _colors(result: ScaleFit) -> list[Any]:
    flops = np.log([budget.flops for budget in result.fit.budgets])
    span = float(np.ptp(flops)) or 1.0
    return [BUDGETS((value - flops.min()) / span) for value in flops]


def draw_losses(axes: Axes, result: ScaleFit) -> None:
    """Loss against parameters, a curve a budget, with the minima."""
    for budget, shade in zip(result.fit.budgets, _colors(result), strict=True):
        usable = any(budget is one for one in result.fit.usable)
        face = shade if usable or not _by_parabolas(result) else "none"
        axes.plot(budget.runs.params, budget.runs.loss, "o", ms=4.5, color=shade, mfc=face, zorder=3)
        ends = np.log(budget.runs.params.min()), np.log(budget.runs.params.max())
        if result.surface is not None and len(budget.runs) > 1:
            style = {"ls": "--", "lw": 1.0} if _by_parabolas(result) else {"lw": 1.4}
            at = np.exp(np.linspace(*ends, 100))
            surface, (k1, k2) = result.surface.surface, result.surface.cost
            curve = surface.loss(at, budget.flops / (k1 * at + k2))
            axes.plot(at, curve, color=shade, **style)
            last = at[-1], curve[-1]
            if not _by_parabolas(result):
                params, tokens = (float(value) for value in optimum(surface, budget.flops, (k1, k2)))
                _draw_minimum(axes, params, float(surface.loss(params, tokens)))
        if _by_parabolas(result) and budget.design is not None and budget.sizes >= MIN_SIZES:
            low, high = (min(ends[0], budget.y), max(ends[1], budget.y)) if usable else ends
            at = np.linspace(low, high, 100)
            curve = budget.curve(at)
            axes.plot(np.exp(at), curve, color=shade, lw=1.4, ls="-" if usable else ":")
            last = math.exp(at[-1]), curve[-1]
            if usable:
                _draw_minimum(axes, math.exp(budget.y), budget.loss)
        elif result.surface is None or len(budget.runs) < 2:
            continue
        if len(result.fit.budgets) <= LABELLED:
            axes.annotate(f" {_power_of_ten(budget.flops)}", last, fontsize=8, color=shade, va="center")
    axes.set_xscale("log")
    axes.margins(x=0.14)
    _log_ticks(axes.xaxis, CountFormatter())
    curves = _curves(result)
    shown = {"quadratic": curves, "parametric": "surface", "both": f"{curves}; dashed: surface"}
    label(axes, "activated parameters", "loss (nats per token)", f"{shown[result.options.method]}; stars: minima")


def _curves(result: ScaleFit) -> str:
    return "shared shape" if "shape" in result.document else "parabolas"


def _draw_minimum(axes: Axes, params: float, loss: float) -> None:
    axes.plot(params, loss, "*", ms=11, color="#D55E00", mec="white", mew=0.6, zorder=4)


def _power_of_ten(value: float, _: Any = None) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(mantissa) == 1 else f"${float(mantissa):g}\\cdot {power}$"


def _fitted_laws(result: ScaleFit, of: str) -> list[_Law]:
    """The laws of the parabolas and of the surface, whichever were fitted."""
    which, drawn = {"params": (0, "n_opt"), "tokens": (1, "d_opt")}[of], []
    index, name = which
    law = result.fit.params_law if of == "params" else result.fit.tokens_law
    document = result.document
    if _by_parabolas(result) and law is not None:

        def parabolas(at: np.ndarray, law: PowerFit = law) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            x = np.log(at)
            low, high = law.ends(x - law.x_mean, result.options.confidence)
            return np.exp(law.at(x)), np.exp(low), np.exp(high)

        own = document[name]
        points = [(math.exp(budget.x), math.exp(budget.place[1 + index])) for budget in result.fit.usable]
        drawn.append(
            _Law("fitted law", own["exponent"], own["exponent_interval"], parabolas, points, document["predictions"])
        )
    part = document.get("parametric")
    study = result.surface
    if study is not None and part and part[name]:
        own = part[name]

        def surface(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return study.optima(at)[index]

        flops = np.array([budget.flops for budget in result.fit.budgets])
        points = list(zip(flops.tolist(), study.optima(flops)[index][0].tolist(), strict=True))
        label_ = "surface" if drawn else "fitted law"
        drawn.append(_Law(label_, own["exponent"], own["exponent_interval"], surface, points, part["predictions"]))
    return drawn


def draw_laws(axes: Axes, result: ScaleFit, of: str, laws: Sequence[ScalingLaw]) -> None:
    """The best parameters or tokens (`of`) against compute, with band and predictions; `laws` are overlays."""
    name, long = {"params": ("N", "activated parameters"), "tokens": ("D", "tokens")}[of]
    compute = "C_{min}" if result.options.c_min is not None else "C"
    drawn = _fitted_laws(result, of)
    minima = drawn[0].points if drawn else [
        (math.exp(budget.x), math.exp(budget.place[1 if of == "params" else 2])) for budget in result.fit.usable
    ]  # fmt: skip
    if minima and (not drawn or _by_parabolas(result)):
        axes.plot(*zip(*minima, strict=True), "*", ms=11, color="#D55E00", mec="white", mew=0.6, zorder=4)
    asked = [row for law in drawn for row in law.predictions if "flops" in row]
    ends = [x for x, _ in minima] + [row["flops"] for row in asked] or [budget.flops for budget in result.fit.budgets]
    at = np.geomspace(min(ends) / 1.6, max(ends) * 1.6, 100)
    for index, law in enumerate(drawn):
        best, low, high = law.curve(at)
        axes.plot(at, best, color=COLORED[index], lw=1.6, ls="--" if index else "-", label=law.name)
        band = f"{result.options.confidence:.0%} band" + (" of the surface" if index else "")
        axes.fill_between(at, low, high, color=COLORED[index], alpha=0.18, lw=0, label=band)
        rows = [row for row in law.predictions if "flops" in row]
        if rows:
            label_ = "prediction" if not index else "prediction of the surface"
            axes.plot([row["flops"] for row in rows], [row[f"{of}_opt"] for row in rows], "Ds"[index], ms=6, color=INK,
                      mfc="white", zorder=5, ls="none", label=label_)  # fmt: skip
    for index, other in enumerate(laws):
        power = other.n_opt if of == "params" else other.d_opt
        axes.plot(at, [power(c) for c in at], color=color(index + 2), ls="--", lw=1.3, label=f"{other.name}'s law")
    title = f"no law for ${name}_{{opt}}$"
    if drawn:
        least, most = drawn[0].interval
        title = f"${name}_{{opt}} \\propto {compute}^{{{drawn[0].exponent:.3f}}}$, {least:.3f} to {most:.3f}"
        title += f"; surface {drawn[1].exponent:.3f}" if len(drawn) > 1 else ""
    if axes.has_data():
        axes.set_xscale("log")
        axes.set_yscale("log")
        _log_ticks(axes.xaxis, FuncFormatter(_power_of_ten))
        _log_ticks(axes.yaxis, CountFormatter())
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no budget has a minimum", transform=axes.transAxes, ha="center", color=GREY)
    label(axes, f"training FLOPs ${compute}$", f"best {long}", title)


def _log_ticks(axis: Any, formatter: Any) -> None:
    """Ticks of a logarithmic axis whose labels do not overlap: powers of ten, or 1, 2 and 5 within two decades."""
    low, high = axis.get_view_interval()
    if high < 3 * low:
        axis.set_major_locator(MaxNLocator(4))
    else:
        few = LogLocator(subs=(1, 2, 5), numticks=99) if high < 100 * low else LogLocator(numticks=7)
        axis.set_major_locator(few)
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter("")


def _draw_residuals(axes: Axes, result: ScaleFit) -> None:
    study = result.surface
    spread = None
    for budget, shade in zip(result.fit.budgets, _colors(result), strict=True):
        if _by_parabolas(result):
            if not any(budget is one for one in result.fit.usable):
                continue
            best, off = math.exp(budget.y), budget.residuals
        elif study is not None:
            best = float(optimum(study.surface, budget.flops, study.cost)[0])
            off = budget.runs.loss - study.surface.loss(budget.runs.params, budget.runs.tokens)
        else:
            continue
        axes.plot(budget.runs.params / best, 1000 * off, "o", ms=4.5, color=shade)
    if _by_parabolas(result) and result.fit.params_law is not None:
        spread = math.sqrt(result.fit.params_law.noise_variance)
    elif not _by_parabolas(result) and study is not None:
        off = study.runs.loss - study.surface.loss(study.runs.params, study.runs.tokens)
        spread = float(np.std(off))
    axes.axhline(0, color=GREY, lw=1)
    if spread is not None:
        axes.axhspan(-2000 * spread, 2000 * spread, color=GREY, alpha=0.12, lw=0)
    reach = 1000 * max((float(np.abs(budget.residuals).max()) for budget in result.fit.usable), default=0)
    if reach < 1e-6:  # rounding alone: an axis of it would have nothing but digits
        axes.set_ylim(-1, 1)
    axes.set_xscale("log")
    _log_ticks(axes.xaxis, FuncFormatter(lambda value, _: f"{value:g}"))
    of = f"residuals of the {_curves(result) if _by_parabolas(result) else 'surface'}"
    label(axes, "parameters / best parameters of the budget", "residual (0.001 nats)", f"{of}; grey: two s.d.")


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
    drawn, ten = _fitted_laws(result, "params"), math.log(10)
    if drawn:
        asked = [math.log(row["flops"]) for law in drawn for row in law.predictions if "flops" in row]
        of_budgets = np.log([point[0] for point in drawn[0].points])
        x = np.linspace(of_budgets.min(), max([of_budgets.max(), *asked]), 60)
        lines = {f"{'surface: ' * (law.name == 'surface')}C^{law.exponent:.3f}": np.log10(law.curve(np.exp(x))[0])
                 for law in drawn}  # fmt: skip
        lines |= {other.name: np.log10([other.n_opt(math.exp(at)) for at in x]) for other in laws}
        for name, y in lines.items():
            figure.draw(figure.signal((x / ten).tolist(), y.tolist()).lines().label(name))
        minima = np.log10(drawn[0].points).T.tolist()
        figure.draw(figure.signal(*minima, marker="*").label("minima"))
        pictures.append(finish("log10 best parameters against log10 FLOPs"))
    return "\n\n".join(pictures)
