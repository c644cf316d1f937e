"""Predictions of a fitted law for given budgets, sizes or losses, with intervals and the flat region.

The flat region holds the sizes whose loss is at most (1 + t) times the least loss L. With curvature c it reaches
sqrt(t L / c) to either side of the minimum in log N. Beyond the sampled budgets, c / L is extrapolated as a power of C and
the least loss as L = E + K / C^gamma.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.scaling.bootstrap import Resamples, percentiles
from analyses.scaling.findings import Finding
from analyses.scaling.isoflop import IsoflopFit, PowerFit, slope_and_level
from analyses.scaling.parabola import bounded_exp
from analyses.scaling.refusals import LARGEST_LOG

SharedShape = Any  # analyses.scaling.shared_shape, which imports this module

EXTRAPOLATION = 100.0  # a prediction more than so many times beyond the sampled budgets has a warning


@dataclass(frozen=True)
class LossLaw:
    """L = E + K / C^gamma, fitted to the least losses of the budgets."""

    E: float
    K: float
    gamma: float

    def at(self, x: float) -> float:
        return self.E + self.K * bounded_exp(-self.gamma * x)

    def log_flops(self, loss: float) -> float | None:
        """log C at which the law has this loss, or None where it has it nowhere."""
        return math.log(self.K / (loss - self.E)) / self.gamma if self.K > 0 and loss > self.E else None


GAMMAS = np.exp(np.linspace(math.log(0.005), math.log(1.5), 100))


def fit_loss_laws(x: np.ndarray, loss: np.ndarray) -> list[LossLaw | None]:
    """A law for each row of x and loss (R, B) by least squares; None for fewer than 4 budgets, or losses that do not fall.

    For a given gamma, E and K are linear (variable projection). Only gamma is searched, on finer and finer grids.
    """
    if x.shape[1] < 4:
        return [None] * len(x)
    center = x.mean(axis=1, keepdims=True)
    best, found = np.full(len(x), np.inf), np.ones((len(x), 3))

    def attempt(gamma: np.ndarray) -> None:
        """Keep each of these gammas (R,) that fits better."""
        f = np.exp(-gamma[:, None] * (x - center))
        mean = f.mean(axis=1)
        f = f - mean[:, None]
        level = loss.mean(axis=1)
        k = (f * (loss - level[:, None])).sum(axis=1) / (f * f).sum(axis=1)
        rss = ((loss - level[:, None] - k[:, None] * f) ** 2).sum(axis=1)
        e = level - k * mean
        better = (rss < best) & (k > 0) & (e >= 0)
        best[better] = rss[better]
        found[better] = np.stack([e, k, gamma], axis=1)[better]

    with np.errstate(all="ignore"):
        for gamma in GAMMAS:
            attempt(np.full(len(x), gamma))
        step = math.log(GAMMAS[1] / GAMMAS[0])
        while step > 1e-9:
            middle = found[:, 2].copy()
            for part in np.linspace(-1, 1, 9):
                attempt(middle * math.exp(part * step))
            step /= 4
    laws: list[LossLaw | None] = []
    for (e, k, gamma), rss, c in zip(found, best, center[:, 0], strict=True):
        # An E that is pushed to 0 is not determined: two parameters would pass for three.
        inside = math.isfinite(rss) and GAMMAS[0] < gamma < GAMMAS[-1] and e > 1e-6
        laws.append(LossLaw(float(e), float(k) * bounded_exp(float(gamma * c)), float(gamma)) if inside else None)
    return laws


def extrapolation(flops: float, factor: float) -> Finding:
    """The warning that a prediction lies so many times beyond the sampled budgets."""
    reason = f"{flops:.4g} FLOPs lie {factor:.4g} times beyond the sampled budgets: the interval holds only if the law goes on"
    return Finding("extrapolation", reason, budget=flops)


@dataclass(frozen=True)
class Predictor:
    """Predictions of the quadratic method. With `draws` None the intervals are those of the delta method."""

    fit: IsoflopFit
    draws: Resamples | None
    loss_draws: Resamples  # for intervals of budgets at which a loss is reached
    confidence: float
    flat: float
    shape: SharedShape | None = None  # whose least losses are fitted, instead of the parabolas'

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
            return {"asked": asked, "value": value}, [Finding(f"unreachable_{asked}", reason)]
        loss_law = self._loss_law()
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
        if self.shape is not None and loss_law is not None and asked != "loss":
            row["loss_interval"] = list(self.shape.loss_interval(loss_law, x, self.confidence))
        findings = []
        if factor > EXTRAPOLATION * (1 + 1e-9):
            findings.append(extrapolation(row["flops"], factor))
        return row, findings

    def _loss_law(self) -> LossLaw | None:
        if self.shape is not None:
            return self.shape.loss_law()
        budgets = self.fit.usable
        points = np.array([[budget.x for budget in budgets]]), np.array([[budget.loss for budget in budgets]])
        return fit_loss_laws(*points)[0]

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
        return x, [bounded_exp(self._crossing(law, y, x, side)) for side in (1, -1)]

    def _crossing(self, law: PowerFit, y: float, x: float, side: int) -> float:
        """The log budget at which the upper (1) or lower (-1) end of the band reaches y; infinite where it never does."""

        def gap(at: float) -> float:
            low, high = law.ends(at - law.x_mean, self.confidence)
            return float(high if side > 0 else low) - y

        near, far = x, x - side * 0.01
        while gap(far) * side > 0:
            near, far = far, x - 2 * (x - far)
            if abs(far - x) > 1000:
                return -side * math.inf
        for _ in range(80):
            middle = (near + far) / 2
            near, far = (middle, far) if gap(middle) * side > 0 else (near, middle)
        return far

    def _budget_for_loss(self, loss: float) -> tuple[float | None, list[float] | None]:
        law = self._loss_law()
        x = law.log_flops(loss) if law else None
        if x is None:
            return None, None
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

    def _flat_region(self, y: float, x: float) -> list[float]:
        xs = np.array([budget.x for budget in self.fit.usable])
        ratios = np.log([budget.curvature / budget.loss for budget in self.fit.usable])
        slope, level, mean = slope_and_level(xs, ratios)
        log_ratio = float(level + slope * (x - mean))
        half = math.sqrt(self.flat) * bounded_exp(-0.5 * log_ratio)  # infinite without curvature
        return [bounded_exp(y - half), bounded_exp(y + half)]
