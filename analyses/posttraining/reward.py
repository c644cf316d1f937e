"""How far a reward model can be believed: what it says of held-out pairs, and how often it is right.

A lead of r over another answer means a probability of s(r) that it is the better one, s the logistic function (Bradley and
Terry 1952). A model is calibrated where of the pairs that it is sure of by p a share of p is ranked as people did.

    calibration_table(held_out)   pairs by how sure the model is: mean probability, share that is right, its interval
    plot_calibration(held_out)    the same drawn, with the number of pairs below
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analyses.style import COLORS, GREY, label, make_figure
from model.errors import CheckpointError
from model.posttraining.reward_training import HELD_OUT

BINS = 10  # at most
LEAST = 5  # pairs in a bin
Z = 1.96  # of a 95% interval


def load_held_out(run: Path) -> pd.DataFrame:
    """chosen and rejected: the rewards of a run's held-out pairs at its last validation."""
    path = run / HELD_OUT
    try:
        frame = pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        return frame[["chosen", "rejected"]].astype(float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read: only runs of hunyuan reward with held-out pairs have it"
        ) from error


def calibration_table(held_out: pd.DataFrame) -> pd.DataFrame:
    """One row for as many pairs as likewise sure: pairs, probability, right (0 to 1), and its Wilson interval low and high.

    `probability` is the mean of what the model gives the answer that it prefers, 0.5 to 1.
    """
    lead = (held_out["chosen"] - held_out["rejected"]).to_numpy()
    order = np.argsort(np.abs(lead), kind="stable")
    probability, right = 1 / (1 + np.exp(-np.abs(lead[order]))), (lead[order] > 0).astype(float)
    rows = []
    for part in np.array_split(np.arange(len(order)), max(1, min(BINS, len(order) // LEAST))):
        share, count = right[part].mean(), len(part)
        low, high = wilson(share, count)
        rows.append({"pairs": count, "probability": probability[part].mean(), "right": share, "low": low, "high": high})
    return pd.DataFrame(rows)


def calibration_error(held_out: pd.DataFrame) -> float:
    """Mean distance between what the model is sure of and what is right, over pairs (expected calibration error)."""
    table = calibration_table(held_out)
    return float(((table["probability"] - table["right"]).abs() * table["pairs"]).sum() / table["pairs"].sum())


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` draws (Wilson 1927): within 0 and 1 also where few are seen."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return float(middle - half), float(middle + half)


def plot_calibration(held_out: pd.DataFrame, name: str = "") -> Figure:
    """Left: the share that is right against how sure the model is. Right: the leads of the chosen answers."""
    table = calibration_table(held_out)
    figure, (sure, leads) = make_figure(1, 2, height=3.2)
    sure.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1.0, linestyle="--", label="calibrated")
    errors = np.abs(np.stack([table["right"] - table["low"], table["high"] - table["right"]]))
    sure.errorbar(
        table["probability"], table["right"], yerr=errors, fmt="o", color=COLORS[0], markersize=4, linewidth=1.2,
        label="held-out pairs, 95% interval",
    )  # fmt: skip
    sure.set_xlim(0.49, 1.01)
    sure.set_ylim(min(0.45, float(table["low"].min()) - 0.02), 1.02)
    for axis in (sure.xaxis, sure.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    label(sure, "probability that the preferred answer is better", "share that is", "Calibration")
    sure.legend(frameon=False, fontsize=9, loc="lower right")
    lead = held_out["chosen"] - held_out["rejected"]
    leads.hist(lead, bins=min(40, max(8, len(lead) // 5)), color=COLORS[0], alpha=0.7)
    leads.axvline(0.0, color=GREY, linewidth=1.0, linestyle="--")
    label(
        leads,
        "reward of chosen - reward of rejected",
        "pairs",
        f"Leads: {(lead > 0).mean():.1%} of {len(lead):,} right",
    )
    figure.suptitle(f"{name}: error {calibration_error(held_out):.3f}" if name else "", fontsize=12, x=0.01, ha="left")
    return figure
