"""The quadratic (isoFLOP) method: per budget a parabola of loss in log N, then power laws through the minima.

Hunyuan-Large, arXiv:2411.02265, figure 3; Hoffmann et al. 2022, arXiv:2203.15556, approach 2.

    fit_isoflop(runs)        -> IsoflopFit: every budget, the usable ones, both laws, and what was left out and why
    PowerFit                 N_opt = N_c C^alpha by least squares in log-log, with its covariance (delta method)

A budget whose parabola has no minimum inside the sampled sizes gives no point. The least measured loss is not used instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analyses.scaling.checks import find_outliers, lack_of_fit
from analyses.scaling.findings import Finding, summarised
from analyses.scaling.parabola import BudgetFit, CMin, bounded_exp, fit_budget
from analyses.scaling.refusals import MIN_BUDGETS, MIN_SPAN, alike, refuse_budgets, refuse_laws, same
from analyses.scaling.runs import Runs

MIN_SIZES = 4  # of a budget: three determine a parabola, the fourth is the first to tell about noise
SCATTER_LEVEL = 0.01  # p-value below which the minima scatter about the power law by more than the noise
MISFIT_LEVEL = 0.01  # p-value below which the parabolas do not fit
DEVIANT_LEVEL = 0.01  # probability that a clean study has any budget left out for its minimum
DEVIANT = 1.3  # factor off the law below which no minimum is left out
# A loss surface is no parabola, which moves the fitted minimum (BudgetFit.coefficient_bias). The intervals are moved back by
# the first share of this bias, and the second share counts as a standard error. With these values they cover the truth as
# often as they claim, both on exact parabolas and on surfaces with alpha near beta (examples/scaling_coverage.py). On other
# surfaces they cover too little where the sizes drift away from the minima.
CORRECTED_SHARE, UNCERTAIN_SHARE = 0.75, 0.6


@dataclass(frozen=True)
class IsoflopFit:
    """All budgets, and the usable ones, which have a minimum. Without laws, `refusal` says why there are none."""

    runs: Runs  # that were fitted
    budgets: tuple[BudgetFit, ...]
    usable: tuple[BudgetFit, ...]
    params_law: "PowerFit | None"
    tokens_law: "PowerFit | None"
    findings: tuple[Finding, ...]
    refusal: Finding | None
    misfit_p: float  # of the test that the parabolas fit but for noise
    outliers: int


def fit_isoflop(
    runs: Runs, *, c_min: CMin | None = None, keep_outliers: bool = False, screen: bool = True
) -> IsoflopFit:
    """Parabolas and power laws of cleaned runs. What the data cannot support is in `findings` and `refusal`, never raised.

    keep_outliers names the outliers and fits them; without screen none is looked for.
    """
    all_runs, outliers = runs, find_outliers(runs) if screen else {}
    findings = [
        Finding(
            "outlier",
            f"row {runs.row[index]} has a loss of {runs.loss[index]:.6g} where the other runs predict {predicted:.6g}"
            + (": kept, as asked" if keep_outliers else ": left out (--keep-outliers keeps it)"),
            budget=float(runs.flops[index]),
            row=int(runs.row[index]),
            excludes=not keep_outliers,
        )
        for index, predicted in outliers.items()
    ]
    if outliers and not keep_outliers:
        runs = runs.keep(~np.isin(np.arange(len(runs)), list(outliers)))
    budgets = [fit_budget(runs.keep(runs.budget == index), c_min) for index in np.unique(runs.budget)]
    bad = [] if keep_outliers else list(outliers)
    left_out = [int((all_runs.budget[bad] == budget.runs.budget[0]).sum()) for budget in budgets]
    problems = [_problem(budget, number) for budget, number in zip(budgets, left_out, strict=True)]
    findings += summarised([problem for problem in problems if problem is not None], "budgets were left out")
    usable = [budget for budget, problem in zip(budgets, problems, strict=True) if problem is None]
    if screen and not keep_outliers:
        usable, deviant = _without_deviant_minima(usable)
        findings += deviant
    params_law, tokens_law, misfit_p = None, None, 1.0
    refusal = refuse_budgets(runs, budgets, usable)
    if refusal is None:
        misfit_p = lack_of_fit(usable)
        params_law, tokens_law = fit_power_law(usable, "params"), fit_power_law(usable, "tokens")
        refusal = refuse_laws([(law.exponent, law.log_coefficient) for law in (params_law, tokens_law)])
        if refusal is None:
            misfit = Finding("lack_of_fit", PARABOLAS_MISFIT.format(p=misfit_p)) if misfit_p < MISFIT_LEVEL else None
            findings += doubts(usable, params_law, misfit)
        else:
            params_law = tokens_law = None
    return IsoflopFit(
        runs, tuple(budgets), tuple(usable), params_law, tokens_law, tuple(findings), refusal, misfit_p,
        0 if keep_outliers else len(outliers),
    )  # fmt: skip


def _problem(budget: BudgetFit, outliers: int) -> Finding | None:
    """Why a budget, without so many outliers, gives no point of the law."""
    total = len(budget.runs) + outliers
    but_for = f"{outliers} of its {total} runs {'is' if outliers == 1 else 'are'} out of line; " if outliers else ""
    if budget.sizes < MIN_SIZES:
        code, why = "too_few_sizes", f"it has {budget.sizes} distinct sizes, and {MIN_SIZES} are needed"
    elif alike(budget.runs.params):
        code, why = "sizes_alike", f"its sizes differ by less than {MIN_SPAN:.0%}: add smaller and larger ones"
    elif same(budget.runs.loss):
        code, why = "losses_alike", "its losses are the same: they have no minimum"
    elif not budget.opens_upward:
        code, why = "opens_downward", "its parabola opens downward: it has no minimum"
    elif not budget.interior:
        side, where = ("smaller", "below") if budget.y < math.log(budget.runs.params.min()) else ("larger", "above")
        code, why = "minimum_outside", f"its minimum lies {where} the sampled sizes: add {side} ones"
    elif not budget.loss > 0:
        code, why = "bad_minimum", "its fitted least loss is not above 0"
    else:
        return None
    return Finding(code, f"budget {budget.flops:.4g} was left out: {but_for}{why}", budget=budget.flops, excludes=True)


def _without_deviant_minima(usable: list[BudgetFit]) -> tuple[list[BudgetFit], list[Finding]]:
    """The budgets whose minimum agrees with a power law through the others, and why the rest were left out.

    Where half of a budget's runs are bad, no single run stands out, but the minimum does. Each minimum is compared with its
    prediction from the others by a t test with Bonferroni's correction. The worst is removed first.
    """
    from scipy import special

    findings = []
    while len(usable) > MIN_BUDGETS + 1:
        variance, degrees = noise(usable)
        x, y = (np.array([budget.place[which] for budget in usable]) for which in (0, 1))
        own = variance * np.array([float((budget.gradients[1] ** 2).sum()) for budget in usable])
        worst, least, ratio = None, DEVIANT_LEVEL / len(usable), 1.0
        for index in range(len(usable)):
            others = np.arange(len(usable)) != index
            if alike(np.exp(x[others] - x[0])):
                continue
            exponent, level, mean = slope_and_level(x[others], y[others])
            u = x[others] - mean
            spread = 1 / len(u) + (x[index] - mean) ** 2 / float((u * u).sum())
            scatter = float(((y[others] - level - exponent * u) ** 2).sum()) / (len(u) - 2)
            expected = max(float(own[others].mean()), 1e-30)
            error, free = own[index] + spread * expected, degrees
            if special.fdtrc(len(u) - 2, degrees, scatter / expected) < SCATTER_LEVEL:
                error, free = scatter * (1 + spread), len(u) - 2
            off = float(y[index] - level - exponent * (x[index] - mean))
            p = 2 * float(special.stdtr(free, -abs(off) / math.sqrt(error)))
            if p < least and abs(off) > math.log(DEVIANT):
                worst, least, ratio = index, p, bounded_exp(abs(off))
        if worst is None:
            break
        budget = usable[worst]
        findings.append(
            Finding(
                "minimum_off_the_law",
                f"budget {budget.flops:.4g} was left out: its minimum is a factor {ratio:.3g} off a law through the others, "
                "so that many of its runs must be off (--keep-outliers keeps it)",
                budget=budget.flops,
                excludes=True,
            )
        )
        usable = [one for one in usable if one is not budget]
    return usable, findings


PARABOLAS_MISFIT = (
    "parabolas misfit the losses beyond their noise (p = {p:.1g}): the sizes span too much; "
    "drop those farthest from the minimum, or read --method parametric beside it"
)


def doubts(usable: Sequence[BudgetFit], law: "PowerFit", misfit: Finding | None) -> list[Finding]:
    """What a law through these minima cannot be trusted for, after `misfit`, which the shape of the budgets has."""
    findings = [] if misfit is None else [misfit]
    if law.scatter_p < SCATTER_LEVEL:
        findings.append(
            Finding(
                "power_law_misfit",
                f"the minima scatter about the power law beyond the noise of the losses (p = {law.scatter_p:.1g}): "
                "the intervals are those of the scatter where it gives wider ones",
            )
        )
    for budget in usable:
        error = math.sqrt(law.noise_variance * float((budget.gradients[1] ** 2).sum()))
        if error > 0.5 * float(np.ptp(np.log(budget.runs.params))):
            factor = math.exp(min(error, 99))
            reason = f"budget {budget.flops:.4g} barely curves: its minimum is known to a factor of {factor:.2g} only"
            findings.append(Finding("weak_curvature", reason, budget=budget.flops))
    return findings


@dataclass(frozen=True)
class PowerFit:
    """A power law y = coefficient C^exponent over budgets, fitted by least squares to log y = level + exponent (x - x_mean).

    x is log C. `gradients` (2, K) are the derivatives of (level, exponent) by the K errors of the budgets' fits.
    `bias` (2,) is what the difference between a loss surface and a parabola adds to (level, exponent).
    """

    exponent: float
    level: float
    x_mean: float
    x: np.ndarray
    y: np.ndarray
    gradients: np.ndarray
    bias: np.ndarray
    noise_variance: float  # of a single loss
    degrees: int  # of freedom of the noise variance
    scatter_p: float  # p-value of the minima's scatter about the line under noise alone

    @property
    def log_coefficient(self) -> float:
        return self.level - self.exponent * self.x_mean

    def at(self, x: np.ndarray | float) -> np.ndarray:
        return self.level + self.exponent * (np.asarray(x) - self.x_mean)

    @cached_property
    def covariance(self) -> np.ndarray:
        """The covariance of (level, exponent) by the delta method, from the noise of the losses."""
        return self.noise_variance * np.einsum("ak,ck->ac", self.gradients, self.gradients)

    @cached_property
    def scatter_covariance(self) -> np.ndarray:
        """The covariance of (level, exponent) by the usual formula, from the scatter of the minima about the line."""
        u = self.x - self.x_mean
        residual = self.y - self.at(self.x)
        variance = float((residual**2).sum()) / (len(u) - 2)
        return variance * np.diag([1 / len(u), 1 / float((u * u).sum())])

    def half_width(self, distance: np.ndarray | float | None, confidence: float) -> np.ndarray:
        """Half of the interval of y at x_mean + distance, or of the exponent for None, from noise alone.

        Where the minima scatter about the line by more than the noise (p < 0.01), it is the wider of the two estimates.
        """
        from scipy import special

        direction = np.array([0.0, 1.0]) if distance is None else np.stack(np.broadcast_arrays(1.0, distance), axis=-1)
        ways = [(self.covariance, self.degrees)]
        if self.scatter_p < SCATTER_LEVEL:
            ways.append((self.scatter_covariance, len(self.x) - 2))
        widths = [
            special.stdtrit(degrees, (1 + confidence) / 2)
            * np.sqrt(np.einsum("...a,ab,...b->...", direction, covariance, direction))
            for covariance, degrees in ways
        ]
        return np.maximum.reduce(widths)

    def ends(self, distance: np.ndarray | float | None, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of y at x_mean + distance, or of the exponent for None.

        The true loss is steeper on one side than a parabola, so where the sizes lie to one side of the minimum the fitted
        minimum is biased. The bias is estimated for a typical loss surface. A part of it is subtracted, and a part is added
        to the standard error, since the surface is not known. It is zero for the exponent where the sizes of all budgets are
        laid out in the same way about the minimum.
        """
        from scipy import special

        shift = self.bias[1] if distance is None else self.bias[0] + np.asarray(distance) * self.bias[1]
        center = self.exponent if distance is None else self.level + self.exponent * np.asarray(distance)
        t = special.stdtrit(self.degrees, (1 + confidence) / 2)
        half = np.hypot(self.half_width(distance, confidence), t * UNCERTAIN_SHARE * shift)
        return center - CORRECTED_SHARE * shift - half, center - CORRECTED_SHARE * shift + half

    def interval(self, x: float, confidence: float) -> tuple[float, float]:
        """The interval of exp(y) at x."""
        low, high = self.ends(x - self.x_mean, confidence)
        return bounded_exp(float(low)), bounded_exp(float(high))


def slope_and_level(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A line by least squares over the last axis: its slope, the mean of y and the mean of x."""
    x_mean, y_mean = x.mean(axis=-1), y.mean(axis=-1)
    u = x - x_mean[..., None]
    return (u * (y - y_mean[..., None])).sum(axis=-1) / (u * u).sum(axis=-1), y_mean, x_mean


def noise(budgets: Sequence[BudgetFit]) -> tuple[float, int]:
    """The variance of a single loss about its budget's fit, pooled over budgets, and its degrees of freedom."""
    degrees = sum(len(budget.runs) - 3 for budget in budgets) - max(budget.shared_terms for budget in budgets)
    return math.fsum(float((budget.residuals**2).sum()) for budget in budgets) / max(degrees, 1), degrees


def effects(budgets: Sequence[BudgetFit]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The derivatives of x, y, z and the least loss of every budget by the errors of all of them: (budgets, K) each."""
    found = [
        np.stack([budget.jointly(one, index, len(budgets)) for one in (*budget.gradients, budget.loss_gradient)])
        for index, budget in enumerate(budgets)
    ]
    dx, dy, dz, dloss = np.stack(found, axis=1)
    return dx, dy, dz, dloss


def fit_power_law(budgets: Sequence[BudgetFit], of: str) -> PowerFit:
    """The law of "params" or "tokens" over budgets with minima, by least squares in log-log."""
    which = {"params": 1, "tokens": 2}[of]
    x = np.array([budget.place[0] for budget in budgets])
    y = np.array([budget.place[which] for budget in budgets])
    by = effects(budgets)
    dx, dy = by[0], by[which]
    exponent, level, x_mean = (float(value) for value in slope_and_level(x, y))
    u, v = x - x_mean, y - level
    spread = float((u * u).sum())
    by_level = (dy - exponent * dx) / len(x)
    by_exponent = (u[:, None] * dy + (v - 2 * exponent * u)[:, None] * dx) / spread
    variance, degrees = noise(budgets)
    scatter_p = _scatter_test(u, v - exponent * u, dy - exponent * dx, variance, degrees)
    gradients = np.stack([by_level, by_exponent]).sum(axis=1)
    biases = [budget.jointly(budget.coefficient_bias, index, len(budgets)) for index, budget in enumerate(budgets)]
    bias = np.einsum("ak,bk->a", gradients, np.stack(biases))
    return PowerFit(exponent, level, x_mean, x, y, gradients, bias, variance, degrees, scatter_p)


def _scatter_test(u: np.ndarray, residual: np.ndarray, gradients: np.ndarray, variance: float, degrees: int) -> float:
    """The p-value of the scatter about the line under noise alone, by an F test with Satterthwaite's degrees of freedom."""
    from scipy import special

    projection = np.eye(len(u)) - 1 / len(u) - u[:, None] * u / (u * u).sum()
    of_residual = np.einsum("ab,bk->ak", projection, gradients)
    covariance = np.einsum("ak,bk->ab", of_residual, of_residual)
    mean, square = float(np.trace(covariance)), float((covariance * covariance).sum())
    total = float((residual**2).sum())
    if not variance * mean > 1e-24 * len(u):  # rounding
        return 1.0 if total <= 1e-18 * len(u) else 0.0
    return float(special.fdtrc(mean**2 / square, degrees, total / (variance * mean)))


def law_document(law: PowerFit, confidence: float) -> dict[str, Any]:
    """A law as it stands in the document."""
    low, high = law.ends(None, confidence)
    at_one = law.ends(-law.x_mean, confidence)
    return {
        "coefficient": bounded_exp(law.log_coefficient),
        "exponent": law.exponent,
        "exponent_interval": [float(low), float(high)],
        "coefficient_interval": [bounded_exp(float(end)) for end in at_one],
        "log10_coefficient": law.log_coefficient / math.log(10),
        "exponent_standard_error": math.sqrt(law.covariance[1, 1]),
        "exponent_shape_shift": float(law.bias[1]),
    }
