"""Predictions of a fitted law for given budgets, sizes or losses, with intervals and the flat region.

The flat region holds the sizes whose loss is at most (1 + t) times the least loss L. With curvature c it reaches
sqrt(t L / c) to either side of the minimum in log N. Beyond the sampled budgets, c / L is extrapolated as a power of C and
the least loss as L = E + K / C^gamma.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analyses.scaling.bootstrap import Resamples, percentiles
from analyses.scaling.findings import Finding
from analyses.scaling.isoflop import IsoflopFit, PowerFit, slope_and_level
from analyses.scaling.loss_law import LossBand, crossing, fit_loss_laws, loss_band
from analyses.scaling.parabola import bounded_exp
from analyses.scaling.refusals import LARGEST_LOG

Ends = Callable[[float], Sequence[Any]]  # lower and upper, at a log budget
EXTRAPOLATION = 100.0  # a prediction more than so many times beyond the sampled budgets has a warning


def extrapolation(flops: float, factor: float) -> Finding:
    """The warning that a prediction lies so many times beyond the sampled budgets."""
    reason = f"{flops:.4g} FLOPs lie {factor:.4g} times beyond the sampled budgets: the interval holds only if the law goes on"
    return Finding("extrapolation", reason, budget=flops)


@dataclass(frozen=True)
class Predictor:
    """Predictions of the quadratic method. With `draws` None the intervals are those of the delta method.

    Those of a loss are from resamples of parabolas (`loss_draws`), whose least losses are biased, or from the shared shape.
    """

    fit: IsoflopFit
    draws: Resamples | None
    loss_draws: Resamples | None  # None: the shared shape's
    confidence: float
    flat: float

    def row(self, asked: str, value: float) -> tuple[dict[str, Any], list[Finding]]:
        """The prediction for --predict ("flops"), --predict-params or --predict-loss, and its warnings."""
        law, tokens_law = self.fit.params_law, self.fit.tokens_law
        assert law is not None and tokens_law is not None
        budget_interval = None
        if asked == "flops":
            x: float | None = math.log(value)
        elif asked == "params":
            x, budget_interval = self._budget_for_params(law, math.log(value))
        else:
            x, budget_interval = self._budget_for_loss(value)
        reached = x is not None and max(abs(x), abs(float(law.at(x))), abs(float(tokens_law.at(x)))) < LARGEST_LOG
        if x is None or not reached:
            what = {"loss": f"budget for a loss of {value:g}", "params": f"budget for {value:.4g} parameters",
                    "flops": f"size for {value:.4g} FLOPs"}[asked]  # fmt: skip
            why = "the least losses, fitted as E + K / C^gamma over at least 4 budgets, do not determine it"
            reason = f"no {what}: {why if asked == 'loss' else 'the law does not reach it'}"
            return {"asked": asked, "value": value}, [Finding(f"unreachable_{asked}", reason, unanswered=True)]
        loss_law = self._loss.law if self._loss else None
        factor, sizes = self._extrapolation(x), self._interval(law, x)
        row: dict[str, Any] = {
            "asked": asked,
            "flops": value if asked == "flops" else math.exp(x),
            "params_opt": value if asked == "params" else bounded_exp(float(law.at(x))),
            "tokens_opt": self._tokens(x, math.log(value) if asked == "params" else float(law.at(x))),
            "loss_opt": value if asked == "loss" else loss_law.at(x) if loss_law else None,
            "params_interval": sizes,
            "tokens_interval": [self._tokens(x, math.log(size) if size else -math.inf) for size in reversed(sizes)],
            "flops_interval": budget_interval,
            "spends": "C" if self.fit.budgets[0].c_min is None else "C_min",
            "flat_region": self._flat_region(float(law.at(x)), x),
            "extrapolation": factor,
        }
        if self.loss_draws is None and self._loss is not None and asked != "loss":
            row["loss_interval"] = list(self._loss.ends(x, self.confidence))
        findings = []
        if factor > EXTRAPOLATION * (1 + 1e-9):
            findings.append(extrapolation(row["flops"], factor))
        return row, findings

    @cached_property
    def _loss(self) -> LossBand | None:
        return loss_band(self.fit.usable)

    def _extrapolation(self, x: float) -> float:
        xs = [budget.x for budget in self.fit.usable]
        return bounded_exp(max(0.0, min(xs) - x, x - max(xs)))

    def _interval(self, law: PowerFit, x: float) -> list[float]:
        """The interval of the best size at exp(x) FLOPs."""
        if self.draws is None:
            return list(law.interval(x, self.confidence))
        exponent, level, mean = self.draws.law("params")
        return [bounded_exp(end) for end in percentiles(level + exponent * (x - mean), self.confidence)]

    def _tokens(self, x: float, y: float) -> float:
        """The tokens that exp(x) FLOPs pay for at exp(y) parameters, so that a predicted pair spends its budget exactly.

        Two power laws of N_opt and D_opt cannot do so where a token costs k1 N + k2 FLOPs.
        """
        return bounded_exp(x - float(self.fit.runs.cost.log_flops_per_token(np.array(y))))

    def _budget_for_params(self, law: PowerFit, y: float) -> tuple[float | None, list[float] | None]:
        """The log budget at which this size is the best, and its interval, where the band of the law has it (Fieller)."""
        if law.exponent <= 0:
            return None, None
        x = law.x_mean + (y - law.level) / law.exponent
        if not abs(x) < LARGEST_LOG:
            return None, None
        if self.draws is not None:
            exponent, level, mean = self.draws.law("params")
            return x, [bounded_exp(end) for end in percentiles(mean + (y - level) / exponent, self.confidence)]
        return x, self._crossings(lambda at: law.ends(at - law.x_mean, self.confidence), y, x)

    def _budget_for_loss(self, loss: float) -> tuple[float | None, list[float] | None]:
        band = self._loss
        x = band.law.log_flops(loss) if band else None
        if band is None or x is None or not abs(x) < LARGEST_LOG:
            return None, None
        if self.loss_draws is None:  # the loss falls
            return x, self._crossings(lambda at: [-end for end in band.ends(at, self.confidence)][::-1], -loss, x)
        whole = np.isfinite(self.loss_draws.loss).all(axis=1)
        laws = fit_loss_laws(self.loss_draws.x[whole], self.loss_draws.loss[whole])
        if sum(drawn is None for drawn in laws) > (1 - self.confidence) / 2 * len(laws):
            return x, None  # too many resamples leave E open
        reached = [drawn.log_flops(loss) if drawn else None for drawn in laws]
        # A resample that never reaches the loss stands for an infinite budget.
        values = np.array([math.inf if value is None else value for value in reached])
        low, high = np.sort(values)[
            [int((1 - self.confidence) / 2 * len(values)), -1 - int((1 - self.confidence) / 2 * len(values))]
        ]
        return x, [bounded_exp(float(low)), bounded_exp(float(high))]

    def _crossings(self, ends: Ends, value: float, x: float) -> list[float]:
        """The budgets at which the upper and the lower end of a rising band about its middle at x have this value (Fieller)."""
        upper, lower = (lambda at, which=which: float(ends(at)[which]) - value for which in (1, 0))
        return [bounded_exp(crossing(upper, x, 1)), bounded_exp(crossing(lower, x, -1))]

    def _flat_region(self, y: float, x: float) -> list[float]:
        xs = np.array([budget.x for budget in self.fit.usable])
        ratios = np.log([budget.curvature / budget.loss for budget in self.fit.usable])
        slope, level, mean = slope_and_level(xs, ratios)
        log_ratio = float(level + slope * (x - mean))
        half = math.sqrt(self.flat) * bounded_exp(-0.5 * log_ratio)  # infinite without curvature
        return [bounded_exp(y - half), bounded_exp(y + half)]
