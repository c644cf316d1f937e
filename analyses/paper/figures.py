"""Figures 2 and 3 of the report, drawn from this project's router and from a sweep that it has run."""

from importlib.resources import as_file, files
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.paper.routing import CAPACITY, EXAMPLE, EXPERTS, FACTORS, LARGE_EXPERTS, SEED, SKEWS, TOKENS
from analyses.scaling.fit import scale_fit
from analyses.scaling.laws import LAWS
from analyses.scaling.options import Options
from analyses.scaling.plots import draw_laws, draw_losses
from analyses.scaling.tables import read_table
from analyses.style import GREY, INK, color, label, legend_below, make_figure
from model.moe.router import drop, recycle, route

SWEEP = "sweep_runs.csv"  # 32 cells on one H200, examples/scaling/h200_runs.csv


def plot_paper(runs: str | Path | None = None) -> Figure:
    """Four panels: figure 2's example, dropped tokens by capacity factor, losses of a sweep, and its law of N_opt.

    `runs` is a table of runs such as `hunyuan sweep` writes; without it, the sweep that comes with this package.
    """
    with as_file(files("analyses.paper").joinpath(SWEEP)) as own:
        study = scale_fit(read_table(Path(runs or own)), Options())
    figure, panels = make_figure(2, 2, height=4.2)
    draw_example(panels[0])
    draw_dropped(panels[1])
    draw_losses(panels[2], study)
    draw_laws(panels[3], study, "params", [LAWS["paper"]])
    legend_below(figure, panels[3])
    return figure


def draw_example(axes: Axes) -> None:
    """Tokens at the experts that compute them; an arrow leads from the full expert to the one with room."""
    chosen = torch.tensor(list(EXAMPLE.values()))[:, None] - 1
    keys = torch.randint(2**31, (EXPERTS * CAPACITY,), generator=torch.Generator().manual_seed(SEED))
    placed = recycle(chosen, EXPERTS, CAPACITY, keys).flatten().tolist()
    height = [0] * EXPERTS
    for name, first, expert in zip(EXAMPLE, chosen.flatten().tolist(), placed, strict=True):
        moved = expert != first
        axes.text(
            expert, height[expert] + 0.5, name, ha="center", va="center", fontsize=12, color="white", fontweight="bold",
            bbox={"boxstyle": "round,pad=0.45", "fc": color(1 if moved else 0), "ec": "none"},
        )  # fmt: skip
        if moved:
            axes.annotate(
                "", (expert, height[expert] + 0.85), (first, CAPACITY + 0.3),
                arrowprops={"arrowstyle": "->", "color": color(1), "connectionstyle": "arc3,rad=-0.2"},
            )  # fmt: skip
            axes.text(first, CAPACITY + 0.4, f"{name} does not fit", ha="center", fontsize=9, color=INK)
        height[expert] += 1
    axes.axhline(CAPACITY, color=GREY, ls="--", lw=1)
    axes.text(EXPERTS - 0.6, CAPACITY + 0.06, "capacity", ha="right", fontsize=8, color=GREY)
    axes.set_xticks(range(EXPERTS), [f"expert {expert + 1}" for expert in range(EXPERTS)])
    axes.set_yticks([])
    axes.set_xlim(-0.6, EXPERTS - 0.4)
    axes.set_ylim(0, CAPACITY + 0.9)
    axes.grid(False)
    label(axes, "", "", "figure 2: a token too many is recycled")


def draw_dropped(axes: Axes) -> None:
    """The share of tokens without an expert, by the router of this project on random logits with uneven experts."""
    for index, (name, skew) in enumerate(SKEWS.items()):
        shares = [dropped(skew, factor) for factor in FACTORS]
        axes.plot(FACTORS, [100 * share for share, _ in shares], "o-", ms=4, color=color(index), label=f"drop, {name}")
        lost = [100 * share for _, share in shares]
        axes.plot(FACTORS, lost, "s:", ms=3, color=color(index))
    axes.axvline(1, color=GREY, lw=1, ls="--")
    axes.legend(frameon=False, fontsize=8)
    label(axes, "capacity factor", "tokens without an expert, %", f"{LARGE_EXPERTS} experts, top-1; dotted: recycled")


def dropped(skew: float, factor: float, seed: int = SEED) -> tuple[float, float]:
    """Shares of tokens without an expert when they are dropped, and when they are recycled.

    Logits are Gumbel noise on top of each expert's log share, so that the argmax draws from the shares.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = skew * torch.randn(LARGE_EXPERTS, generator=generator)
    logits = shares - torch.rand(TOKENS, LARGE_EXPERTS, generator=generator).log().neg().log()
    capacity = -int(-factor * TOKENS // LARGE_EXPERTS)
    chosen = route(logits, 1).expert_index
    keys = torch.randint(2**31, (LARGE_EXPERTS * capacity,), generator=generator)
    dropping, recycling = drop(chosen, LARGE_EXPERTS, capacity), recycle(chosen, LARGE_EXPERTS, capacity, keys)
    lost = [(index == LARGE_EXPERTS).float().mean().item() for index in (dropping, recycling)]
    return lost[0], lost[1]
