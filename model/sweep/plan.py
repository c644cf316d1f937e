"""The plan of a sweep: budgets x sizes x seeds, and the rules that give each cell its length, batch and learning rate.

    [model]                  changes to every size            \\
    [data]                   as in a run file                  |  the same for every cell
    [training]               but for what the rules decide    /
    [sweep]                  budgets, sizes, tokens_per_param, seeds, times, keep_checkpoints
    [sweep.learning_rate]    value * (N / at_params)^params_exponent * (B / at_batch_tokens)^batch_exponent
    [sweep.batch_tokens]     value * (C / at_flops)^exponent, to the nearest power of two of sequences

C FLOPs of a cell's budget, N activated parameters, B tokens of a batch. Each rule may have `factors`: the grid is then that of
every batch and every rate as well, which tunes the rules. No torch.
"""

import dataclasses
import itertools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from model.config.hunyuan import HunyuanConfig
from model.config.presets import LADDER
from model.counts import activated_params, parameter_counts, total_params, training_flops_per_token
from model.data.config import DataConfig
from model.errors import ConfigError
from model.sweep.config import SweepConfig, refuse_unknown
from model.training.config import TrainingConfig
from model.training.settings import RunSettings

SECTIONS = ("model", "data", "training", "sweep")
RULES = ("learning_rate", "batch_tokens")
WINDOW = (0.25, 100.0)  # tokens per activated parameter, where a plan names neither sizes nor a window
LOG_LINES = 100  # of a cell's metrics, about, where training.log_every is left out
DECIDED = {  # training keys that a plan cannot set, and who does
    "steps": "sweep.budgets", "tokens": "sweep.budgets", "flops": "sweep.budgets", "seed": "sweep.seeds",
    "learning_rate": "[sweep.learning_rate]", "global_batch_tokens": "[sweep.batch_tokens]",
    "init_from": "the sweep, whose cells begin with random weights",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    budget: float  # FLOPs, nominal
    size: str  # the preset
    settings: RunSettings
    batch_factor: float = 1.0  # of the rule's batch
    rate_factor: float = 1.0  # of the rule's learning rate

    @property
    def id(self) -> str:
        batch = "" if self.batch_factor == 1 else f"_b{self.batch_factor:g}"
        rate = "" if self.rate_factor == 1 else f"_lr{self.rate_factor:g}"
        return f"{short(self.budget)}_{self.size}_s{self.seed}{batch}{rate}"

    @property
    def seed(self) -> int:
        return self.settings.training.seed

    @property
    def activated(self) -> int:
        return activated_params(self.settings.model)

    @property
    def activated_without_embedding(self) -> int:
        """Activated parameters less the embedding, and less the head where it is not tied to it."""
        counts = parameter_counts(self.settings.model)
        return self.activated - counts["embedding"].activated - counts["head"].activated

    @property
    def total(self) -> int:
        return total_params(self.settings.model)

    @property
    def flops_per_token(self) -> int:
        return training_flops_per_token(self.settings.model, self.settings.training.sequence_length)

    @property
    def tokens(self) -> int:
        return self.settings.training.steps * self.settings.training.global_batch_tokens

    @property
    def flops(self) -> int:
        """Training FLOPs of the whole steps, exact."""
        return self.tokens * self.flops_per_token


@dataclass(frozen=True)
class SweepPlan:
    """A resolved plan; to_toml and from_sections are inverse to each other."""

    model: dict[str, Any]  # changes to every size
    data: DataConfig
    training: dict[str, Any]  # TrainingConfig's settings but for DECIDED; log_every may be left out
    sweep: SweepConfig

    @classmethod
    def from_sections(cls, sections: dict[str, Any]) -> Self:
        """A plan from the sections of its file, every mistake told at once, as a ConfigError."""
        if "stages" in sections:
            raise ConfigError([
                "[[stages]] have no place in a sweep, whose cells have one context and one rule of rates, so that their losses "
                "compare: leave them out, and lengthen a finished cell with hunyuan train --init-from"
            ])  # fmt: skip
        problems = [
            f"[{name}] is not a section of a plan: known are {', '.join(SECTIONS)}"
            for name in sections
            if name not in SECTIONS
        ]
        problems += [f"{n} must be a table: write [{n}]" for n, s in sections.items() if not isinstance(s, dict)]
        if problems:
            raise ConfigError(problems)
        parts: dict[str, Any] = {}
        for name, make in {
            "model": _model,
            "data": _data,
            "training": _training,
            "sweep": SweepConfig.from_table,
        }.items():
            try:
                parts[name] = make(dict(sections.get(name, {})))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        plan = cls(**parts)
        plan.cells()  # its problems, too, are told here
        return plan

    def to_sections(self) -> dict[str, dict[str, Any]]:
        sections = {"model": self.model, "data": dataclasses.asdict(self.data), "training": self.training}
        return sections | {"sweep": dataclasses.asdict(self.sweep)}

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_sections())

    def cells(self) -> list[Cell]:
        """The grid in its order: budget, activated parameters, seed, batch, rate. ConfigError where it is none."""
        problems: list[str] = []
        models: dict[str, HunyuanConfig] = {}
        for size in self.sweep.sizes or [f"ladder-{width}" for width in LADDER]:
            try:
                models[size] = HunyuanConfig.from_name(size, **self.model)
            except ConfigError as error:
                problems += error.problems
        vocabularies = {config.vocab_size for config in models.values()}
        if len(vocabularies) > 1:  # a loss in nats per token compares nothing across tokenizers
            sizes = ", ".join(map(str, sorted(vocabularies)))
            problems.append(f"the sizes have vocabularies of {sizes}: set one for all with model.vocab_size")
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        cells: list[Cell] = []
        for budget in self.sweep.nominal_budgets:
            chosen = [size for size, config in models.items() if self._in_window(budget, config)]
            if not chosen:
                problems.append(self._no_size(budget))
            chosen.sort(key=lambda size: (activated_params(models[size]), size))
            for size in chosen:
                for seed, (batch, rate) in itertools.product(sorted(self.sweep.seeds), self._factors):
                    try:
                        cells.append(self._cell(budget, size, seed, batch, rate))
                    except ConfigError as error:
                        problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return cells

    @property
    def _factors(self) -> list[tuple[float, float]]:
        """Of batch and rate."""
        return list(
            itertools.product(sorted(self.sweep.batch_tokens.factors), sorted(self.sweep.learning_rate.factors))
        )

    @property
    def _window(self) -> tuple[float, ...]:
        return self.sweep.tokens_per_param or (() if self.sweep.sizes else WINDOW)

    def _in_window(self, budget: float, config: HunyuanConfig) -> bool:
        if not self._window:
            return True
        tokens = budget / training_flops_per_token(config, self.training["sequence_length"])
        least, most = self._window
        return least <= tokens / activated_params(config) <= most

    def _no_size(self, budget: float) -> str:
        least, most = self._window
        return (
            f"no size has between {least:g} and {most:g} tokens per activated parameter at a budget of {short(budget)} "
            "FLOPs: change the budget, sweep.tokens_per_param or sweep.sizes"
        )

    def _cell(self, budget: float, size: str, seed: int, batch_factor: float, rate_factor: float) -> Cell:
        length = self.training["sequence_length"]
        sequences = self.sweep.batch_tokens.sequences(budget, length, batch_factor)
        batch_tokens = sequences * length
        config = HunyuanConfig.from_name(size, **self.model)
        steps = max(1, round(budget / (training_flops_per_token(config, length) * batch_tokens)))
        decided = {
            "steps": steps,
            "global_batch_tokens": batch_tokens,
            "micro_batch_size": min(self.training["micro_batch_size"], sequences),
            "learning_rate": self.sweep.learning_rate.rate(activated_params(config), batch_tokens, rate_factor),
            "seed": seed,
            "log_every": self.training.get("log_every", max(1, steps // LOG_LINES)),
        }
        decided["learning_rate"] *= self.sweep.learning_rate.by_tokens(steps * batch_tokens)
        sections = {"model": {"preset": size, **self.model}, "training": self.training | decided}
        settings = RunSettings.from_sections(sections | {"data": dataclasses.asdict(self.data)})
        return Cell(budget, size, settings, batch_factor, rate_factor)


def short(budget: float) -> str:
    """A budget as its cells are named: 1e+15, 2.5e+14, to 12 digits."""
    digits, exponent = f"{budget:.11e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{exponent}"


def read_plan(path: str | Path) -> dict[str, Any]:
    """The sections of a plan file, unchecked; ConfigError when it cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"plan {path} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"plan {path} is not valid TOML: {error}"]) from error


def override(sections: dict[str, Any], assignment: str) -> None:
    """Applies `section.key=value` or `sweep.RULE.key=value` in place; the value is read as TOML, else as plain text."""
    name, equals, text = assignment.partition("=")
    *tables, key = (part.strip() for part in name.split("."))
    nested = len(tables) == 2 and tables[0] == "sweep" and tables[1] in RULES
    if not (equals and key and tables and tables[0] in SECTIONS and (len(tables) == 1 or nested)):
        raise ConfigError([
            f"--set {assignment} is not section.key=value: the sections are {', '.join(SECTIONS)}, "
            "sweep.learning_rate and sweep.batch_tokens"
        ])  # fmt: skip
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = sections
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError([f"{part} must be a table: write [{'.'.join(tables)}]"])
    table[key] = value


# --- the sections -----------------------------------------------------------------------------------------------------


def _model(values: dict[str, Any]) -> dict[str, Any]:
    if "preset" in values:
        raise ConfigError(["model.preset cannot be set in a plan: name the presets in sweep.sizes"])
    return values  # checked with each size, in cells()


def _data(values: dict[str, Any]) -> DataConfig:
    refuse_unknown(values, DataConfig, "data")
    return DataConfig(**values).absolute()


def _training(values: dict[str, Any]) -> dict[str, Any]:
    problems = [
        f"training.{k} is decided by {by}: leave it out of [training]" for k, by in DECIDED.items() if k in values
    ]
    values = {"evaluate_every": 0} | {key: value for key, value in values.items() if key not in DECIDED}
    resolved: dict[str, Any] = {}
    try:
        refuse_unknown(values, TrainingConfig, "training")
        length, micro = (values.get(k, getattr(TrainingConfig, k)) for k in ("sequence_length", "micro_batch_size"))
        batch = length * micro if isinstance(length, int) and isinstance(micro, int) else 1
        config = TrainingConfig(**values, global_batch_tokens=batch)
        resolved = {key: value for key, value in dataclasses.asdict(config).items() if key not in DECIDED}
        if micro & (micro - 1):
            problems.append(
                f"training.micro_batch_size is {micro}: a batch is a power of two of sequences, so it must be one, such as "
                f"{2 ** (micro.bit_length() - 1)}"
            )
        if config.device not in ("auto", "cpu", "cuda"):
            problems.append(
                f"training.device is {config.device!r}: use auto, cpu or cuda, and choose devices with CUDA_VISIBLE_DEVICES"
            )
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    if "log_every" not in values:
        del resolved["log_every"]
    return resolved
