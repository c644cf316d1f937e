"""Variants of a model trained over the same seeds: what each reached, and its difference from a baseline with an interval."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analyses.style import color, count_axis, label, legend_below, make_figure
from model.errors import HunyuanError


def variants_table(
    cells: pd.DataFrame, baseline: str, measure: str = "val_bits_per_byte", confidence: float = 0.95
) -> pd.DataFrame:
    """One row a variant: mean, standard deviation and n of `measure`, and the mean difference from the baseline.

    cells has the columns variant, seed and `measure`. A seed fixes the initial weights and the order of the data, so
    differences are taken seed by seed; their interval is Student's t over the seeds that both variants have.
    """
    if baseline not in set(cells["variant"]):
        raise HunyuanError(
            f"there is no variant {baseline!r}: the table has {', '.join(dict.fromkeys(cells['variant']))}"
        )
    by_seed = cells.pivot_table(index="seed", columns="variant", values=measure, aggfunc="mean")
    rows = []
    for variant in dict.fromkeys(cells["variant"]):
        values = by_seed[variant].dropna()
        row = {"variant": variant, "n": len(values), "mean": values.mean(), "sd": values.std(ddof=1)}
        if variant != baseline:
            row |= _difference((by_seed[variant] - by_seed[baseline]).dropna().to_numpy(), confidence)
        rows.append(row)
    return pd.DataFrame(rows)


def _difference(differences: np.ndarray, confidence: float) -> dict[str, float]:
    """Mean of paired differences and the ends of its interval; no interval from a single pair."""
    if len(differences) < 2:
        return {"difference": float(differences.mean()), "low": np.nan, "high": np.nan}
    half = stats.t.ppf((1 + confidence) / 2, len(differences) - 1) * stats.sem(differences)
    mean = differences.mean()
    return {"difference": float(mean), "low": float(mean - half), "high": float(mean + half)}


def plot_curves(curves: pd.DataFrame, variants: list[str], measure: str = "val_bits_per_byte") -> Figure:
    """Mean over seeds of `measure` against tokens, with a band of one standard deviation; and the end of it, enlarged.

    curves has the columns variant, seed, tokens and `measure`.
    """
    figure, panels = make_figure(1, 2, height=4.2)
    whole, end = panels
    for index, variant in enumerate(variants):
        rows = curves[curves["variant"] == variant].groupby("tokens")[measure].agg(["mean", "std"])
        for axes in (whole, end):
            axes.plot(rows.index, rows["mean"], color=color(index), label=variant)
            axes.fill_between(
                rows.index, rows["mean"] - rows["std"], rows["mean"] + rows["std"], color=color(index), alpha=0.2, lw=0
            )
    tokens = np.sort(curves["tokens"].unique())
    late = curves[curves["variant"].isin(variants) & (curves["tokens"] >= tokens[len(tokens) * 2 // 3])]
    end.set_xlim(late["tokens"].min(), late["tokens"].max())
    end.set_ylim(late[measure].min() - 0.003, late[measure].max() + 0.003)
    for axes, title in ((whole, "whole run"), (end, "its last third")):
        label(axes, "training tokens", "validation bits per byte", title)
        count_axis(axes.xaxis)
    legend_below(figure, whole)
    return figure
