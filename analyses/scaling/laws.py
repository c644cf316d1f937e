"""Scaling laws: the best parameters and tokens for a budget, N_opt and D_opt, as powers of the FLOPs.

LAWS["paper"].n_opt(3.1e24)   the report's 58.1B
read_law("LAW.json")          the law that `hunyuan scale-fit --format json` wrote
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from model.errors import HunyuanError

LOSS_REACH = 1000.0  # factor beyond a law's budgets up to which their least losses are continued


@dataclass(frozen=True)
class PowerLaw:
    """coefficient * flops ** exponent, both above 0."""

    coefficient: float
    exponent: float

    def __call__(self, flops: float) -> float:
        # Every law has a finite value at every budget: e^700 is near the largest float.
        return math.exp(max(-700.0, min(700.0, math.log(self.coefficient) + self.exponent * math.log(flops))))

    def inverse(self, value: float) -> float:
        """The FLOPs at which the law has this value."""
        return (value / self.coefficient) ** (1 / self.exponent)


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    name: str
    n_opt: PowerLaw
    d_opt: PowerLaw
    source: str
    of: str  # what its FLOPs and its parameters count
    cost: tuple[float, float] | None = None  # a, b: a token costs a * N + b FLOPs, where known
    valid: tuple[float, float] | None = None  # FLOPs of the smallest and the largest budget behind it, where known
    losses: tuple[tuple[float, float], ...] = ()  # FLOPs and least loss of its budgets, by rising FLOPs, where known

    def beyond(self, flops: float) -> float:
        """The factor by which a budget lies outside of those behind the law: 1 inside of them."""
        low, high = self.valid or (flops, flops)
        return max(1.0, low / flops, flops / high)

    def loss_at(self, flops: float) -> float | None:
        """The least loss of a budget: a line between the logs of its budgets, and on beyond them up to a factor LOSS_REACH.

        None where the budgets tell nothing: fewer than two, losses that do not fall, or too far away.
        """
        if len(self.losses) < 2 or self.beyond(flops) > LOSS_REACH:
            return None
        pairs = list(zip(self.losses, self.losses[1:], strict=False))
        (x, loss), (further, lower) = next((pair for pair in pairs if flops <= pair[1][0]), pairs[-1])
        power = math.log(lower / loss) / math.log(further / x)
        return loss * (flops / x) ** power if power < 0 else None


@dataclass(frozen=True)
class Surface:
    """L(N, D) = E + A / N^alpha + B / D^beta in nats per token; Hoffmann et al. 2022, arXiv:2203.15556, approach 3."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params: Any, tokens: Any) -> Any:
        """The loss at numbers, or at arrays that broadcast."""
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta

    @property
    def exponents(self) -> tuple[float, float]:
        """The exponents of N_opt and D_opt in C, for a cost proportional to N D (ibid., equation 4)."""
        both = self.alpha + self.beta
        return self.beta / both, self.alpha / both

    def laws(self, flops_per_param_token: float = 6.0) -> tuple[PowerLaw, PowerLaw]:
        """The power laws of N_opt and D_opt where C = k N D: N_opt = G (C / k)^a and D_opt = (C / k)^b / G (ibid.)."""
        a, b = self.exponents
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return PowerLaw(scale / flops_per_param_token**a, a), PowerLaw(1 / (scale * flops_per_param_token**b), b)


# Hoffmann et al. 2022 (arXiv:2203.15556, approach 3) as fitted again by Besiroglu et al. 2024 (arXiv:2404.10102), who found
# that the published coefficients are not those of the data.
CHINCHILLA = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
_CHINCHILLA_N, _CHINCHILLA_D = CHINCHILLA.laws()

LAWS = {
    "paper": ScalingLaw(
        name="paper",
        n_opt=PowerLaw(5.9e-3, 0.5305),
        d_opt=PowerLaw(3.2, 0.50),
        source="Hunyuan-Large, arXiv:2411.02265, figure 3: mixtures of 16 experts",
        of="C_min = (9.59 N + 2.3e8) D / (1 + B / B_crit), N the activated parameters, at a context of 8K",
        cost=(9.59, 2.3e8),
        # The sweep had 10M to 1B activated parameters and up to 100B tokens; the report names no budgets. These are the one
        # at which 10M are the best, and the cost of 1B on 100B tokens.
        valid=(PowerLaw(5.9e-3, 0.5305).inverse(10e6), (9.59 * 1e9 + 2.3e8) * 100e9),
    ),
    "chinchilla": ScalingLaw(
        name="chinchilla",
        n_opt=_CHINCHILLA_N,
        d_opt=_CHINCHILLA_D,
        source="the minimum at 6 N D = C of Hoffmann et al. 2022's loss surface as fitted by Besiroglu et al. 2024, "
        "arXiv:2404.10102",
        of="C = 6 N D, N all parameters of a dense model (here: the activated ones)",
        cost=(6.0, 0.0),
        valid=(6e18, 3e21),  # the isoFLOP budgets of Hoffmann et al.
    ),
}


def read_law(path: str | Path) -> ScalingLaw:
    """The law in a JSON document of `hunyuan scale-fit`; HunyuanError says what is wrong."""
    advice = "give the document that hunyuan scale-fit --format json writes"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HunyuanError(f"the law '{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HunyuanError(f"the law '{path}' is not a JSON document: {advice}") from error
    if not isinstance(document, dict) or not {"n_opt", "d_opt"} <= document.keys():
        raise HunyuanError(f"'{path}' has no n_opt and d_opt: {advice}")
    laws = [_power_law(document[name], name, str(path)) for name in ("n_opt", "d_opt")]
    rows = document["budgets"] if isinstance(document.get("budgets"), list) else []
    budgets = [row.get("c_min_flops", row.get("flops")) for row in rows if isinstance(row, dict)]
    flops = [value for value in budgets if _positive(value)]
    if not rows or len(flops) < len(rows):
        raise HunyuanError(f"'{path}' names no budgets with their flops: {advice}")
    cost = document.get("cost")
    per_param, fixed = (cost.get(key) if isinstance(cost, dict) else None for key in ("k1", "k2"))
    rule = (per_param, fixed) if _positive(per_param) and (fixed == 0 or _positive(fixed)) else None
    return ScalingLaw(
        name=str(path),
        n_opt=laws[0],
        d_opt=laws[1],
        source=f"fitted to {len(flops)} budgets by hunyuan scale-fit, method {document.get('method')}",
        of="C_min, and N as in the runs that were fitted"
        if document.get("c_min")
        else f"{f'C = ({rule[0]:.4g} N + {rule[1]:.3g}) D' if rule else 'C'} and N as in the runs that were fitted",
        cost=rule,
        valid=(min(flops), max(flops)),
        losses=_losses(rows),
    )


def _losses(rows: list[Any]) -> tuple[tuple[float, float], ...]:
    """FLOPs and least loss of the budgets that were used, by rising FLOPs."""
    found = {
        float(row.get("c_min_flops") or row["flops"]): float(row["loss_opt"])
        for row in rows
        if isinstance(row, dict) and row.get("used") is not False and _positive(row.get("loss_opt"))
    }
    return tuple(sorted(found.items()))


def _power_law(fit: Any, name: str, path: str) -> PowerLaw:
    if fit is None:
        raise HunyuanError(f"'{path}' has no {name}, for the fit was refused: its warnings say why")
    coefficient, exponent = (fit.get(key) if isinstance(fit, dict) else None for key in ("coefficient", "exponent"))
    if not _positive(coefficient) or not _positive(exponent):
        raise HunyuanError(f"'{path}': the coefficient and the exponent of {name} must be numbers above 0")
    return PowerLaw(float(coefficient), float(exponent))


def _positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e300
