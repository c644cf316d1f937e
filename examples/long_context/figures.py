"""What the study of study.py shows: tables, claims with intervals over seeds, and three figures.

    python examples/long_context/figures.py examples/long_context

reads FOLDER/loss.csv and FOLDER/retrieval.csv and writes beside them

tables.md      retrieval and loss of each arm after each stage, means over seeds
claims.csv     differences within seeds with 95% intervals (Student's t), each with the claim that it belongs to
loss.png       loss by position; retrieval.png: accuracy by length; depth.png: accuracy by length and depth
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analyses.style import label, legend_below, line_style, make_figure

NAMES = {"kept": "base kept", "alpha": "alpha = length ratio", "1e9": "base 1e9"}
RAISED = ("alpha", "1e9")


def interval(differences: pd.Series) -> dict[str, float]:
    """Mean and 95% interval of n differences; no interval for one."""
    n, mean = len(differences), float(differences.mean())
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5 if n > 1 else np.nan
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}


def of_stage(table: pd.DataFrame, stage: int) -> pd.DataFrame:
    """Rows of a stage. Before training at greater lengths an arm may have several bases: the greatest is its last stage's."""
    rows = table[table["stage"] == stage]
    return rows[rows["rope_base"] == rows.groupby("arm")["rope_base"].transform("max")]


def accuracy(retrieval: pd.DataFrame, by: list[str]) -> pd.Series:
    """Share of the questions that are answered, by these columns."""
    sums = retrieval.groupby(by, sort=False)[["answers", "correct"]].sum()
    return sums["correct"] / sums["answers"]


def loss_between(loss: pd.DataFrame, first: int, end: int, by: list[str]) -> pd.Series:
    """Nats per token of the positions first .. end - 1."""
    part = loss[(loss["first"] >= first) & (loss["end"] <= end)]
    sums = part.assign(nats=part["loss"] * part["tokens"]).groupby(by, sort=False)[["nats", "tokens"]].sum()
    return sums["nats"] / sums["tokens"]


class Cells:
    """Figures of a seed in one cell, (arm, stage): the accuracy at a length, and the loss in a range of positions."""

    def __init__(self, loss: pd.DataFrame, retrieval: pd.DataFrame) -> None:
        self.stages = sorted(loss["stage"].unique())
        self.length = int(loss["end"].max())
        self._loss, self._retrieval = ({s: of_stage(t, s) for s in self.stages} for t in (loss, retrieval))

    def accuracy(self, arm: str, stage: int, length: int) -> pd.Series:
        rows = self._retrieval[stage]
        return accuracy(rows[(rows["arm"] == arm) & (rows["length"] == length)], ["seed"])

    def loss(self, arm: str, stage: int, first: int, end: int) -> pd.Series:
        rows = self._loss[stage]
        return loss_between(rows[rows["arm"] == arm], first, end, ["seed"])


def claims_table(loss: pd.DataFrame, retrieval: pd.DataFrame) -> pd.DataFrame:
    """Each claim holds where its difference is above 0."""
    cells = Cells(loss, retrieval)
    start, last, whole = cells.stages[0], cells.stages[-1], cells.length
    arms = [arm for arm in NAMES if arm in set(loss["arm"])]
    rows: list[dict[str, Any]] = []

    def add(claim: str, measure: str, differences: pd.Series) -> None:
        rows.append({"claim": claim, "measure": measure} | interval(differences))

    for stage in cells.stages:
        when = f"without training beyond {start:,}" if stage == start else f"after the stage of {stage:,}"
        at = whole if stage == start else stage
        for arm in (arm for arm in RAISED if arm in arms):
            gain = cells.accuracy(arm, stage, at) - cells.accuracy("kept", stage, at)
            add(f"{NAMES[arm]} retrieves more at {at:,} than the base kept, {when}", "accuracy", gain)
            less = cells.loss("kept", stage, at // 2, at) - cells.loss(arm, stage, at // 2, at)
            add(
                f"{NAMES[arm]} has less loss at positions {at // 2:,} to {at:,} than the base kept, {when}",
                "nats",
                less,
            )
    for arm in arms:
        gain = cells.accuracy(arm, last, whole) - cells.accuracy(arm, start, whole)
        add(f"training at {last:,} adds retrieval at {whole:,} ({NAMES[arm]})", "accuracy", gain)
        less = cells.loss(arm, start, whole // 2, whole) - cells.loss(arm, last, whole // 2, whole)
        add(
            f"training at {last:,} lowers the loss at positions {whole // 2:,} to {whole:,} ({NAMES[arm]})",
            "nats",
            less,
        )
        used = cells.loss(arm, last, start // 2, start) - cells.loss(arm, last, whole // 2, whole)
        what = f"{whole // 2:,} to {whole:,} than at {start // 2:,} to {start:,}"
        add(f"a long context is used: less loss at positions {what} after the last stage ({NAMES[arm]})", "nats", used)
        cost = cells.loss("kept", start, 0, start) - cells.loss(arm, last, 0, start)
        add(f"positions up to {start:,} have no more loss than the pre-trained model had ({NAMES[arm]})", "nats", cost)
        kept = cells.accuracy(arm, last, start) - cells.accuracy("kept", start, start)
        add(f"retrieval at {start:,} is no worse than the pre-trained model's was ({NAMES[arm]})", "accuracy", kept)
    for arm in (arm for arm in RAISED if arm in arms):
        cost = cells.loss("kept", start, 0, start) - cells.loss(arm, start, 0, start)
        add(f"the base can be raised without any training: no more loss up to {start:,} ({NAMES[arm]})", "nats", cost)
    table = pd.DataFrame(rows)
    holds = np.select([table["low"] > 0, table["high"] < 0], ["yes", "the contrary"], "not shown")
    return table.assign(holds=np.where(table["seeds"] > 1, holds, "one seed"))


def tables(loss: pd.DataFrame, retrieval: pd.DataFrame) -> str:
    """Markdown: retrieval by length, then loss by position, of every arm after every stage; means over seeds."""
    cells = Cells(loss, retrieval)
    lengths = sorted(retrieval["length"].unique())
    start, doubled = cells.stages[0], cells.stages[0]
    ranges = [(0, start)]
    while doubled < cells.length:
        ranges.append((doubled, 2 * doubled))
        doubled *= 2
    arms = [arm for arm in NAMES if arm in set(loss["arm"])]
    heads = [f"{length:,}" for length in lengths], [f"{first:,} to {end:,}" for first, end in ranges]
    lines = [
        f"Accuracy of key-value retrieval by length, %, means of {loss['seed'].nunique()} seeds:",
        "",
        *_head(heads[0]),
    ]
    for stage in cells.stages:
        for arm in arms:
            values = [f"{100 * cells.accuracy(arm, stage, length).mean():.1f}" for length in lengths]
            lines.append(_row(stage, start, arm, values))
    lines += ["", "Loss by position, nats per token:", "", *_head(heads[1])]
    for stage in cells.stages:
        for arm in arms:
            lines.append(_row(stage, start, arm, [f"{cells.loss(arm, stage, *each).mean():.3f}" for each in ranges]))
    return "\n".join(lines) + "\n"


def _head(columns: list[str]) -> list[str]:
    return ["| trained up to | base | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]


def _row(stage: int, start: int, arm: str, values: list[str]) -> str:
    return f"| {stage:,}{', not longer' if stage == start and arm != 'kept' else ''} | {NAMES[arm]} | {' | '.join(values)} |"


def plot_lines(table: pd.DataFrame, stages: list[int], x: str, y: str, marks: str, titles: tuple[str, str]) -> Figure:
    """A panel a stage, a line an arm: the mean over seeds, with the seeds' range; a rule where each context ends."""
    figure, panels = make_figure(1, len(stages), height=3.8, share_y=True)
    for axes, stage in zip(panels, stages, strict=True):
        rows = of_stage(table, stage)
        for index, (arm, name) in enumerate(NAMES.items()):
            seeds = rows[rows["arm"] == arm].groupby(x)[y].agg(["mean", "min", "max"])
            if len(seeds):
                look = line_style(index)
                axes.plot(seeds.index, seeds["mean"], marker=marks, markersize=3, label=name, **look)
                axes.fill_between(seeds.index, seeds["min"], seeds["max"], color=look["color"], alpha=0.15, linewidth=0)
        for context in stages[: stages.index(stage) + 1]:
            axes.axvline(context, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:g}K" if value >= 1024 else f"{value:g}")
        trained = f"trained at {stage:,}" if stage == stages[0] else f"then at {stage:,}"
        label(axes, titles[0], titles[1] if stage == stages[0] else "", trained)
    legend_below(figure, panels[0])
    return figure


def plot_depth(retrieval: pd.DataFrame, stages: list[int]) -> Figure:
    """Accuracy by length and depth: a row an arm, a column a stage."""
    arms = [arm for arm in NAMES if arm in set(retrieval["arm"])]
    lengths = sorted(retrieval["length"].unique())
    figure, panels = make_figure(len(arms), len(stages), height=2.2)
    image: Any = None
    for place, axes in enumerate(panels):
        arm, stage = arms[place // len(stages)], stages[place % len(stages)]
        rows = of_stage(retrieval, stage)
        found = accuracy(rows[rows["arm"] == arm], ["depth", "length"]).unstack("length").sort_index()[lengths]
        image = axes.imshow(100 * found, vmin=0, vmax=100, cmap="viridis", aspect="auto", origin="upper")
        axes.grid(visible=False)
        axes.set_xticks(range(len(lengths)), [f"{n // 1024}K" if n >= 1024 else str(n) for n in lengths])
        axes.set_yticks([0, len(found) - 1], ["beginning", "end"])
        trained = f"trained at {stage:,}" if stage == stages[0] else f"then at {stage:,}"
        label(axes, "length (tokens)" if place >= len(panels) - len(stages) else "", "", f"{NAMES[arm]}, {trained}")
    figure.colorbar(image, ax=panels, label="answers right (%)", shrink=0.6)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with loss.csv and retrieval.csv")
    folder = parser.parse_args().folder
    loss, retrieval = (pd.read_csv(folder / f"{name}.csv", dtype={"arm": str}) for name in ("loss", "retrieval"))
    stages = sorted(int(stage) for stage in loss["stage"].unique())
    claims = claims_table(loss, retrieval)
    claims.round(4).to_csv(folder / "claims.csv", index=False)
    text = tables(loss, retrieval)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    by_length = (
        accuracy(retrieval, ["seed", "arm", "stage", "rope_base", "length"]).mul(100).rename("accuracy").reset_index()
    )
    middle = loss.assign(position=np.sqrt(np.maximum(loss["first"], loss["end"] / 4) * loss["end"]))
    figures = {
        "loss": plot_lines(middle, stages, "position", "loss", "", ("position (tokens)", "loss (nats per token)")),
        "retrieval": plot_lines(by_length, stages, "length", "accuracy", "o", ("length (tokens)", "answers right (%)")),
        "depth": plot_depth(retrieval, stages),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
    print(text)
    print(claims.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
