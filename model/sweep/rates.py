"""Laws of the best learning rate and batch, as `hunyuan scale-fit --rates` writes and a sweep or a plan reads them. No torch.

    rate  = coefficient * N^params * D^tokens * B^batch_tokens
    batch = coefficient * N^params * D^tokens

N activated parameters, D tokens, B tokens of a batch; an exponent that the runs do not tell of is 0.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import HunyuanError

VARIABLES = ("params", "tokens", "batch_tokens")
TOKENS_PER_PARAM = 20.0  # of a compute-optimal run, Hoffmann et al. 2022; a token of it costs 6 N FLOPs


@dataclass(frozen=True)
class HyperLaw:
    """A power of several variables."""

    coefficient: float
    exponents: Mapping[str, float]  # by VARIABLES

    def __call__(self, **variables: float) -> float:
        logs = sum(power * math.log(variables[name]) for name, power in self.exponents.items() if power)
        return math.exp(max(-700.0, min(700.0, math.log(self.coefficient) + logs)))


@dataclass(frozen=True)
class RateLaws:
    name: str  # of the file
    learning_rate: HyperLaw
    batch_tokens: HyperLaw | None
    valid: Mapping[str, tuple[float, float]]  # of params and tokens in the runs behind the laws

    def beyond(self, params: float, tokens: float) -> float:
        """The factor by which a run lies outside of those behind the laws, in N or in D: 1 inside of them."""
        found = 1.0
        for name, value in (("params", params), ("tokens", tokens)):
            low, high = self.valid.get(name, (value, value))
            found = max(found, low / value, value / high)
        return found

    def sweep_rules(self) -> dict[str, dict[str, float]]:
        """The tables [sweep.learning_rate] and, where there is a law of it, [sweep.batch_tokens].

        All sizes of a budget share a batch: that of the run with 20 tokens a parameter.
        """
        powers = self.learning_rate.exponents
        at = {name: math.sqrt(low * high) for name, (low, high) in self.valid.items()}
        at = {"params": 1.2e6, "tokens": 2.4e7, "batch_tokens": 4096.0} | at
        rules = {
            "learning_rate": {
                "value": self.learning_rate(**at),
                "at_params": at["params"], "params_exponent": powers.get("params", 0.0),
                "at_batch_tokens": at["batch_tokens"], "batch_exponent": powers.get("batch_tokens", 0.0),
                "at_tokens": at["tokens"], "tokens_exponent": powers.get("tokens", 0.0),
            }
        }  # fmt: skip
        if self.batch_tokens is not None:
            flops = 6 * at["params"] ** 2 * TOKENS_PER_PARAM
            both = self.batch_tokens.exponents
            rules["batch_tokens"] = {
                "value": self.batch_tokens(params=at["params"], tokens=TOKENS_PER_PARAM * at["params"]),
                "at_flops": flops, "exponent": (both.get("params", 0.0) + both.get("tokens", 0.0)) / 2,
            }  # fmt: skip
        return rules


def read_rates(path: str | Path) -> RateLaws:
    """The laws in a JSON document of `hunyuan scale-fit --rates`; HunyuanError says what is wrong."""
    advice = "give the document that hunyuan scale-fit --rates --format json writes"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HunyuanError(f"the rates '{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HunyuanError(f"the rates '{path}' are no JSON document: {advice}") from error
    part = document.get("rates") if isinstance(document, dict) else None
    rate = _law(part.get("learning_rate")) if isinstance(part, dict) else None
    if not isinstance(part, dict) or rate is None:
        raise HunyuanError(f"'{path}' has no law of the learning rate: {advice}")
    valid = {
        name: (float(ends[0]), float(ends[1]))
        for name, ends in (part.get("valid") or {}).items()
        if name in VARIABLES and isinstance(ends, list) and len(ends) == 2 and all(map(_positive, ends))
    }
    return RateLaws(str(path), rate, _law(part.get("batch_tokens")), valid)


def _law(part: Any) -> HyperLaw | None:
    if (
        not isinstance(part, dict)
        or not _positive(part.get("coefficient"))
        or not isinstance(part.get("exponents"), dict)
    ):
        return None
    powers = {name: part["exponents"].get(name, 0.0) for name in VARIABLES}
    if not all(isinstance(power, int | float) and math.isfinite(power) for power in powers.values()):
        return None
    return HyperLaw(float(part["coefficient"]), {name: float(power) for name, power in powers.items()})


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e300
