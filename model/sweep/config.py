"""The section [sweep] of a plan: which budgets, sizes and seeds, and the rules of batch and learning rate. No torch."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from model.config.checks import type_problems, unknown_key
from model.errors import ConfigError

LARGEST_BUDGET = 1e40  # FLOPs


@dataclass(frozen=True, kw_only=True)
class LearningRateRule:
    """The peak learning rate of a cell; the defaults are a place to begin, the best rate at the toy's size being 4e-3.

    The square roots are Adam's with the batch (arXiv:2411.02265, section on learning rates) and, with the ladder's width and
    depth, roughly 1 / width. Check them at the smallest and the largest size: a badly tuned rate bends the law.
    """

    value: float = 4e-3  # at at_params and at_batch_tokens
    at_params: float = 1.2e6  # activated parameters
    params_exponent: float = -0.5
    at_batch_tokens: float = 4096
    batch_exponent: float = 0.5
    at_tokens: float = 1e8  # of the run
    tokens_exponent: float = 0.0
    factors: tuple[float, ...] = (1.0,)  # a cell for each, at so many times the rule's rate: to tune it

    def __post_init__(self) -> None:
        _check(self, "sweep.learning_rate", positive=("value", "at_params", "at_batch_tokens", "at_tokens"))

    def rate(self, params: int, batch_tokens: int, factor: float = 1.0) -> float:
        by_size = self.params_exponent * math.log(params / self.at_params)
        by_batch = self.batch_exponent * math.log(batch_tokens / self.at_batch_tokens)
        return factor * self.value * math.exp(min(max(by_size + by_batch, -700.0), 700.0))

    def by_tokens(self, tokens: int) -> float:
        """The factor of the rate for a run of so many tokens."""
        return math.exp(min(max(self.tokens_exponent * math.log(tokens / self.at_tokens), -700.0), 700.0))


@dataclass(frozen=True, kw_only=True)
class BatchRule:
    """Tokens of a batch by the budget; the exponent is DeepSeek's, 0.3271 (arXiv:2401.02954)."""

    value: float = 4096  # tokens, at at_flops
    at_flops: float = 1e13
    exponent: float = 0.33
    factors: tuple[float, ...] = (1.0,)  # a cell for each, with so many times the rule's batch; powers of two

    def __post_init__(self) -> None:
        _check(self, "sweep.batch_tokens", positive=("value", "at_flops"))
        if odd := [factor for factor in self.factors if not math.log2(factor).is_integer()]:
            raise ConfigError([f"sweep.batch_tokens.factors has {odd[0]:g}: give powers of two, such as [0.5, 1, 2]"])

    def sequences(self, budget: float, sequence_length: int, factor: float = 1.0) -> int:
        """Sequences of a batch: the power of two nearest to the rule by ratio, times the factor, at least one."""
        power = math.log2(self.value / sequence_length) + self.exponent * math.log2(budget / self.at_flops)
        power = round(power) + math.log2(factor)
        return 2 ** min(40, max(0, round(power)))


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The section [sweep]; ConfigError lists every invalid value at once."""

    budgets: tuple[float, ...] = (1e13, 2e13, 4e13)  # training FLOPs by the exact count; half an hour a cell, at most
    sizes: tuple[str, ...] = ()  # names of model/config/presets.py; empty: every rung of the ladder inside the window
    tokens_per_param: tuple[float, ...] = ()  # least and most tokens per activated parameter; also thins out `sizes`
    seeds: tuple[int, ...] = (0,)
    times: float = 1.0  # every budget is multiplied by it, and the window moves the sizes along
    keep_checkpoints: bool = False  # of finished cells; the record of a cell stays in any case
    learning_rate: LearningRateRule = field(default_factory=LearningRateRule)
    batch_tokens: BatchRule = field(default_factory=BatchRule)

    def __post_init__(self) -> None:
        for name in ("budgets", "sizes", "tokens_per_param", "seeds"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)  # TOML gives lists
        problems = type_problems(self, "sweep")
        problems += _list_problems("budgets", self.budgets, _is_positive, "FLOPs above 0, such as [1e13, 3e13]")
        problems += _list_problems("seeds", self.seeds, _is_seed, "whole numbers from 0 up, such as [0, 1]")
        problems += _list_problems("sizes", self.sizes, _is_name, 'names, such as ["ladder-64"]')
        if not problems and not self.budgets:
            problems.append("sweep.budgets is empty: give FLOPs, such as [1e13, 3e13]")
        if not problems and not self.seeds:
            problems.append("sweep.seeds is empty: give one at least, such as [0]")
        window = self.tokens_per_param
        proper = isinstance(window, tuple) and (not window or (len(window) == 2 and all(map(_is_positive, window))))
        if not proper or (window and window[0] > window[1]):
            shown = list(window) if isinstance(window, tuple) else window
            problems.append(f"sweep.tokens_per_param is {shown!r}: give the least and the most, such as [4.0, 160.0]")
        if not any("sweep.times" in problem for problem in problems) and self.times <= 0:
            problems.append(f"sweep.times is {self.times}: it must be above 0")
        if not problems and max(self.budgets) * self.times > LARGEST_BUDGET:
            problems.append(
                f"sweep.budgets reach {max(self.budgets) * self.times:g} FLOPs: give at most {LARGEST_BUDGET:g}"
            )
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_table(cls, values: dict[str, Any]) -> Self:
        """The section as TOML gives it, with the tables of its rules; unknown keys are refused by name."""
        values = dict(values)
        problems: list[str] = []
        rules: dict[str, Any] = {}
        kinds: dict[str, Callable[..., Any]] = {"learning_rate": LearningRateRule, "batch_tokens": BatchRule}
        for name, kind in kinds.items():
            table = values.pop(name, {})
            try:
                if not isinstance(table, dict):
                    raise ConfigError([f"sweep.{name} is {table!r}: it is a rule, write sweep.{name}.value"])
                refuse_unknown(table, kind, f"sweep.{name}")
                rules[name] = kind(**table)
            except ConfigError as error:
                problems += error.problems
        try:
            refuse_unknown(values, cls, "sweep")
            config = cls(**values)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        return dataclasses.replace(config, **rules)

    @property
    def nominal_budgets(self) -> list[float]:
        """FLOPs, `times` included, in order; rounded to 12 digits, so that 3 * 0.1 and 0.3 are one budget."""
        return sorted({float(f"{budget * self.times:.11e}") for budget in self.budgets})


def refuse_unknown(values: Iterable[str], kind: Any, section: str) -> None:
    """ConfigError for keys that the dataclass `kind` has not, each with the nearest known one."""
    known = [f.name for f in dataclasses.fields(kind)]
    problems = [unknown_key(key, known, section) for key in values if key not in known]
    if problems:
        raise ConfigError(problems)


def _check(rule: Any, section: str, positive: tuple[str, ...]) -> None:
    """Refuses a rule that is none; its factors become a tuple, where TOML gives a list."""
    if isinstance(rule.factors, list):
        object.__setattr__(rule, "factors", tuple(rule.factors))
    problems = type_problems(rule, section)
    problems += _list_problems("factors", rule.factors, _is_positive, "numbers above 0, such as [0.5, 1, 2]", section)
    if not problems and not rule.factors:
        problems.append(f"{section}.factors is empty: give one at least, such as [1.0]")
    problems = problems or [
        f"{section}.{name} is {getattr(rule, name)}: it must be above 0"
        for name in positive
        if getattr(rule, name) <= 0
    ]
    if problems:
        raise ConfigError(problems)


def _list_problems(
    name: str, value: Any, fits: Callable[[Any], bool], expected: str, section: str = "sweep"
) -> list[str]:
    if not (isinstance(value, tuple) and all(map(fits, value))):
        shown = list(value) if isinstance(value, tuple) else value
        return [f"{section}.{name} is {shown!r}: give a list of {expected}"]
    if len(set(value)) < len(value):
        return [f"{section}.{name} names {next(v for v in value if value.count(v) > 1)} twice: name each once"]
    return []


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_name(value: Any) -> bool:
    return isinstance(value, str)
