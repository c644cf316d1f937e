"""What cannot be fitted, by code: sizes and budgets that are alike, too few of them, laws that are none.

    alike(values), same(loss)               whether they lie too close together for a law
    refuse_budgets(runs, budgets, usable)   Finding | None, before the power laws
    refuse_laws(laws)                       Finding | None, after them
    no_surface(params, tokens, loss)        a reason | None, before a surface

A fit of numbers that hardly differ is a fit of their rounding: its coefficients overflow, or mean nothing where they do not.
"""

import math
from collections.abc import Sequence

import numpy as np

from analyses.scaling.findings import Finding
from analyses.scaling.parabola import BudgetFit, distinct_sizes
from analyses.scaling.runs import Runs

MIN_BUDGETS = 3
MIN_SPAN = 0.01  # of sizes and budgets: the largest is more than so much above the smallest
SAME_LOSS = 1e-7  # relative difference below which losses differ by their rounding, as single precision has it
LARGEST_LOG = 690.0  # of numbers that are to be a float
MIN_RUNS, MIN_DISTINCT = 6, 3  # of a surface
TIED = 0.999  # correlation of log N and log D from which one follows from the other


def alike(values: np.ndarray) -> bool:
    """Whether positive values (n,) span less than MIN_SPAN."""
    return len(values) > 0 and float(np.ptp(np.log(values))) < math.log1p(MIN_SPAN)


def same(loss: np.ndarray) -> bool:
    """Whether losses (n,) differ by their rounding alone."""
    return len(loss) > 0 and float(np.ptp(loss)) <= SAME_LOSS * float(loss.max())


def refuse_budgets(runs: Runs, budgets: Sequence[BudgetFit], usable: Sequence[BudgetFit]) -> Finding | None:
    """Why there can be no power laws over the usable budgets."""
    if len(usable) < MIN_BUDGETS:
        reason = (
            f"no law: {len(usable)} of {len(budgets)} budgets have a minimum inside their sizes and {MIN_BUDGETS} are "
            "needed: add budgets, or sizes about the minima"
        )
        tied = no_surface(runs.params, runs.tokens, runs.loss)
        if tied is None and abs(np.corrcoef(np.log(runs.params), np.log(runs.tokens))[0, 1]) < TIED:
            reason += ", or fit the surface, which needs no budgets: --method parametric"
        return Finding("too_few_budgets", reason, excludes=True)
    if alike(np.exp([budget.x - usable[0].x for budget in usable])):
        reason = f"no law: the budgets differ by less than {MIN_SPAN:.0%}: add others, ten times larger or smaller"
        return Finding("budgets_alike", reason, excludes=True)
    return None


def refuse_laws(laws: Sequence[tuple[float, float]]) -> Finding | None:
    """Why power laws that were fitted, each an exponent and the log of a coefficient, are none: no float holds them."""
    for exponent, log_coefficient in laws:
        if not (math.isfinite(exponent) and abs(log_coefficient) < LARGEST_LOG):
            reason = f"no law: the minima rise as C^{exponent:.3g}, which is none: the runs do not determine them"
            return Finding("no_law", reason, excludes=True)
    return None


def no_surface(params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> str | None:
    """Why runs (n,) cannot determine E, A, B, alpha and beta."""
    if len(loss) < MIN_RUNS:
        return f"{len(loss)} runs cannot determine E, A, B, alpha and beta: give at least {MIN_RUNS} runs"
    for name, values in (("params", params), ("tokens", tokens)):
        distinct = distinct_sizes(values)
        if distinct < MIN_DISTINCT:
            return (
                f"the runs have {distinct} distinct value{'s' * (distinct > 1)} of {name}: a constant and a power law in it "
                f"need at least {MIN_DISTINCT}"
            )
        if alike(values):
            return f"the {name} of all runs differ by less than {MIN_SPAN:.0%}: add runs of others"
    if same(loss):
        return "the losses of all runs are the same: they tell nothing of size or data"
    return None
