"""The rules of learning rate and batch that a sweep with several of both gives.

    python examples/scaling_rates.py RUNS.csv [--plot FIGURE.png] [--set RULES.txt]

RUNS.csv is that of a plan whose rules have `factors` (model/sweep/config.py). For each budget, size and batch the losses near
the best rate are a parabola in ln(rate). All share one curvature, and their minimum moves with the size N, the batch B and the
budget C:

    loss = loss_of_the_group + k (ln rate - (c + a ln N + b ln B + d ln C))^2

which is linear in what is fitted. The best batch of a budget is the minimum of a parabola through the groups' best losses at
the size that has several batches. --set writes the rules as arguments of `hunyuan sweep`. Batches grow as C^e in the plan,
so its batch_exponent is b + d / e.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

NEAR = 2.9  # times: rates that are further from the best of their group are left out: there the loss is no parabola
FLOOR_EXPONENT, TOP_EXPONENT = 0.15, 0.5  # of the batch with the budget, that two budgets may give
GROUP = ["budget", "model", "batch_tokens"]


@dataclass(frozen=True)
class Rates:
    """ln(best rate) = c + a ln N + b ln B + d ln C, each with its standard error, and the curvature k."""

    coefficients: dict[str, float]
    errors: dict[str, float]
    curvature: float
    residual: float  # standard deviation, nats
    groups: pd.DataFrame  # budget, model, batch_tokens, activated_params, best_rate, best_loss, tried

    def rate(self, params: float, batch: float, flops: float) -> float:
        """The best learning rate of N activated parameters, B tokens a batch and C FLOPs."""
        c = self.coefficients
        return float(np.exp(c["c"] + c["a"] * np.log(params) + c["b"] * np.log(batch) + c["d"] * np.log(flops)))


def fit_rates(runs: pd.DataFrame) -> Rates:
    """The shared parabola; ValueError where the losses have no minimum or too few groups are there."""
    runs = runs[(runs["status"] == "finished") & runs["loss"].notna()].copy()
    best = runs.loc[runs.groupby(GROUP)["loss"].idxmin()].set_index(GROUP)["learning_rate"].rename("best")
    near = runs.join(best, on=GROUP)
    ratio = near["learning_rate"] / near["best"]
    near = near[ratio.between(1 / NEAR, NEAR)]
    counts = near.groupby(GROUP)["loss"].transform("size")
    near = near[counts >= 2]
    group = near.groupby(GROUP).ngroup().to_numpy()
    x = np.log(near["learning_rate"].to_numpy())
    by = {"a": "activated_params", "b": "batch_tokens", "d": "budget"}
    logs = {name: np.log(near[column].to_numpy(float)) for name, column in by.items()}
    middle = {name: float(values.mean()) for name, values in logs.items()}
    columns = [*np.eye(group.max() + 1)[group].T, x**2, x, *(x * (logs[name] - middle[name]) for name in by)]
    design = np.stack(columns, axis=1)
    loss = near["loss"].to_numpy()
    solution, _, rank, _ = np.linalg.lstsq(design, loss, rcond=None)
    if rank < design.shape[1]:
        raise ValueError("the runs do not tell size, batch and budget apart: give several of each")
    first = group.max() + 1
    k, slope = solution[first], solution[first + 1 :]
    if k <= 0:
        raise ValueError("the losses have no minimum in the learning rate: try lower and higher ones")
    free = max(1, len(loss) - design.shape[1])
    residual = float(np.sqrt(((design @ solution - loss) ** 2).sum() / free))
    covariance = residual**2 * np.linalg.inv(design.T @ design)[first:, first:]
    found, errors = {}, {}
    for index, name in enumerate(("c", *by)):
        value = -slope[index] / (2 * k)
        gradient = np.zeros(len(slope) + 1)
        gradient[0], gradient[1 + index] = -value / k, -1 / (2 * k)
        found[name], errors[name] = float(value), float(np.sqrt(gradient @ covariance @ gradient))
    found["c"] -= sum(found[name] * middle[name] for name in by)
    rates = Rates(found, errors, float(k), residual, pd.DataFrame())
    rows = []
    for _, part in near.groupby(GROUP):
        budget, size, batch, params = part.iloc[0][[*GROUP, "activated_params"]]
        best_rate = rates.rate(float(params), float(batch), float(budget))
        away = np.log(part["learning_rate"] / best_rate) ** 2
        same = (runs["budget"] == budget) & (runs["model"] == size) & (runs["batch_tokens"] == batch)
        tried = runs.loc[same, "learning_rate"]
        loss_there = float((part["loss"] - k * away).mean())
        rows.append((budget, size, batch, params, best_rate, loss_there, tried.min(), tried.max()))
    names = [*GROUP, "activated_params", "best_rate", "best_loss", "lowest_rate", "highest_rate"]
    return Rates(found, errors, float(k), residual, pd.DataFrame(rows, columns=names))


def best_batches(groups: pd.DataFrame) -> dict[float, tuple[float, float]]:
    """By budget: the best batch in tokens, inside what was tried, and what half or twice of it costs, in nats."""
    found = {}
    for _, part in groups.groupby(["budget", "model"]):
        part = part.sort_values("batch_tokens")
        if len(part) < 3:
            continue
        x, loss = np.log(part["batch_tokens"].to_numpy(float)), part["best_loss"].to_numpy()
        bend, slope, _ = np.polyfit(x - x.mean(), loss, 2)
        lowest = x[int(np.argmin(loss))] if bend <= 0 else x.mean() - slope / (2 * bend)
        found[float(part["budget"].iloc[0])] = (
            float(np.exp(np.clip(lowest, x[0], x[-1]))),
            float(max(bend, 0.0) * np.log(2) ** 2),
        )
    return found


def rules(rates: Rates) -> dict[str, float]:
    """The settings of [sweep.learning_rate] and [sweep.batch_tokens] by their full names."""
    batches = best_batches(rates.groups)
    if not batches:
        raise ValueError("no size has three batches or more: give sweep.batch_tokens.factors")
    budgets = sorted(batches)
    logs = np.log([batches[budget][0] for budget in budgets])
    exponent = 0.33
    if len(budgets) > 1:
        exponent = float(np.clip(np.polyfit(np.log(budgets), logs, 1)[0], FLOOR_EXPONENT, TOP_EXPONENT))
    flops = float(np.exp(np.mean(np.log(budgets))))
    batch = float(np.exp(logs.mean()))
    params = float(np.exp(np.log(rates.groups["activated_params"]).mean()))
    return {
        "sweep.batch_tokens.value": batch,
        "sweep.batch_tokens.at_flops": flops,
        "sweep.batch_tokens.exponent": exponent,
        "sweep.learning_rate.value": rates.rate(params, batch, flops),
        "sweep.learning_rate.at_params": params,
        "sweep.learning_rate.params_exponent": rates.coefficients["a"],
        "sweep.learning_rate.at_batch_tokens": batch,
        "sweep.learning_rate.batch_exponent": rates.coefficients["b"] + rates.coefficients["d"] / exponent,
    }


def plot(runs: pd.DataFrame, rates: Rates, path: Path) -> None:
    """Loss over rate, a panel a budget, with the fitted parabolas."""
    from matplotlib.figure import Figure

    budgets = sorted(rates.groups["budget"].unique())
    figure = Figure(figsize=(5.5 * len(budgets), 4.2), layout="constrained")
    for axis, budget in zip(np.atleast_1d(figure.subplots(1, len(budgets))), budgets, strict=True):
        for number, group in enumerate(rates.groups[rates.groups["budget"] == budget].itertuples()):
            same = (runs["budget"] == budget) & (runs["model"] == group.model)
            part = runs[same & (runs["batch_tokens"] == group.batch_tokens) & (runs["status"] == "finished")]
            label = f"{group.activated_params / 1e6:.2f}M, {group.batch_tokens:,} tokens"
            axis.plot(part["learning_rate"], part["loss"], "o", color=f"C{number}", label=label)
            rate = np.geomspace(group.best_rate / 2.5, group.best_rate * 2.5, 50)
            away = np.log(rate / group.best_rate) ** 2
            axis.plot(rate, group.best_loss + rates.curvature * away, "-", color=f"C{number}")
        axis.set(xscale="log", xlabel="peak learning rate", ylabel="validation loss, nats", title=f"{budget:.3g} FLOPs")
        low = rates.groups.loc[rates.groups["budget"] == budget, "best_loss"]
        axis.set_ylim(low.min() - 0.03, low.max() + 0.35)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS.csv")
    parser.add_argument("--plot", type=Path, metavar="FIGURE.png")
    parser.add_argument("--set", type=Path, metavar="RULES.txt", dest="settings")
    given = parser.parse_args()
    runs = pd.concat([pd.read_csv(path) for path in given.runs], ignore_index=True)
    try:
        rates = fit_rates(runs)
        settings = rules(rates)
    except ValueError as error:
        parser.error(str(error))
    with pd.option_context("display.width", 140):
        print(rates.groups.sort_values(["budget", "activated_params", "batch_tokens"]).to_string(index=False))
    for budget, (batch, cost) in best_batches(rates.groups).items():
        print(f"best batch at {budget:.3g} FLOPs: {batch:,.0f} tokens; half or twice costs {cost:.4f} nats")
    for name, value in rates.coefficients.items():
        print(f"{name} = {value:.3f} +- {rates.errors[name]:.3f}")
    print(
        f"a rate of half or twice the best costs {rates.curvature * np.log(2) ** 2:.4f} nats; residual {rates.residual:.4f}"
    )
    print(json.dumps(settings, indent=2))
    if given.settings:
        given.settings.write_text("".join(f"--set\n{name}={value:.4g}\n" for name, value in settings.items()))
    if given.plot:
        plot(runs, rates, given.plot)


if __name__ == "__main__":
    main()
