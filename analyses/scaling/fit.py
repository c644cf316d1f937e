"""A scaling study as one document: budgets, laws with intervals, predictions, and checks of all of them.

    scale_fit(table, Options()) -> ScaleFit    its `document` is what `hunyuan scale-fit --format json` prints

Loads no torch and no pandas. Losses are in nats per token, flops are training FLOPs (C_min with the correction).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.scaling.advice import influence, leave_one_budget_out, next_runs
from analyses.scaling.bootstrap import Resamples, case_bootstrap, percentiles, residual_bootstrap
from analyses.scaling.columns import SIZES
from analyses.scaling.cost import CostRule
from analyses.scaling.findings import Finding, status
from analyses.scaling.isoflop import (
    CORRECTED_SHARE,
    MIN_SIZES,
    UNCERTAIN_SHARE,
    IsoflopFit,
    PowerFit,
    fit_isoflop,
    law_document,
)
from analyses.scaling.options import Options
from analyses.scaling.parabola import BudgetFit, bounded_exp
from analyses.scaling.predictions import Predictor
from analyses.scaling.refusals import LARGEST_LOG
from analyses.scaling.runs import clean_runs
from analyses.scaling.shaped import ShapedBudget, fallback, shaped
from analyses.scaling.surface_report import SurfaceStudy, parametric_part, screened
from analyses.scaling.tables import Table
from model.errors import HunyuanError

C_MIN_MEANS = (
    "laws and predictions are in C_min, which budgets have as c_min_flops; tokens_opt are what C_min buys at params_opt"
)
ONLY_DELTA = "a bootstrap resamples parabolas, and --interval delta has the shape"
PARABOLAS = {"too_few_sizes", "opens_downward", "minimum_outside", "bad_minimum", "sizes_alike", "losses_alike", "lack_of_fit",
             "power_law_misfit", "weak_curvature", "shape_misfit", "shape_fallback"}  # fmt: skip


@dataclass(frozen=True)
class ScaleFit:
    """A fitted study: its parts, from which figures are drawn, and its document."""

    options: Options
    fit: IsoflopFit
    surface: SurfaceStudy | None
    findings: tuple[Finding, ...]
    document: dict[str, Any]

    @property
    def status(self) -> int:
        """0 clean, 3 fitted with something left out, in doubt or unanswered, 1 refused."""
        if self.document["n_opt"] is None:
            return 1
        return status(self.findings)


def scale_fit(table: Table, options: Options) -> ScaleFit:
    """Fits a table of runs. What the data cannot support is in the warnings of the document.

    HunyuanError says which column is missing, or which option does not go with the table.
    """
    runs, findings = clean_runs(
        table,
        cost=options.cost,
        columns=options.columns,
        batch_tokens=options.batch_tokens,
        tolerance=options.tolerance,
        units=options.units,
        loss_unit=options.loss_unit,
        where=options.where,
        best_of=options.best_of,
    )
    if options.c_min is not None and not np.isfinite(runs.batch_tokens).all():
        row = int(runs.row[~np.isfinite(runs.batch_tokens)].min())
        raise HunyuanError(
            f"--c-min needs the batch of every run in tokens: {table.name} has none in row {row}, fill the column or, "
            "where there is none, add --batch-tokens"
        )
    if options.c_min is not None and options.method != "quadratic":
        raise HunyuanError("--c-min corrects the budgets of the quadratic method: leave it or --method out")
    of_surface, off_surface = screened(runs, options.keep_outliers) if options.method != "quadratic" else (runs, [])
    # Each method has its own outliers. With the surface alone, the budgets' parabolas are those of its runs.
    alone = options.method == "parametric"
    fit = fit_isoflop(
        of_surface if alone else runs, c_min=options.c_min, keep_outliers=options.keep_outliers, screen=not alone
    )
    plain = fit
    fallen: Finding | None = None
    if options.shape != "parabola" and not alone and plain.params_law is not None:
        fit, fallen = shaped(plain) if options.interval == "delta" else (plain, fallback(ONLY_DELTA))
    is_shaped = fit is not plain
    seeds = np.random.SeedSequence(options.seed).spawn(3)
    draws: dict[str, Resamples] = {}
    if plain.params_law is not None:
        draws["residual"] = residual_bootstrap(plain.usable, options.resamples, np.random.default_rng(seeds[0]))
        draws["case"] = case_bootstrap(plain.usable, options.resamples, np.random.default_rng(seeds[1]))
    of_fit = {} if is_shaped else draws
    said = [*findings, *(off_surface if alone else ()), *fit.findings, *([fallen] if fallen else [])]
    outliers = len(runs) - len(of_surface) if alone else fit.outliers
    document = _heading(runs.counts | {"outliers": outliers, "used": len(fit.runs)}, options, runs.cost)
    document["columns"] = {name: column.name for name, column in runs.columns.items()}
    document["units"] = {name: column.unit for name, column in runs.columns.items() if name in SIZES}
    document["budgets"] = [_budget_row(budget, fit, of_fit, options) for budget in fit.budgets]
    document |= {"n_opt": None, "d_opt": None, "predictions": []}
    if fit.params_law is not None and fit.tokens_law is not None:
        document["n_opt"] = _law(fit.params_law, "params", of_fit, options)
        document["d_opt"] = _law(fit.tokens_law, "tokens", of_fit, options)
        document["tests"] = _tests(plain, fit, draws)
        if options.method != "parametric":
            document["predictions"], more = _predictions(fit, of_fit, options)
            said += more
        if is_shaped:
            document |= {"shape": _shape(fit, options), "parabola": _parabola(plain, draws, options)}
        document["leave_one_budget_out"] = leave_one_budget_out(fit)
        document["influence"] = influence(fit)
        target = math.log(max(options.predict)) if options.predict else None
        document["next_runs"] = next_runs(fit, target)
    surface: SurfaceStudy | None = None
    if options.method != "quadratic":
        surface, part, more = parametric_part(of_surface, fit, options, np.random.default_rng(seeds[2]))
        said += more if alone else [*off_surface, *more]
        document["parametric"] = part
        if options.method == "parametric":
            document |= {name: part and part[name] for name in ("n_opt", "d_opt")}
            document["predictions"] = part["predictions"] if part else []
    if options.method == "parametric":  # warnings about parabolas do not concern a surface
        said = [finding for finding in said if finding.code not in PARABOLAS]
        for name in ("leave_one_budget_out", "influence", "next_runs"):
            document.pop(name, None)
    if fit.refusal is not None and options.method != "parametric":
        said.append(fit.refusal)
    said = list(dict.fromkeys(said))  # parabolas and the surface may say the same
    document["warnings"] = [finding.document() for finding in said]
    return ScaleFit(options, fit, surface, tuple(said), document)


def _heading(counts: dict[str, int], options: Options, cost: CostRule) -> dict[str, Any]:
    c_min = options.c_min
    return {
        "method": options.method,
        "runs": counts,
        "cost": cost.document(),
        "c_min": c_min and {"b_star": c_min.b_star, "alpha_b": c_min.alpha_b,
                            "means": C_MIN_MEANS},
        "confidence": options.confidence,
        "interval": options.interval if options.method != "parametric" else "case",  # the surface has no other
    }  # fmt: skip


def _budget_row(budget: BudgetFit, fit: IsoflopFit, draws: Mapping[str, Resamples], options: Options) -> dict[str, Any]:
    """A budget in the document. Numbers that its runs do not support are None."""
    usable = any(budget is one for one in fit.usable)
    row: dict[str, Any] = {
        "flops": budget.flops, "params_opt": None, "tokens_opt": None, "loss_opt": None, "n_runs": len(budget.runs),
        "n_sizes": budget.sizes, "interior": False, "used": usable,
    }  # fmt: skip
    if budget.sizes < MIN_SIZES or not budget.opens_upward:
        return row
    row |= {
        "params_opt": _size(budget.y), "tokens_opt": _size(budget.z), "loss_opt": budget.loss,
        "interior": budget.interior,
        "curvature": budget.curvature, "residual_sd": _residual_sd(budget),
    }  # fmt: skip
    if budget.c_min is not None:
        row["c_min_flops"] = bounded_exp(budget.x)
    if usable and fit.params_law is not None:
        index = next(i for i, one in enumerate(fit.usable) if one is budget)
        drawn = draws.get(options.interval)
        for name, place, gradient in (
            ("params", budget.y, budget.gradients[1]),
            ("tokens", budget.z, budget.gradients[2]),
            ("loss", budget.loss, budget.loss_gradient),
        ):
            if drawn is None:
                ends = _place_interval(budget, fit.params_law, place, gradient, options)
            else:
                column = {"params": drawn.y, "tokens": drawn.z, "loss": drawn.loss}[name][:, index]
                ends = percentiles(column[np.isfinite(column)], options.confidence)
            row[f"{name}_interval"] = ends if name == "loss" else [bounded_exp(end) for end in ends]
        half = math.sqrt(options.flat * budget.loss / budget.curvature)
        row["flat_region"] = [bounded_exp(budget.y - half), bounded_exp(budget.y + half)]
    return row


def _size(log: float) -> float | None:
    """The number of that log; None for what no float can hold, such as a minimum far outside of the sampled sizes."""
    return math.exp(log) if abs(log) < LARGEST_LOG else None


def _residual_sd(budget: BudgetFit) -> float:
    return math.sqrt(float((budget.residuals**2).sum()) / max(len(budget.runs) - 3, 1))


def _place_interval(
    budget: BudgetFit, law: PowerFit, place: float, gradient: np.ndarray, options: Options
) -> list[float]:
    """The interval by the delta method of the log of a budget's N_opt or D_opt, or of its least loss."""
    from scipy import special

    t = float(special.stdtrit(law.degrees, (1 + options.confidence) / 2))
    shift = float((gradient * budget.coefficient_bias).sum())
    variance = law.noise_variance * float((gradient**2).sum())
    center, half = place - CORRECTED_SHARE * shift, t * math.hypot(math.sqrt(variance), UNCERTAIN_SHARE * shift)
    return [center - half, center + half]


def _law(law: PowerFit, of: str, draws: Mapping[str, Resamples], options: Options) -> dict[str, Any]:
    """A law with its intervals by all three methods. Those of the chosen one also stand at the top."""
    document = law_document(law, options.confidence)
    intervals = {"delta": {name: document[f"{name}_interval"] for name in ("exponent", "coefficient")}}
    for name, drawn in draws.items():
        exponent, level, mean = drawn.law(of)
        coefficient = [bounded_exp(end) for end in percentiles(level - exponent * mean, options.confidence)]
        intervals[name] = {"exponent": percentiles(exponent, options.confidence), "coefficient": coefficient}
    chosen = intervals[options.interval]
    document["exponent_interval"], document["coefficient_interval"] = chosen["exponent"], chosen["coefficient"]
    return document | {"intervals": intervals}


def _tests(plain: IsoflopFit, fit: IsoflopFit, draws: Mapping[str, Resamples]) -> dict[str, Any]:
    law = fit.params_law
    assert law is not None
    return {
        "noise_sd": math.sqrt(law.noise_variance), "noise_degrees": law.degrees,
        "parabolas_misfit_p": plain.misfit_p, "shape_misfit_p": None if fit is plain else fit.misfit_p,
        "minima_scatter_p": law.scatter_p,
        "resamples_without_minimum": {name: drawn.without_minimum for name, drawn in draws.items()},
    }  # fmt: skip


def _shape(fit: IsoflopFit, options: Options) -> dict[str, Any]:
    """The terms that all budgets share, and the test that no more are needed."""
    budget, law = fit.usable[0], fit.params_law
    assert isinstance(budget, ShapedBudget) and law is not None
    shape = budget.shape
    found: dict[str, Any] = {}
    for name, value, errors in zip(("k3", "k4"), (shape.k3, shape.k4), shape.shared_errors, strict=True):
        found |= {name: value, f"{name}_interval": _place_interval(budget, law, value, errors, options)}
    return found | {"misfit_p": fit.misfit_p, "noise_sd": math.sqrt(law.noise_variance), "noise_degrees": law.degrees}


def _parabola(plain: IsoflopFit, draws: Mapping[str, Resamples], options: Options) -> dict[str, Any]:
    """The report's method beside the shared shape: its minima, laws and predictions."""
    assert plain.params_law is not None and plain.tokens_law is not None
    return {
        "budgets": [_budget_row(budget, plain, draws, options) for budget in plain.budgets],
        "n_opt": _law(plain.params_law, "params", draws, options),
        "d_opt": _law(plain.tokens_law, "tokens", draws, options),
        "predictions": [row for row in _predictions(plain, draws, options)[0] if "flops" in row],
        "misfit_p": plain.misfit_p,
    }


def _predictions(
    fit: IsoflopFit, draws: Mapping[str, Resamples], options: Options
) -> tuple[list[dict[str, Any]], list[Finding]]:
    predictor = Predictor(fit, draws.get(options.interval), draws.get("residual"), options.confidence, options.flat)
    rows, findings = [], []
    asked = {"flops": options.predict, "params": options.predict_params, "loss": options.predict_loss}
    for name, values in asked.items():
        for value in values:
            row, said = predictor.row(name, value)
            rows.append(row)
            findings += said
    return rows, findings
