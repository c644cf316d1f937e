"""What learning from preferences did: rewards, distance from the reference, and the answers, over the steps of runs.

learnt_preferences(runs)    whether all of them are runs of hunyuan dpo
plot_preferences(groups)    six panels; seeds as a mean with a band of one standard deviation
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.style import label, legend_below, line_style, make_figure
from analyses.training.plots import smooth
from analyses.training.runs import Run, RunGroup
from model.errors import HunyuanError

# Title, unit, and the columns that a panel draws: the first as a line, the second dashed.
PANELS = (
    ("Reward of chosen, rejected (dashed)", "beta x log-ratio", ("chosen_reward", "rejected_reward")),
    ("Log-probability of chosen answers", "change (nats an answer)", ("chosen_logp_change",)),
    ("Accuracy, online share (dashed)", "share of the pairs", ("accuracy", "online_share")),
    ("Distance from the reference", "KL (nats an answer)", ("kl",)),
    ("True reward, proxy (dashed)", "reward", ("true_reward", "proxy_reward")),
    ("Length of answers", "tokens", ("answer_length",)),
)
EVALUATED = ("kl", "true_reward", "proxy_reward", "answer_length")


def learnt_preferences(runs: Sequence[Run]) -> bool:
    """Whether every run has learnt from preferences, and logged it."""
    return bool(runs) and all("chosen_logp_change" in run.metrics for run in runs)


def plot_preferences(groups: Sequence[RunGroup]) -> Figure:
    """Six panels over steps. HunyuanError where nothing was logged."""
    if not learnt_preferences([run for group in groups for run in group.runs]):
        raise HunyuanError("not all of these are runs of hunyuan dpo that have logged a step: there is nothing to draw")
    figure, panels = make_figure(2, 3, height=2.9)
    for axes, (title, unit, columns) in zip(panels, PANELS, strict=True):
        for index, group in enumerate(groups):
            for part, column in enumerate(columns):
                _draw(axes, group, column, index, dashed=part == 1)
        label(axes, "steps" if axes in panels[3:] else "", unit, title)
    legend_below(figure, panels[0], columns=4)
    return figure


def _draw(axes: Axes, group: RunGroup, column: str, index: int, *, dashed: bool) -> None:
    values = _values(group, column)
    if values.empty:
        return
    style = line_style(index) | ({"linestyle": "--", "alpha": 0.6} if dashed else {})
    style |= {"marker": "o", "markersize": 3} if column in EVALUATED and len(values) <= 25 else {}
    seeds = f" (mean ± sd, {len(group.runs)} seeds)" if len(group.runs) > 1 else ""
    axes.plot(values.index, values["mean"], label=None if dashed else f"{group.name}{seeds}", **style)
    if len(group.runs) > 1 and not dashed:
        low, high = values["mean"] - values["sd"], values["mean"] + values["sd"]
        axes.fill_between(values.index, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _values(group: RunGroup, column: str) -> pd.DataFrame:
    """mean and sd by the steps that all runs of the group have logged; empty where they have not."""
    parts = [run.metrics.set_index("step")[column].dropna() for run in group.runs if column in run.metrics]
    if len(parts) < len(group.runs):
        return pd.DataFrame({"mean": [], "sd": []})
    frame = pd.concat([part if column in EVALUATED else smooth(part) for part in parts], axis=1, join="inner")
    return pd.DataFrame({"mean": frame.mean(axis=1), "sd": frame.std(axis=1, ddof=1).fillna(0.0)})
