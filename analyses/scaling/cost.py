"""What training costs: FLOPs as a function of parameters and tokens, the same for a whole study."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.errors import HunyuanError

AGREES = 0.01  # relative error up to which a table's runs cost what a rule says: cells are rounded
ROUNDING = 1e-6  # relative error of numbers as tables write them in full


@dataclass(frozen=True)
class CostRule:
    """FLOPs = (k1 N + k2) D for N parameters and D tokens."""

    name: str
    k1: float
    k2: float = 0.0
    worst_fraction: float = 0.0  # of a rule taken from a table's own runs: its largest relative error there
    agrees_with: str | None = None  # of such a rule: 6nd, paper, k1,k2 (fitted), or None where it is only the nearest

    def log_flops_per_token(self, log_params: np.ndarray) -> np.ndarray:
        """log(FLOPs / D) at log N."""
        return np.logaddexp(math.log(self.k1) + log_params, math.log(self.k2) if self.k2 else -np.inf)

    def slope(self, log_params: np.ndarray) -> np.ndarray:
        """d log(FLOPs / D) / d log N."""
        return np.exp(math.log(self.k1) + log_params - self.log_flops_per_token(log_params))

    @property
    def is_own(self) -> bool:
        """Whether it stands for a table that has FLOPs, parameters and tokens of its own."""
        return self.name == "table"

    @property
    def holds(self) -> bool:
        """Whether the runs cost what it says; else tokens at a size are interpolated between the runs'."""
        return not self.is_own or self.agrees_with is not None

    def document(self) -> dict[str, Any]:
        own = {"worst_fraction": self.worst_fraction, "agrees_with": self.agrees_with} if self.is_own else {}
        return {"rule": self.name, "k1": self.k1, "k2": self.k2} | own


SIX_ND = CostRule("6nd", 6.0)
PAPER_COST = CostRule("paper", 9.59, 2.3e8)  # arXiv:2411.02265, figure 3: C = 9.59 N D + 2.3e8 D


def parse_cost(text: str) -> CostRule:
    """6nd, paper, or the K1,K2 of FLOPs = K1 N D + K2 D."""
    name = text.strip().lower()
    for rule in (SIX_ND, PAPER_COST):
        if name == rule.name:
            return rule
    try:
        k1, k2 = (float(part) for part in name.split(","))
    except ValueError:
        k1 = k2 = math.nan
    if not (0 < k1 < math.inf and 0 <= k2 < math.inf):
        raise HunyuanError(f"--cost '{text}' is not a rule: write 6nd, paper, or K1,K2 as in 9.59,2.3e8")
    return CostRule(f"{k1:g},{k2:g}", k1, k2)


def own_cost(params: np.ndarray, flops_per_token: np.ndarray) -> CostRule:
    """The cost rule of a table's own runs (n,): 6 N D or the report's if they fit as well as any other, else the best fit.

    The best k1 > 0 and k2 >= 0 have the least sum of squared relative errors.
    """
    k1, k2 = _nearest(params, flops_per_token)
    worst = _worst(k1, k2, params, flops_per_token)
    for rule in (SIX_ND, PAPER_COST):
        error = _worst(rule.k1, rule.k2, params, flops_per_token)
        if error <= AGREES and error <= max(ROUNDING, 2 * worst):  # what is left is rounding of the cells
            return CostRule("table", rule.k1, rule.k2, error, rule.name)
    return CostRule("table", k1, k2, worst, "k1,k2" if worst <= AGREES else None)


def _worst(k1: float, k2: float, params: np.ndarray, flops_per_token: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.abs(k1 * params / flops_per_token + k2 / flops_per_token - 1).max())


def _nearest(params: np.ndarray, flops_per_token: np.ndarray) -> tuple[float, float]:
    ones = np.ones_like(params)
    a, b = params / flops_per_token, ones / flops_per_token  # k1 a + k2 b = 1
    scale_a, scale_b = float(a.max()), float(b.max())  # so that no square overflows
    a, b = a / scale_a, b / scale_b
    aa, ab, bb, a1, b1 = (float((x * y).sum()) for x, y in ((a, a), (a, b), (b, b), (a, ones), (b, ones)))
    determinant = aa * bb - ab * ab
    k1, k2 = (a1 * bb - b1 * ab, b1 * aa - a1 * ab) if determinant > 1e-9 * aa * bb else (0.0, -1.0)
    k1, k2 = (k1 / determinant, k2 / determinant) if k2 >= 0 < k1 else (a1 / aa, 0.0)
    k1, k2 = k1 / scale_a, k2 / scale_b
    return k1, k2 if k2 > 1e-9 * k1 * float(params.min()) else 0.0  # rounding of a plain k1 N D
