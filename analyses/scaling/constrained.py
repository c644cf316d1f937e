"""The surface's best size where a budget also serves tokens, or where the data end.

Serving: Sardana et al. 2024 (arXiv:2401.00448), as in budgeting.py. Data: repetition.py. Both at once are one search over N:
the budget leaves tokens for each size, they are worth D', and the loss is E + A / N^alpha + B / D'^beta. As N grows the first
power falls and the second rises ever faster, so there is one minimum.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from analyses.scaling.bootstrap import percentiles
from analyses.scaling.budgeting import Array, Budget, best_size, least_budget
from analyses.scaling.cost import CostRule
from analyses.scaling.findings import Finding
from analyses.scaling.options import Options
from analyses.scaling.parabola import bounded_exp
from analyses.scaling.predictions import EXTRAPOLATION, extrapolation
from analyses.scaling.repetition import Repetition, effective_tokens, repetition_of
from analyses.scaling.robust import stretched
from analyses.scaling.runs import Runs
from analyses.scaling.surface_report import SurfaceStudy
from analyses.scaling.tables import Table

RESAMPLES = 500  # of the law with repetition
DRAWS_OF_BUDGETS = 300  # for intervals of budgets, each found by bisection


@dataclass(frozen=True)
class Laws:
    """Several surfaces, the first being the fit and the others its draws, and what repeated tokens are worth under each."""

    surfaces: Array  # (R, 5) E, A, B, alpha, beta
    r_star: Array  # (R,)
    cost: CostRule
    unique_tokens: float | None
    served_tokens: float

    def first(self, count: int) -> "Laws":
        return Laws(self.surfaces[:count], self.r_star[:count], self.cost, self.unique_tokens, self.served_tokens)

    def budget(self, flops: float) -> Budget:
        return Budget(flops, self.cost.k1, self.cost.k2, self.served_tokens)

    def worth(self, tokens: Array) -> Array:
        """D' of tokens (R, m)."""
        if self.unique_tokens is None:
            return tokens
        return effective_tokens(tokens, self.unique_tokens, self.r_star[:, None])

    def best(self, flops: float) -> tuple[Array, Array, Array, Array] | None:
        """(R,) each: log N, the tokens, what they are worth, and the loss; None where the budget pays for nothing."""
        budget = self.budget(flops)
        if budget.range is None:
            return None
        e, a, b, alpha, beta = (column[:, None] for column in self.surfaces.T)

        def loss(x: Array) -> Array:
            with np.errstate(all="ignore"):
                tokens = budget.tokens(x)
                return np.where(tokens > 0, e + a * np.exp(-alpha * x) + b * self.worth(tokens) ** -beta, np.inf)

        x = best_size(loss, *budget.range, len(self.surfaces))[:, None]
        tokens = budget.tokens(x)
        return x[:, 0], tokens[:, 0], self.worth(tokens)[:, 0], loss(x)[:, 0]


def constrained_part(
    study: SurfaceStudy, table: Table, runs: Runs, options: Options
) -> tuple[dict[str, Any], list[Finding]]:
    """What the document has under "constrained", and its warnings. The study is the surface's.

    runs are all of the table, those that have read their data again among them.
    """
    surfaces = np.concatenate([[astuple(study.surface)], study.rows])
    findings: list[Finding] = []
    repetition: Repetition | None = None
    degrees = 0
    if options.unique_tokens is not None:
        generator = np.random.default_rng([options.seed, 1])
        resamples = min(options.resamples, RESAMPLES)
        repetition, finding = repetition_of(table, runs, study.surface, generator, resamples)
        findings.append(finding)
        if repetition.laws is not None:
            surfaces, degrees = repetition.laws, repetition.degrees
    r_star = np.full(len(surfaces), np.inf if repetition is None else repetition.r_star)
    if repetition is not None and repetition.draws is not None:
        r_star[1:] = repetition.draws
    laws = Laws(surfaces, r_star, study.runs.cost, options.unique_tokens, options.served_tokens)
    answers = _Answers(laws, options, degrees, float(np.log(study.runs.flops).max()))
    rows, said = answers.rows()
    e, a, b, alpha, beta = surfaces[0].tolist()
    return {
        "served_tokens": options.served_tokens,
        "unique_tokens": options.unique_tokens,
        "repetition": repetition and repetition.document(options.confidence),
        "surface": {"E": e, "A": a, "B": b, "alpha": alpha, "beta": beta},
        "predictions": rows,
    }, findings + said


@dataclass(frozen=True)
class _Answers:
    laws: Laws
    options: Options
    degrees: int  # of the residual bootstrap; 0 where the draws are those of the case bootstrap
    last: float  # log of the largest budget that was run

    def rows(self) -> tuple[list[dict[str, Any]], list[Finding]]:
        """The rows of --predict and --predict-loss."""
        rows, findings = [], []
        for flops in self.options.predict:
            if (row := self._row(flops)) is None:
                reason = f"no size for {flops:.4g} FLOPs: the served tokens take them all"
                findings.append(Finding("unreachable_flops", reason, unanswered=True))
            else:
                rows.append({"asked": "flops"} | row)
        for loss in self.options.predict_loss:
            reached = self._reaching(loss, self.laws.first(1), lambda losses: float(losses[0]), 1e-10)
            row = None if reached is None else self._row(reached)
            if row is None:
                why = "the data are too few, or E too high" if self.options.unique_tokens else "E is too high"
                findings.append(
                    Finding("unreachable_loss", f"no budget for a loss of {loss:g}: {why}", unanswered=True)
                )
                continue
            row.pop("loss_interval")
            rows.append({"asked": "loss"} | row | {"flops_interval": self._flops_interval(loss)})
        for row in rows:
            if row["extrapolation"] > EXTRAPOLATION * (1 + 1e-9):
                findings.append(extrapolation(row["flops"], row["extrapolation"]))
        return rows, findings

    def _row(self, flops: float) -> dict[str, Any] | None:
        found = self.laws.best(flops)
        free = Laws(self.laws.surfaces[:1], self.laws.r_star[:1], self.laws.cost, None, 0.0).best(flops)
        if found is None or free is None:
            return None
        x, tokens, worth, loss = found
        serving = self.laws.budget(flops).serving_flops(float(x[0]))
        unique = self.options.unique_tokens
        row: dict[str, Any] = {"flops": flops}
        for name, values in (("params", x), ("tokens", np.log(tokens)), ("loss", np.log(loss))):
            row[f"{name}_opt"] = bounded_exp(float(values[0]))
            row[f"{name}_interval"] = [bounded_exp(end) for end in self._interval(values)]
        row |= {"training_flops": flops - serving, "serving_flops": serving, "spends": "C"}
        if unique is not None:
            row |= {"epochs": max(1.0, float(tokens[0]) / unique), "effective_tokens": float(worth[0])}
        return row | {
            "params_unconstrained": bounded_exp(float(free[0][0])), "loss_unconstrained": float(free[3][0]),
            "extrapolation": bounded_exp(max(0.0, math.log(flops) - self.last)),
        }  # fmt: skip

    def _interval(self, values: Array) -> list[float]:
        if self.degrees:
            return stretched(float(values[0]), values[1:], self.degrees, self.options.confidence)
        return percentiles(values[1:], self.options.confidence)

    def _flops_interval(self, loss: float) -> list[float]:
        """The budgets at which the ends of the loss's interval reach it; infinite where an end never does."""
        ends = []
        for side in (0, 1):

            def end(losses: Array, side: int = side) -> float:
                return self._interval(losses)[side]

            found = self._reaching(loss, self.laws.first(1 + DRAWS_OF_BUDGETS), end, 1e-4)
            ends.append(math.inf if found is None else found)
        return ends

    @staticmethod
    def _reaching(loss: float, laws: Laws, summary: Callable[[Array], float], precision: float) -> float | None:
        def least(log_flops: float) -> float | None:
            found = laws.best(math.exp(log_flops))
            return None if found is None else summary(found[3])

        return least_budget(least, loss, precision)
