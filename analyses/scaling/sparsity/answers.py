"""What a fitted law of sparsity says: exponents, power laws, and optima for budgets and losses, with intervals.

Intervals are those of the residual bootstrap, of exponents as they are and of all else in logs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.scaling.budgeting import Array, Budget, least_budget
from analyses.scaling.findings import Finding
from analyses.scaling.isoflop import slope_and_level
from analyses.scaling.options import Options
from analyses.scaling.parabola import bounded_exp
from analyses.scaling.predictions import EXTRAPOLATION, extrapolation
from analyses.scaling.robust import stretched
from analyses.scaling.sparsity.optimum import Best, Limits, optimum
from analyses.scaling.sparsity.runs import SparseRuns
from analyses.scaling.sparsity.surface import Form, SparsitySurface

SHOWN = 8  # ratios whose worth is told
AT_LIMIT = 1e-6  # in logs
DRAWS_OF_BUDGETS = 400  # for intervals of budgets, each found by bisection


@dataclass(frozen=True)
class Answers:
    """A law with the runs behind it, and what is asked of it."""

    study: SparseRuns
    surface: SparsitySurface
    options: Options

    @property
    def form(self) -> Form:
        return self.surface.form

    def limits(self, memory: float | None = None) -> Limits:
        """Ratios as in the runs; of granularity and shared experts the better end of the runs."""
        first = len(self.form.names) - len(self.form.covariates)
        ends = [
            float(values.max() if self.surface.theta[first + index] > 0 else values.min())
            for index, values in enumerate(self.study.variables.more)
        ]
        return Limits(float(self.study.ratio.min()), float(self.study.ratio.max()), memory, tuple(ends))

    def _budget(self, flops: float, served: float = 0.0) -> Budget:
        cost = self.study.runs.cost
        return Budget(flops, cost.k1, cost.k2, served)

    def _interval(self, value: float, draws: Array) -> list[float]:
        return stretched(value, draws, self.surface.fit.degrees, self.options.confidence)

    def _sizes(self, value: float, draws: Array) -> list[float]:
        return [bounded_exp(end) for end in self._interval(value, draws)]

    def part(self) -> dict[str, Any]:
        """The law itself."""
        fit, names = self.surface.fit, self.form.names
        written, drawn = self.form.written(fit.theta[None])[0], self.form.written(self.surface.draws)
        logs = np.log(written[:3]), np.log(np.maximum(drawn[:, :3], 1e-300))
        intervals = {name: self._sizes(float(logs[0][i]), logs[1][:, i]) for i, name in enumerate(names[:3])}
        intervals |= {
            name: self._interval(float(written[i]), drawn[:, i]) for i, name in enumerate(names) if i >= len(logs[0])
        }
        x, r, y = self.form.centre
        return dict(zip(names, written.tolist(), strict=True)) | {
            "form": "E + A / (N^alpha R^gamma) + B / D^beta" if not self.form.interaction else "as Ludziejewski et al. 2025",
            "R": "total by activated parameters" if self.study.by == "total_params" else "number of experts",
            "intervals": intervals,
            "centre": {"params": math.exp(x), "ratio": math.exp(r), "tokens": math.exp(y)},
            "ratios": [float(self.study.ratio.min()), float(self.study.ratio.max())],
            "noise_sd": fit.noise, "noise_degrees": fit.degrees, "runs": len(fit.residuals),
            "starts": fit.starts, "starts_agreeing_fraction": fit.agreeing / fit.starts,
            "worth": self._worth(),
        }  # fmt: skip

    def _worth(self) -> list[dict[str, Any]]:
        """For the ratios that were run: how many times more parameters a dense model needs for the same loss, at the centre.

        That is R^(gamma / alpha), the effective parameters of Clark et al. 2022.
        """
        ratios = np.unique(np.round(self.study.ratio, 3))
        if len(ratios) > SHOWN:
            ratios = np.geomspace(ratios[0], ratios[-1], SHOWN)
        rows = []
        power, drawn = (theta[..., 5] / theta[..., 3] for theta in (self.surface.theta, self.surface.draws))
        for ratio in ratios.tolist():
            log = math.log(ratio)
            rows.append({"ratio": ratio, "params_factor": bounded_exp(float(power) * log),
                         "params_factor_interval": self._sizes(float(power) * log, drawn * log)})  # fmt: skip
        return rows

    def law(self, of: str) -> dict[str, Any]:
        """The power law of N_opt ("x") or D_opt ("y") through the optima at the sampled budgets, at the sparsest ratio."""
        flops = np.unique(self.study.runs.flops)
        wide = 1.0 if flops[-1] > 2 * flops[0] else 3.0  # about a single budget
        at = np.linspace(math.log(flops[0] / wide), math.log(flops[-1] * wide), 5)
        theta = np.concatenate([self.surface.theta[None], self.surface.draws])
        best = [optimum(self.form, theta, self._budget(math.exp(value)), self.limits()) for value in at]
        logs = np.stack([getattr(one, of) for one in best if one is not None], axis=1)
        slope, level, mean = slope_and_level(np.tile(at, (len(logs), 1)), logs)
        coefficient = level - slope * mean
        return {
            "coefficient": bounded_exp(float(coefficient[0])), "exponent": float(slope[0]),
            "exponent_interval": self._interval(float(slope[0]), slope[1:]),
            "coefficient_interval": self._sizes(float(coefficient[0]), coefficient[1:]),
            "log10_coefficient": float(coefficient[0]) / math.log(10),
        }  # fmt: skip

    def budget(self, flops: float, runs: np.ndarray) -> dict[str, Any]:
        """The row of a sampled budget, whose runs are those of the mask."""
        row = self._row(flops, self.limits(), 0.0) or {}
        sizes, best = self.study.runs.params[runs], row.get("params_opt")
        return {
            "flops": flops, "n_runs": int(runs.sum()), "n_sizes": len(np.unique(sizes)), "used": True,
            "interior": best is not None and bool(sizes.min() <= best <= sizes.max()),
            **{name: row.get(name) for name in ("params_opt", "tokens_opt", "loss_opt", "params_interval", "tokens_interval")},
        }  # fmt: skip

    def predictions(self) -> tuple[list[dict[str, Any]], list[Finding]]:
        """The rows of --predict and --predict-loss under the limits asked for."""
        limits, served = self.limits(self.options.memory), self.options.served_tokens
        asked: list[tuple[str, float, float | None]] = [("flops", flops, flops) for flops in self.options.predict]
        asked += [("loss", loss, self._least_budget(loss, limits, served)) for loss in self.options.predict_loss]
        rows, findings = [], []
        for name, value, flops in asked:
            row = self._row(flops, limits, served) if flops is not None else None
            if row is None:
                what = f"a loss of {value:g}" if name == "loss" else f"{value:.4g} FLOPs"
                why = "no budget reaches it" if name == "loss" else "they, or the memory, leave no room for a model"
                findings.append(Finding(f"unreachable_{name}", f"no size for {what}: {why}", unanswered=True))
                continue
            row = {"asked": name} | row
            if name == "loss":
                row.pop("loss_interval")
                row["flops_interval"] = self._flops_interval(value, limits, served)
            rows.append(row)
            if row["extrapolation"] > EXTRAPOLATION * (1 + 1e-9):
                findings.append(extrapolation(row["flops"], row["extrapolation"]))
        return rows, findings

    def _row(self, flops: float, limits: Limits, served: float) -> dict[str, Any] | None:
        """The optimum for a budget, with intervals; None where there is none."""
        budget, theta = self._budget(flops, served), np.concatenate([self.surface.theta[None], self.surface.draws])
        best = optimum(self.form, theta, budget, limits)
        if best is None:
            return None
        total = best.x + best.r if self.study.by == "total_params" else best.r
        name = "total_params" if self.study.by == "total_params" else "experts"
        columns = {"params": best.x, name: total, "tokens": best.y, "loss": np.log(best.loss)}
        row: dict[str, Any] = {"flops": flops}
        row |= {f"{key}_opt": bounded_exp(float(values[0])) for key, values in columns.items()}
        row |= {f"{key}_interval": self._sizes(float(values[0]), values[1:]) for key, values in columns.items()}
        serving = budget.serving_flops(float(best.x[0]))
        used = np.log(self.study.runs.flops)
        beyond = max(0.0, used.min() - math.log(flops), math.log(flops) - used.max())
        return row | {
            "ratio_opt": bounded_exp(float(best.r[0])), "bound": self._bound(best, limits), "spends": "C",
            "training_flops": flops - serving, "serving_flops": serving, "extrapolation": bounded_exp(beyond),
        }  # fmt: skip

    @staticmethod
    def _bound(best: Best, limits: Limits) -> str | None:
        """What keeps the optimum from more experts: the memory, or the sparsest ratio that was run."""
        x, r = float(best.x[0]), float(best.r[0])
        if limits.memory is not None and x + r > math.log(limits.memory) - AT_LIMIT:
            return "memory"
        return "sparsest_run" if r > math.log(limits.high) - AT_LIMIT else None

    def _least_budget(self, loss: float, limits: Limits, served: float) -> float | None:
        """The FLOPs at which the least loss under the law is this one."""
        return self._reaching(loss, limits, served, self.surface.theta[None], lambda losses: float(losses[0]), 1e-10)

    def _flops_interval(self, loss: float, limits: Limits, served: float) -> list[float]:
        """Of the least budget for a loss: the budgets at which the ends of the loss's interval reach it.

        The least loss falls with the budget under every law, so an interval of the one is an interval of the other.
        """
        theta = np.concatenate([self.surface.theta[None], self.surface.draws[:DRAWS_OF_BUDGETS]])
        ends = []
        for side in (0, 1):

            def end(losses: Array, side: int = side) -> float:
                logs = np.log(losses)
                return math.exp(self._interval(float(logs[0]), logs[1:])[side])

            found = self._reaching(loss, limits, served, theta, end, 1e-4)
            ends.append(math.inf if found is None else found)
        return ends

    def _reaching(
        self,
        loss: float,
        limits: Limits,
        served: float,
        theta: Array,
        summary: Callable[[Array], float],
        precision: float,
    ) -> float | None:
        def least(log_flops: float) -> float | None:
            best = optimum(self.form, theta, self._budget(math.exp(log_flops), served), limits)
            return None if best is None else summary(best.loss)

        return least_budget(least, loss, precision)
