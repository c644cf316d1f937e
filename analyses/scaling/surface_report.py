"""The parametric method in the document of a study: the surface, its power laws, and the bias of parabolas on it."""

import math
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from analyses.scaling.bootstrap import percentiles
from analyses.scaling.findings import Finding
from analyses.scaling.isoflop import IsoflopFit, fit_isoflop, slope_and_level
from analyses.scaling.laws import Surface
from analyses.scaling.options import Options
from analyses.scaling.parabola import bounded_exp
from analyses.scaling.predictions import EXTRAPOLATION, extrapolation
from analyses.scaling.refusals import LARGEST_LOG
from analyses.scaling.runs import Runs
from analyses.scaling.surface import (
    PARAMETERS,
    ParametricFit,
    bootstrap_parametric,
    budget_for_loss,
    fit_parametric,
    flat_region,
    optimum,
)
from analyses.scaling.surface_outliers import surface_outliers
from model.errors import HunyuanError

RESAMPLES = 1000  # at most: each is a fit, and 95% intervals need no more
UNSTEADY, FEWEST_STEADIED = 2.0, 30
FEWEST = 20  # resamples that make an interval
STEEPEST = 20.0  # exponent of a surface: beyond, powers of sizes overflow


def screened(runs: Runs, keep: bool) -> tuple[Runs, list[Finding]]:
    """The runs without outliers (surface_outliers.py), and a finding for each outlier. With `keep` they are only named."""
    outliers = surface_outliers(runs.params, runs.tokens, runs.loss)
    findings = [
        Finding(
            "outlier",
            f"row {runs.row[index]} has a loss of {runs.loss[index]:.6g} where the surface through the others has "
            f"{expected:.6g}: " + ("kept, as asked" if keep else "left out (--keep-outliers keeps it)"),
            budget=float(runs.flops[index]),
            row=int(runs.row[index]),
            excludes=not keep,
        )
        for index, expected in outliers.items()
    ]
    return runs if keep else runs.keep(~np.isin(np.arange(len(runs)), list(outliers))), findings


def parametric_part(
    runs: Runs, fit: IsoflopFit, options: Options, generator: np.random.Generator
) -> tuple["SurfaceStudy | None", dict[str, Any] | None, list[Finding]]:
    """The surface through the runs, its part of the document, and its warnings. The budgets are those of `fit`."""
    columns, cost = (runs.params, runs.tokens, runs.loss), (runs.cost.k1, runs.cost.k2)
    loss: dict[str, Any] = {"lad": options.lad, "delta": options.delta}
    try:
        found = fit_parametric(*columns, generator=generator, starts=options.starts, **loss)
    except HunyuanError as error:
        return None, None, [Finding("no_surface", f"no surface E + A/N^a + B/D^b: {error}")]
    resamples = min(options.resamples, RESAMPLES)
    reason = _unsound(found.surface, fit, cost)
    if reason is not None:
        return None, None, [Finding("no_surface", f"no surface E + A/N^a + B/D^b: {reason}")]
    drawn = bootstrap_parametric(found, *columns, generator=generator, resamples=resamples, **loss)
    rows = steadied(drawn.surfaces[drawn.converged], found, runs, 0.0 if options.lad else options.delta)
    study = SurfaceStudy(runs, fit, options, found.surface, rows, cost)
    findings = [Finding("surface", f"the surface: {warning}") for warning in found.warnings]
    if drawn.unconverged > 0.01 * resamples:
        reason = (
            f"{drawn.unconverged} of {resamples} resamples of the surface did not converge: its intervals are rough"
        )
        findings.append(Finding("surface_resamples", reason))
    document: dict[str, Any] = dict(zip(("E", "A", "B", "alpha", "beta"), astuple(found.surface), strict=True))
    document |= {
        "intervals": {
            name: percentiles(study.rows[:, index], options.confidence)
            for index, name in enumerate(("E", "A", "B", "alpha", "beta"))
        },
        "runs": len(runs),
        "objective": found.objective,
        "starts": found.starts,
        "starts_agreeing_fraction": found.agreeing / found.starts,
        "residual_sd": float(found.residuals.std()),
        "n_opt": study.law("params"),
        "d_opt": study.law("tokens"),
        "parabolas_on_surface": study.bias(),
    }
    predictions, said = study.predictions()
    return study, document | {"predictions": predictions}, findings + said


def _unsound(surface: Surface, fit: IsoflopFit, cost: tuple[float, float]) -> str | None:
    """Why a surface cannot be used: it has no optimum at the sampled budgets, or one that is no finite number."""
    if not (min(surface.A, surface.B, surface.alpha, surface.beta) > 0 and np.isfinite(astuple(surface)).all()):
        return "the best fit has a term that vanishes: the losses do not tell of both parameters and tokens"
    if max(surface.alpha, surface.beta) > STEEPEST:
        return (
            f"the best fit has an exponent of {max(surface.alpha, surface.beta):.3g}, and laws of scale have about 0.35"
        )
    with np.errstate(all="ignore"):
        places = np.log(optimum(surface, np.array([budget.flops for budget in fit.budgets]), cost))
    if not (np.abs(places) < LARGEST_LOG / 2).all():
        return "the best fit has its optima at no size that there is: the losses do not tell of parameters and tokens"
    return None


def steadied(rows: np.ndarray, found: ParametricFit, runs: Runs, delta: float) -> np.ndarray:
    """The surfaces of resamples (R, 5) nearer to the fitted one, so that they spread as it does from study to study.

    Where residuals count by their absolute values, resamples of few runs spread more than the fit itself, as those of a median
    do: in simulations with normal noise by a third and a fifth for 30 and 54 runs, about UNSTEADY p / n for p parameters
    (examples/scaling_shape_coverage.py). Fewer runs, where intervals are rough, are taken for 30. Residuals within `delta`
    count by their squares, and need no correction.
    """
    beyond = float((np.abs(found.residuals) > delta).mean())
    share = 1 / (1 + UNSTEADY * beyond * len(PARAMETERS) / max(len(runs), FEWEST_STEADIED))
    middle = [float(np.log(column).mean()) for column in (runs.params, runs.tokens)]  # where the terms are known best

    def terms(surfaces: np.ndarray) -> np.ndarray:
        logs = [np.log(surfaces[:, 1 + i]) - surfaces[:, 3 + i] * middle[i] for i in (0, 1)]
        return np.column_stack([surfaces[:, 0], *logs, surfaces[:, 3:]])

    with np.errstate(all="ignore"):  # of a resample that is no surface, which is left out
        own = terms(np.array([astuple(found.surface)]))
        new = own + share * (terms(rows) - own)
        scales = [np.exp(new[:, 1 + i] + new[:, 3 + i] * middle[i]) for i in (0, 1)]
    return np.column_stack([new[:, 0], *scales, new[:, 3:]])


def _surfaces(rows: np.ndarray) -> Surface:
    """Several surfaces (R, 5) as one of columns (R, 1)."""
    columns: list[Any] = np.split(rows, 5, axis=1)
    return Surface(*columns)


class SurfaceStudy:
    """A fitted surface with its resamples and the cost rule, and what follows from them."""

    def __init__(
        self,
        runs: Runs,
        fit: IsoflopFit,
        options: Options,
        surface: Surface,
        rows: np.ndarray,  # (R, 5), the surfaces of resamples
        cost: tuple[float, float],
    ) -> None:
        self.runs, self.options, self.surface, self.cost = runs, options, surface, cost
        self.log_flops = np.log([budget.flops for budget in fit.budgets])
        rows = rows[
            (rows[:, 1:] > 0).all(axis=1) & np.isfinite(rows).all(axis=1) & (rows[:, 3:] <= STEEPEST).all(axis=1)
        ]
        if len(rows):
            with np.errstate(all="ignore"):
                places = np.log(optimum(_surfaces(rows), np.exp(self.log_flops), cost))
            rows = rows[(np.abs(places) < LARGEST_LOG / 2).all(axis=(0, 2))]
        self.rows = rows  # (R, 5): the resamples that are usable
        self.drawn = _surfaces(rows) if len(rows) >= FEWEST else None  # None: too few for intervals

    def law(self, of: str) -> dict[str, Any] | None:
        """The power law through the surface's optima at the sampled budgets; exact where the cost is k N D."""
        if len(self.log_flops) < 2:
            return None
        exponent, log_coefficient = self._power(self.surface, of)
        exponents, coefficients = (None, None) if self.drawn is None else self._powers(self.drawn, of)
        return {
            "coefficient": bounded_exp(log_coefficient),
            "exponent": exponent,
            "exponent_interval": self._interval(exponents),
            "coefficient_interval": [bounded_exp(end) for end in self._interval(coefficients)],
            "log10_coefficient": log_coefficient / math.log(10),
        }

    def optima(self, flops: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For params, then tokens: the best ones for each budget, and the ends of their interval; all of the shape of flops."""
        best = optimum(self.surface, flops, self.cost)
        ends = np.full((2, 2, len(flops)), np.nan)
        if self.drawn is not None:
            tail = (1 - self.options.confidence) / 2
            ends = np.quantile(np.stack(optimum(self.drawn, flops, self.cost)), [tail, 1 - tail], axis=1)
        return [(best[index], ends[0, index], ends[1, index]) for index in (0, 1)]

    def _power(self, surface: Surface, of: str) -> tuple[float, float]:
        exponent, log_coefficient = self._powers(surface, of)
        return float(exponent), float(log_coefficient)

    def _powers(self, surface: Surface, of: str) -> tuple[np.ndarray, np.ndarray]:
        """The exponent and the log of the coefficient of a surface, or of each of several."""
        best = optimum(surface, np.exp(self.log_flops), self.cost)[0 if of == "params" else 1]
        exponent, level, mean = slope_and_level(np.broadcast_to(self.log_flops, best.shape), np.log(best))
        return exponent, level - exponent * mean

    def _interval(self, drawn: np.ndarray | None) -> list[float]:
        return [math.nan, math.nan] if drawn is None else percentiles(drawn, self.options.confidence)

    def bias(self) -> dict[str, Any] | None:
        """The exponent that parabolas find on the surface itself, at the sizes that were run, and its error."""
        runs = self.runs
        clean = replace(runs, loss=np.asarray(self.surface.loss(runs.params, runs.tokens), dtype=np.float64))
        law = fit_isoflop(clean, screen=False).params_law
        own = self.law("params")
        if law is None or own is None:
            return None
        return {"exponent": law.exponent, "bias": law.exponent - own["exponent"], "budgets": len(law.x)}

    @np.errstate(all="ignore")  # what is not finite is told
    def predictions(self) -> tuple[list[dict[str, Any]], list[Finding]]:
        """The rows of --predict and its like, from the surface alone."""
        rows: list[dict[str, Any]] = []
        findings = []
        for flops in self.options.predict:
            rows.append({"asked": "flops", "flops": flops})
        for params in self.options.predict_params if len(self.log_flops) > 1 else ():
            exponent, log_coefficient = self._power(self.surface, "params")
            x = (math.log(params) - log_coefficient) / exponent
            if abs(x) < LARGEST_LOG:
                rows.append({"asked": "params", "flops": math.exp(x)})
            else:
                reason = f"no budget for {params:.4g} parameters: the surface's law does not reach it"
                findings.append(Finding("unreachable_params", reason, unanswered=True))
        for loss in self.options.predict_loss:
            try:
                reached = float(budget_for_loss(self.surface, loss, self.cost))
            except HunyuanError as error:
                findings.append(Finding("unreachable_loss", str(error), unanswered=True))
                continue
            if 0 < reached < math.inf:
                rows.append({"asked": "loss", "flops": reached})
            else:
                findings.append(
                    Finding(
                        "unreachable_loss",
                        f"no budget for a loss of {loss:g}: the surface does not reach it",
                        unanswered=True,
                    )
                )
        found = [row | self._optimum(row["flops"]) for row in rows]
        rows = [
            row for row in found if all(0 < row[name] < math.inf for name in ("params_opt", "tokens_opt", "loss_opt"))
        ]
        for row in found:
            if row not in rows:
                reason = f"no size for {row['flops']:.4g} FLOPs: the surface does not reach it"
                findings.append(Finding("unreachable_flops", reason, unanswered=True))
        return rows, findings + [extrapolation(row["flops"], row["extrapolation"]) for row in rows
                                 if row["extrapolation"] > EXTRAPOLATION * (1 + 1e-9)]  # fmt: skip

    def _optimum(self, flops: float) -> dict[str, Any]:
        params, tokens = (float(value) for value in optimum(self.surface, flops, self.cost))
        drawn: tuple[np.ndarray | None, ...] = (None, None, None)
        if self.drawn is not None:
            sizes = optimum(self.drawn, np.array([flops]), self.cost)
            drawn = tuple(values[:, 0] for values in (*sizes, self.drawn.loss(*sizes)))
        low, high = flat_region(self.surface, flops, self.cost, self.options.flat)
        beyond = max(0.0, self.log_flops.min() - math.log(flops), math.log(flops) - self.log_flops.max())
        return {
            "params_opt": params,
            "tokens_opt": tokens,
            "loss_opt": float(self.surface.loss(params, tokens)),
            "params_interval": self._interval(drawn[0]),
            "tokens_interval": self._interval(drawn[1]),
            "loss_interval": self._interval(drawn[2]),
            "spends": "C",
            "flat_region": [float(low), float(high)],
            "extrapolation": bounded_exp(beyond),
        }
