"""What the study of study.py shows: a table of arms, paired differences with intervals, and two figures.

python examples/posttraining/figures.py examples/posttraining/curves.csv --out examples/posttraining

arms.csv      the last evaluation of every arm, mean and standard deviation over seeds, of the last weights and the average
claims.csv    differences within seeds, mean and 95% interval (Student's t), each with the claim that it belongs to
kl.png        true reward against KL; chosen.png: the log-probability of chosen answers, and the second skill
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analyses.style import COLORS, label, legend_below, make_figure

ARM = ["mode", "term", "reward"]
MEASURED = ["true_reward", "proxy_reward", "other_reward", "kl", "answer_length", "chosen_logp_change"]
# claim, measure, one arm, the other one: their difference should be above 0 where the claim holds.
KEPT = {"chosen_logp_change": "chosen log-probability", "true_reward": "true reward", "other_reward": "second skill"}
CLAIMS = [
    (f"the term keeps the {what} ({mode}, {reward})", measure, (mode, 0.2, reward), (mode, 0.0, reward))
    for measure, what in KEPT.items()
    for reward in ("fair", "flawed")
    for mode in ("offline", "online", "mixed")
]
CLAIMS += [
    (
        f"mixed pairs beat {other} ones ({measure}, term {term:g})",
        measure,
        ("mixed", term, "fair"),
        (other, term, "fair"),
    )
    for measure in ("true_reward", "other_reward")
    for term in (0.0, 0.2, 1.0)
    for other in ("offline", "online")
]


def interval(differences: pd.Series) -> dict[str, float]:
    """Mean and 95% interval of n differences; no interval for one."""
    n, mean = len(differences), float(differences.mean())
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5 if n > 1 else np.nan
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}


def arms_table(curves: pd.DataFrame) -> pd.DataFrame:
    last = curves[curves["step"] == curves["step"].max()]
    start = curves[(curves["step"] == 0) & (curves["weights"] == "last")].drop_duplicates("seed")
    start = start.assign(mode="fine-tuned alone", term=0.0, reward="-")
    groups = pd.concat([start, last]).groupby([*ARM, "weights"], sort=False)[MEASURED]
    return groups.mean().join(groups.std(ddof=1).add_suffix("_sd")).reset_index()


def claims_table(curves: pd.DataFrame) -> pd.DataFrame:
    """The claims whose arms are there, and what the average gains at equal KL."""
    last = (
        curves[(curves["step"] == curves["step"].max()) & (curves["weights"] == "last")]
        .set_index([*ARM, "seed"])
        .sort_index()
    )
    rows = []
    for claim, measure, one, other in CLAIMS:
        if one in last.index.droplevel("seed") and other in last.index.droplevel("seed"):
            rows.append(
                {"claim": claim, "measure": measure} | interval((last.loc[one] - last.loc[other][MEASURED])[measure])
            )
    for arm, runs in curves.groupby(ARM, sort=False):
        gains = pd.Series([_gain_of_average(run) for _, run in runs.groupby("seed")]).dropna()
        if len(gains):
            claim = f"the average has more true reward at equal KL ({arm[0]}, term {arm[1]:g}, {arm[2]})"
            rows.append({"claim": claim, "measure": "true_reward"} | interval(gains))
    table = pd.DataFrame(rows)
    holds = np.select([table["low"] > 0, table["high"] < 0], ["yes", "the contrary"], "not shown")
    return table.assign(holds=np.where(table["seeds"] > 1, holds, "one seed"))


def _gain_of_average(run: pd.DataFrame) -> float:
    """True reward of the averaged weights less that of the last ones where these had the same KL, mean over evaluations.

    The last weights' way is the line through their evaluations; where they are at one KL several times, the first counts.
    """
    way = run[run["weights"] == "last"].sort_values("step")
    kl, reward = way["kl"].to_numpy(), way["true_reward"].to_numpy()
    averaged = run[(run["weights"] == "average") & (run["step"] > 0)]
    gains = []
    for target, value in zip(averaged["kl"], averaged["true_reward"], strict=True):
        for before in range(len(kl) - 1):
            low, high = sorted((kl[before], kl[before + 1]))
            if low <= target <= high and high > low:
                part = (target - kl[before]) / (kl[before + 1] - kl[before])
                gains.append(value - reward[before] - part * (reward[before + 1] - reward[before]))
                break
    return float(np.mean(gains)) if gains else np.nan


def plot_kl(curves: pd.DataFrame):
    """True reward against KL: a row for each reward, a column for each kind of pairs; the average dashed."""
    modes = [mode for mode in ("offline", "online", "mixed") if mode in set(curves["mode"])]
    rewards = [reward for reward in ("fair", "flawed") if reward in set(curves["reward"])]
    figure, panels = make_figure(len(rewards), len(modes), height=3.0, share_y=True)
    terms = sorted(curves["term"].unique())
    for place, axes in enumerate(panels):
        reward, mode = rewards[place // len(modes)], modes[place % len(modes)]
        here = curves[(curves["mode"] == mode) & (curves["reward"] == reward)]
        for (term, weights), lines in here.groupby(["term", "weights"]):
            mean = lines.groupby("step")[["kl", "true_reward"]].mean()
            look = {"color": COLORS[terms.index(term)], "linestyle": "-" if weights == "last" else "--"}
            name = f"term {term:g}{', average' if weights == 'average' else ''}"
            axes.plot(mean["kl"], mean["true_reward"], "o", markersize=3, linewidth=1.4, label=name, **look)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.xaxis.set_major_formatter("{x:g}")
        label(
            axes,
            "KL (nats an answer)",
            "true reward" if place % len(modes) == 0 else "",
            f"{mode} pairs, {reward} reward",
        )
    legend_below(figure, panels[-1], columns=6)
    return figure


def plot_chosen(curves: pd.DataFrame):
    """Log-probability of chosen answers and the second skill over steps, at the fair reward."""
    here = curves[(curves["reward"] == "fair") & (curves["weights"] == "last")]
    figure, panels = make_figure(1, 2, height=3.6)
    looks = {"offline": "-", "online": ":", "mixed": "--"}
    terms = sorted(curves["term"].unique())
    for axes, column in zip(panels, ("chosen_logp_change", "other_reward"), strict=True):
        for (mode, term), lines in here.groupby(["mode", "term"]):
            mean = lines.groupby("step")[column].mean().dropna()
            look = {"color": COLORS[terms.index(term)], "linestyle": looks[mode], "linewidth": 1.5}
            axes.plot(mean.index, mean, label=f"{mode}, term {term:g}", **look)
    panels[0].set_yscale("symlog", linthresh=1.0)
    panels[0].yaxis.set_major_formatter("{x:g}")
    label(panels[0], "steps", "change (nats an answer)", "Log-probability of chosen answers")
    label(panels[1], "steps", "true reward", "The second skill")
    legend_below(figure, panels[0], columns=5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--out", type=Path, default=Path("examples/posttraining"))
    options = parser.parse_args()
    curves = pd.read_csv(options.curves)
    options.out.mkdir(parents=True, exist_ok=True)
    arms, claims = arms_table(curves), claims_table(curves)
    arms.round(4).to_csv(options.out / "arms.csv", index=False)
    claims.round(4).to_csv(options.out / "claims.csv", index=False)
    for name, figure in (("kl", plot_kl(curves)), ("chosen", plot_chosen(curves))):
        figure.savefig(options.out / f"{name}.png", dpi=120, metadata={"Software": None})
    print(arms[[*ARM, "weights", *MEASURED[:4]]].round(3).to_string(index=False))
    print(claims.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
