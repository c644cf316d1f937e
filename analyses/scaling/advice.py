"""How much an isoFLOP law depends on single budgets and runs, and which run to add next.

leave_one_budget_out(fit)   for each budget, what a law through the others predicts
influence(fit)              for each run, the exponent without it
next_runs(fit, target)      possible runs and budgets, ranked by how much each FLOP narrows the interval of the target
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.scaling.isoflop import IsoflopFit, PowerFit, slope_and_level
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

    The exponent is None where the budget has no minimum without the run.
    """
    assert fit.params_law is not None
    x = np.array([budget.x for budget in fit.usable])
    y = np.array([budget.y for budget in fit.usable])
    rows: list[dict[str, float | None]] = []
    for index, budget in enumerate(fit.usable):
        assert budget.design is not None
        free = 1 - budget.design.leverage
        with np.errstate(all="ignore"):
            step = np.where(free > 1e-9, budget.residuals / free, np.nan)
            g = budget.g - budget.design.basis * step[:, None]  # the parabola through the others, exactly
            new_x, new_y, _, _ = budget.places(g)
            xs, ys = np.tile(x, (len(g), 1)), np.tile(y, (len(g), 1))
            xs[:, index], ys[:, index] = new_x, np.where(g[:, 2] > 0, new_y, np.nan)
            exponents = slope_and_level(xs, ys)[0]
        for run, exponent in enumerate(exponents):
            known = bool(np.isfinite(exponent))
            rows.append({
                "flops": float(budget.runs.flops[run]), "params": float(budget.runs.params[run]),
                "tokens": float(budget.runs.tokens[run]), "loss": float(budget.runs.loss[run]),
                "exponent_without": float(exponent) if known else None,
                "change": float(exponent - fit.params_law.exponent) if known else None,
            })  # fmt: skip
    return sorted(rows, key=lambda row: -math.inf if row["change"] is None else -abs(row["change"]))


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
    gradients = np.einsum("a,abk->bk", direction, law.gradients)  # of the target by every parabola's coefficients
    variance = float((gradients**2).sum())
    if not variance > 0:
        return []
    rows = [_best_run(budget, g, variance) for budget, g in zip(fit.usable, gradients, strict=True)]
    rows += [_new_budget(fit.usable, law, direction, variance, above) for above in (False, True)]
    for row in rows:
        row["narrower_per_flop"] = row["narrower_fraction"] / row["cost_flops"]
    return sorted(rows, key=lambda row: -row["narrower_per_flop"])


def _best_run(budget: BudgetFit, gradient: np.ndarray, variance: float) -> dict[str, Any]:
    """The size at which one more run of this budget helps most, by the Sherman-Morrison formula for each candidate size."""
    assert budget.design is not None
    low, high = (float(end) for end in (budget.design.log_params.min(), budget.design.log_params.max()))
    beyond = SIZES_BEYOND * (high - low)
    sizes = np.linspace(low - beyond, high + beyond, CANDIDATES)
    p = budget.design.polynomials(sizes)
    gain = np.einsum("k,kc->c", gradient, p) ** 2 / (1 + (p * p).sum(axis=0))
    best = int(gain.argmax())
    return {
        "kind": "run", "runs": 1, "flops": budget.flops, "params": bounded_exp(sizes[best]),
        "narrower_fraction": 1 - math.sqrt(max(1 - float(gain[best]) / variance, 0.0)), "cost_flops": budget.flops,
    }  # fmt: skip


def _new_budget(
    usable: Sequence[BudgetFit], law: PowerFit, direction: np.ndarray, variance: float, above: bool
) -> dict[str, Any]:
    """A budget one step beyond the last (above) or the first, with the same number and layout of sizes as that one."""
    order = sorted(usable, key=lambda budget: budget.x)
    end = order[-1] if above else order[0]
    step = (order[-1].x - order[0].x) / (len(order) - 1) * (1 if above else -1)
    x = np.append(law.x, end.x + step)
    center, u = x.mean(), x - x.mean()
    at = law.x_mean + direction[1] if direction[0] else None
    spread = float((u * u).sum())
    weights = u / spread if at is None else 1 / len(x) + (at - center) * u / spread
    own = np.array([float((budget.gradients[1] ** 2).sum()) for budget in (*usable, end)])
    narrower = 1 - math.sqrt(float((weights**2 * own).sum()) / variance)
    return {
        "kind": "budget", "runs": len(end.runs), "flops": end.flops * bounded_exp(step),
        "params": bounded_exp(end.y + law.exponent * step),
        "narrower_fraction": narrower, "cost_flops": len(end.runs) * end.flops * bounded_exp(step),
    }  # fmt: skip
