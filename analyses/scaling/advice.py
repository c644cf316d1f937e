"""How much an isoFLOP law depends on single budgets and runs, and which run to add next.

leave_one_budget_out(fit)   for each budget, what a law through the others predicts
influence(fit)              for each run, the exponent without it
next_runs(fit, target)      possible runs and budgets, ranked by how much each FLOP narrows the interval of the target
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.scaling.isoflop import IsoflopFit, PowerFit, effects, slope_and_level
from analyses.scaling.parabola import BudgetFit, bounded_exp


def leave_one_budget_out(fit: IsoflopFit) -> list[dict[str, float]]:
    """One row for each budget: its N_opt, the prediction of a law through the other budgets, and the relative error."""
    x, y = np.array([budget.x for budget in fit.usable]), np.array([budget.y for budget in fit.usable])
    rows = []
    for index, budget in enumerate(fit.usable):
        others = np.arange(len(x)) != index
        exponent, level, mean = slope_and_level(x[others], y[others])
        predicted = float(level + exponent * (x[index] - mean))
        rows.append({
            "flops": budget.flops, "params_opt": math.exp(budget.y), "predicted_params": bounded_exp(predicted),
            "error": math.expm1(min(predicted - budget.y, 700.0)), "exponent_without": float(exponent),
        })  # fmt: skip
    return rows


def influence(fit: IsoflopFit) -> list[dict[str, float | None]]:
    """One row for each run, the most influential first: the exponent of N_opt when the run is left out.

    Exact for parabolas; of a shared shape the first step of a fit without the run. The exponent is None where the budget has
    no minimum without it.
    """
    assert fit.params_law is not None
    rows: list[dict[str, float | None]] = []
    for index, budget in enumerate(fit.usable):
        free = 1 - budget.leverage
        with np.errstate(all="ignore"):
            step = np.where(free > 1e-9, budget.residuals / free, np.nan)
            exponents = _without_each(fit, index, step)
        for run, exponent in enumerate(exponents):
            known = bool(np.isfinite(exponent))
            rows.append({
                "flops": float(budget.runs.flops[run]), "params": float(budget.runs.params[run]),
                "tokens": float(budget.runs.tokens[run]), "loss": float(budget.runs.loss[run]),
                "exponent_without": float(exponent) if known else None,
                "change": float(exponent - fit.params_law.exponent) if known else None,
            })  # fmt: skip
    return sorted(rows, key=lambda row: -math.inf if row["change"] is None else -abs(row["change"]))


def _without_each(fit: IsoflopFit, index: int, step: np.ndarray) -> np.ndarray:
    """(n,) exponents without each run of a budget; step (n,) are the distances of the runs from a fit of the others."""
    budget, law = fit.usable[index], fit.params_law
    assert law is not None and budget.design is not None
    if budget.shared_terms:
        rows = budget.jointly(budget.rows(np.log(budget.runs.params)), index, len(fit.usable))
        return law.exponent - np.einsum("nk,k->n", rows, law.gradients[1]) * step
    g = budget.g - budget.design.basis * step[:, None]  # the parabola through the others, exactly
    new_x, new_y, _, _ = budget.places(g)
    xs, ys = np.tile(law.x, (len(g), 1)), np.tile(law.y, (len(g), 1))
    xs[:, index], ys[:, index] = new_x, np.where(g[:, 2] > 0, new_y, np.nan)
    return slope_and_level(xs, ys)[0]


SIZES_BEYOND = 0.5  # candidates reach this share of a budget's log range beyond its ends
CANDIDATES = 41


def next_runs(fit: IsoflopFit, target: float | None) -> list[dict[str, Any]]:
    """The best further run of each budget, and a new budget beyond either end, the best per FLOP first.

    target is the log of the compute at which N_opt should be known better, or None for the exponent. The delta method says
    how much a run would lower the standard error, whatever its loss.
    """
    law = fit.params_law
    assert law is not None
    direction = np.array([0.0, 1.0]) if target is None else np.array([1.0, target - law.x_mean])
    gradient = np.einsum("a,ak->k", direction, law.gradients)  # of the target by the errors of all budgets
    variance = float((gradient**2).sum())
    if not variance > 0:
        return []
    rows = [_best_run(fit.usable, index, gradient, variance) for index in range(len(fit.usable))]
    rows += [_new_budget(fit.usable, law, direction, variance, above) for above in (False, True)]
    for row in rows:
        row["narrower_per_flop"] = row["narrower_fraction"] / row["cost_flops"]
    return sorted(rows, key=lambda row: -row["narrower_per_flop"])


def _best_run(usable: Sequence[BudgetFit], index: int, gradient: np.ndarray, variance: float) -> dict[str, Any]:
    """The size at which one more run of this budget helps most, by the Sherman-Morrison formula for each candidate size."""
    budget = usable[index]
    low, high = (math.log(float(end)) for end in (budget.runs.params.min(), budget.runs.params.max()))
    beyond = SIZES_BEYOND * (high - low)
    sizes = np.linspace(low - beyond, high + beyond, CANDIDATES)
    rows = budget.jointly(budget.rows(sizes), index, len(usable))
    gain = np.einsum("ck,k->c", rows, gradient) ** 2 / (1 + (rows * rows).sum(axis=1))
    best = int(gain.argmax())
    return {
        "kind": "run", "runs": 1, "flops": budget.flops, "params": bounded_exp(sizes[best]),
        "narrower_fraction": 1 - math.sqrt(max(1 - float(gain[best]) / variance, 0.0)), "cost_flops": budget.flops,
    }  # fmt: skip


def _new_budget(
    usable: Sequence[BudgetFit], law: PowerFit, direction: np.ndarray, variance: float, above: bool
) -> dict[str, Any]:
    """A budget one step beyond the last (above) or the first, with the same number and layout of sizes as that one.

    Its minimum has the error of that budget's, from runs of its own; the shared terms stay as well known as they are.
    """
    order = sorted(range(len(usable)), key=lambda index: usable[index].x)
    last = order[-1] if above else order[0]
    end = usable[last]
    step = (usable[order[-1]].x - usable[order[0]].x) / (len(order) - 1) * (1 if above else -1)
    x = np.append(law.x, end.x + step)
    center, u = x.mean(), x - x.mean()
    at = law.x_mean + direction[1] if direction[0] else None
    spread = float((u * u).sum())
    weights = u / spread if at is None else 1 / len(x) + (at - center) * u / spread
    of_minima = np.pad(effects(usable)[1], ((0, 1), (0, 3)))
    of_minima[-1] = of_minima[last]
    own = slice(3 * last, 3 * last + 3)
    of_minima[-1, own], of_minima[-1, -3:] = 0, of_minima[last, own]
    error = np.einsum("b,bk->k", weights, of_minima)
    narrower = 1 - math.sqrt(float((error**2).sum()) / variance)
    return {
        "kind": "budget", "runs": len(end.runs), "flops": end.flops * bounded_exp(step),
        "params": bounded_exp(end.y + law.exponent * step),
        "narrower_fraction": narrower, "cost_flops": len(end.runs) * end.flops * bounded_exp(step),
    }  # fmt: skip
