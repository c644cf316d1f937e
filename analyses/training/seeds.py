"""Variants of a model trained over the same seeds: what each reached, and its difference from a baseline with an interval.

variants_table(cells, baseline)                one row a variant
paired_curves(curves, baseline)                the differences over training
plot_differences(table, cells, curves, ...)    both as a figure
plot_curves(curves, variants)                  the variants themselves over training
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analyses.style import GREY, color, count_axis, label, legend_below, make_figure
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
    """Mean of paired differences, the ends of its interval and how many they are; no interval from a single pair."""
    pairs = len(differences)
    if pairs < 2:
        return {"difference": float(differences[0]) if pairs else np.nan, "low": np.nan, "high": np.nan, "pairs": pairs}
    half = stats.t.ppf((1 + confidence) / 2, len(differences) - 1) * stats.sem(differences)
    mean = differences.mean()
    return {"difference": float(mean), "low": float(mean - half), "high": float(mean + half), "pairs": pairs}


def paired_curves(curves: pd.DataFrame, baseline: str, measure: str, confidence: float = 0.95) -> pd.DataFrame:
    """variant, tokens, difference, low, high, pairs: the differences of each variant wherever both have a value.

    curves has the columns variant, seed, tokens and `measure`.
    """
    values = curves.pivot_table(index=["tokens", "seed"], columns="variant", values=measure, aggfunc="mean")
    rows = []
    for variant in dict.fromkeys(curves["variant"]):
        if variant == baseline or baseline not in values:
            continue
        for tokens, part in (values[variant] - values[baseline]).dropna().groupby("tokens"):
            found = {"variant": variant, "tokens": tokens}
            rows.append(found | _difference(part.to_numpy(), confidence))
    return pd.DataFrame(rows, columns=["variant", "tokens", "difference", "low", "high", "pairs"])


CURVES_SHOWN = 7  # as many as there are colours


def plot_differences(
    table: pd.DataFrame,
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    baseline: str,
    measure: str,
    confidence: float = 0.95,
) -> Figure:
    """The difference of each variant from the baseline with its interval and its pairs; and over training, of a few.

    `table` is what variants_table gives for `cells`; HunyuanError where it has no difference.
    """
    rows = table[table["difference"].notna()] if "difference" in table else table[:0]
    if rows.empty:
        raise HunyuanError(f"no variant has a pair with {baseline}: there is no difference to draw")
    over_time = paired_curves(curves, baseline, measure, confidence)
    moments = over_time.groupby("variant")["tokens"].nunique()
    both = len(rows) <= CURVES_SHOWN and not moments.empty and moments.max() > 1
    figure, panels = make_figure(1, 2 if both else 1, height=max(3.0, 1.4 + 0.3 * len(rows)))
    forest = panels[0]
    by_seed = cells.pivot_table(index="seed", columns="variant", values=measure, aggfunc="mean")
    places = range(len(rows) - 1, -1, -1)
    for index, (place, (_, row)) in enumerate(zip(places, rows.iterrows(), strict=True)):
        hue = color(index if both else 0)
        pairs = (by_seed[row["variant"]] - by_seed[baseline]).dropna()
        forest.plot(pairs, [place] * len(pairs), "o", color=hue, alpha=0.35, markersize=4, markeredgewidth=0)
        if np.isfinite(row["low"]):
            forest.plot([row["low"], row["high"]], [place, place], color=hue, linewidth=2.2)
        forest.plot(row["difference"], place, "D", color=hue, markersize=5)
    forest.axvline(0, color=GREY, linewidth=0.9)
    forest.set_yticks(list(places), list(rows["variant"]))
    forest.set_ylim(-0.6, len(rows) - 0.4)
    name = measure.replace("_", " ")
    label(forest, f"{name}, less that of {baseline}", "", f"Pairs and {confidence:.0%} interval of their mean")
    if both:
        axes = panels[1]
        for index, variant in enumerate(rows["variant"]):
            part = over_time[over_time["variant"] == variant]
            axes.plot(part["tokens"], part["difference"], color=color(index), label=variant)
            axes.fill_between(part["tokens"], part["low"], part["high"], color=color(index), alpha=0.15, lw=0)
        axes.axhline(0, color=GREY, linewidth=0.9)
        late = over_time[over_time["tokens"] >= over_time["tokens"].max() / 5]  # the first steps would flatten the rest
        ends = late[["difference", "low", "high"]].to_numpy().ravel()
        ends = np.append(ends[np.isfinite(ends)], 0.0)
        air = 0.1 * (np.ptp(ends) or 1.0)
        axes.set_ylim(ends.min() - air, ends.max() + air)
        label(axes, "training tokens", f"{name}, difference", "Over training")
        count_axis(axes.xaxis)
        legend_below(figure, axes)
    return figure


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
