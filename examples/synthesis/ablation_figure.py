"""The figure of the ablation: every run as a dot, the mean of its arm as a line.

    cd examples/synthesis; python ablation_figure.py ablation/cells.csv --out ablation/ablation.png

Right answers are shown for the training templates (`seen`) and for held-out templates and problems. The bits per byte of the
right answer leave out the arm `corpus`, which has never seen the form of an answer and is several times above the others.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.style import INK, color, label, make_figure

ARMS = ("corpus", "shuffled", "thinned", "unfiltered", "filtered")
TESTS = {"seen": "training templates", "held_out": "held-out templates"}
PANELS = (
    ("accuracy", "share", "answered exactly", ARMS),
    ("preference", "share", "the right answer likelier than a wrong one", ARMS),
    ("answer_bits_per_byte", "bits per byte", "the right answer, lower is better", ARMS[1:]),
)
GAP = 0.16  # between the two tests of an arm


def plot_ablation(cells: pd.DataFrame) -> Figure:
    """Four panels; `cells` is cells.csv, a row a run. An arm without runs keeps its place and has no dots."""
    figure, axes = make_figure(2, 2, height=3.2)
    text, *others = axes
    arms_axis(text, ARMS)
    dots(text, cells, "bits_per_byte", ARMS, 0.0, 0, "all runs")
    label(text, "", "bits per byte", "held-out text, lower is better")
    for panel, (measure, unit, title, arms) in zip(others, PANELS, strict=True):
        arms_axis(panel, arms)
        for number, (test, name) in enumerate(TESTS.items()):
            dots(panel, cells, f"{test}_{measure}", arms, (2 * number - 1) * GAP, number, name)
        label(panel, "", unit, title)
    others[0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def arms_axis(axes: Axes, arms: tuple[str, ...]) -> None:
    axes.set_xticks(range(len(arms)), arms)
    axes.set_xlim(-0.5, len(arms) - 0.5)


def dots(
    axes: Axes, cells: pd.DataFrame, measure: str, arms: tuple[str, ...], shift: float, index: int, name: str
) -> None:
    """The runs of every arm, and a short line at their mean; `shift` moves them beside the place of the arm."""
    runs = cells[cells["arm"].isin(arms)]
    axes.scatter([arms.index(arm) + shift for arm in runs["arm"]], runs[measure], s=14, color=color(index), label=name)
    means = runs.groupby("arm")[measure].mean()
    places = [arms.index(arm) + shift for arm in means.index]
    axes.hlines(means, [place - 0.12 for place in places], [place + 0.12 for place in places], color=INK, linewidth=1.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ablation.png"))
    given = parser.parse_args()
    plot_ablation(pd.read_csv(given.cells)).savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
