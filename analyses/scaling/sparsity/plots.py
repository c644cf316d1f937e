"""The law of sparsity in two panels: all runs on one curve of effective parameters, and the best size against compute."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from analyses.scaling.laws import ScalingLaw
from analyses.scaling.sparsity.answers import Answers
from analyses.scaling.sparsity.study import SparsityStudy
from analyses.style import GREY, INK, CountFormatter, color, label, legend_below, make_figure

SHOWN = 7  # ratios with a colour of their own


def plot_sparsity(study: SparsityStudy, laws: Sequence[ScalingLaw] = ()) -> Figure:
    """Two panels; a study that was refused has its losses alone. `laws` are overlays of the second."""
    figure, panels = make_figure(1, 2, height=4.2)
    _draw_runs(panels[0], study)
    if study.answers is not None:
        _draw_best(panels[1], study.answers, study, laws)
    legend_below(figure, panels[1] if study.answers is not None else panels[0])
    return figure


def _draw_runs(axes: Axes, study: SparsityStudy) -> None:
    """The loss less the term of tokens against effective parameters; against N where there is no such number."""
    runs, answers = study.study.runs, study.answers
    x, y, what, title = runs.params, runs.loss, "activated parameters", "runs, by ratio"
    if answers is not None and not answers.form.interaction:
        theta = answers.surface.theta
        terms = np.exp(np.einsum("knp,p->kn", answers.form.design(study.study.variables), theta))
        x, y = x * study.study.ratio ** (theta[5] / theta[3]), runs.loss - terms[2]
        what, title = "activated parameters times R^(gamma / alpha)", "loss without its term of tokens"
        order = np.argsort(x)
        if not answers.form.covariates:
            axes.plot(x[order], (terms[0] + terms[1])[order], color=GREY, lw=1.4, zorder=1)
    group = np.unique(np.round(np.log(study.study.ratio), 1), return_inverse=True)[1]
    for index in range(int(group.max()) + 1):
        mask = group == index
        ratio = math.exp(float(np.log(study.study.ratio[mask]).mean()))
        axes.plot(
            x[mask], y[mask], "o", ms=4.5, color=color(index), label=f"R = {ratio:.3g}" if index < SHOWN else None
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(CountFormatter())
    axes.xaxis.set_minor_formatter("")
    label(axes, what, "nats per token", title)
    axes.legend(frameon=False, fontsize=9)


def _draw_best(axes: Axes, answers: Answers, study: SparsityStudy, laws: Sequence[ScalingLaw]) -> None:
    rows = study.document["budgets"]
    asked = study.document["predictions"]
    ends = [row["flops"] for row in (*rows, *asked)]
    at = np.geomspace(min(ends) / 1.6, max(ends) * 1.6, 40)
    curve = [row for flops in at.tolist() if (row := answers.budget(flops, np.ones(len(answers.study.runs), bool)))]
    flops = [row["flops"] for row in curve]
    axes.plot(flops, [row["params_opt"] for row in curve], color=color(0), lw=1.6, label="law at the sparsest ratio")
    low, high = zip(*(row["params_interval"] for row in curve), strict=True)
    axes.fill_between(flops, low, high, color=color(0), alpha=0.18, lw=0, label=f"{study.options.confidence:.0%} band")
    for name, mark in (("params", "D"), ("total_params", "s")):
        found = [(row["flops"], row[f"{name}_opt"]) for row in asked if f"{name}_opt" in row]
        if found:
            axes.plot(*zip(*found, strict=True), mark, color=INK, mfc="white", ms=6, ls="none", zorder=5,
                      label=f"prediction, {'activated' if name == 'params' else 'total'}")  # fmt: skip
    for index, law in enumerate(laws):
        axes.plot(at, [law.n_opt(c) for c in at], color=color(index + 2), ls="--", lw=1.3, label=f"{law.name}'s law")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(CountFormatter())
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    axes.xaxis.set_minor_formatter("")
    exponent = study.document["n_opt"]
    least, most = exponent["exponent_interval"]
    title = f"$N_{{opt}} \\propto C^{{{exponent['exponent']:.3f}}}$, {least:.3f} to {most:.3f}"
    label(axes, "FLOPs $C$", "best parameters", title)
