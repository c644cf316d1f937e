"""The stages of a run: the tables [[stages]] of its run file, and what each of them makes of the other sections.

    [[stages]]
    name = "anneal"
    share = 0.05
    learning_rate = 4e-4
    final_learning_rate = 4e-5

A stage says what it changes; what it leaves out is as in [model], [data] and [training], whatever the stage before it said.
A step has the same tokens in all of them, so a longer context takes fewer sequences: the micro-batch follows it. A run without
stages has one, without a name. Every boundary is a checkpoint, from which the next stage goes on as a resumed run does.
"""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from model.config.checks import type_problems, unknown_key
from model.config.hunyuan import HunyuanConfig
from model.counts import training_flops_per_token
from model.data.config import DataConfig, absolute_source
from model.errors import ConfigError
from model.training.config import TrainingConfig
from model.training.schedule import learning_rate_ratio, part_of

RunSettings = Any  # model.training.settings, which imports this module: a run's model, data, training and stages


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One table [[stages]]: its length, and what it changes. 0 and empty: as in the other sections."""

    name: str
    tokens: int = 0  # of the stage, rounded up to whole steps
    share: float = 0.0  # or its share of the run's length; the shares add up to 1
    context: int = 0  # tokens of a sequence
    rope_theta: float = 0.0  # the base of RoPE
    alpha: float = 0.0  # or what it is scaled by, theta * alpha^(d / (d - 2))
    sources: tuple[str, ...] = ()  # the stage's text
    weights: tuple[float, ...] = ()  # share of the draws of each source; empty: in proportion to its tokens
    learning_rate: float = 0.0  # after the warm-up; 0: the schedule of [training], over the steps of the stage
    final_learning_rate: float | None = None  # of the last step, on a line from learning_rate; left out: learning_rate
    warmup_fraction: float = 0.0  # of the stage's steps, up to learning_rate
    recompute: bool | None = None

    def __post_init__(self) -> None:
        for name in ("sources", "weights"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)  # TOML gives lists
        label = f"stages.{self.name}"
        if problems := type_problems(self, label) or _problems(self, label):
            raise ConfigError(problems)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        known = [field.name for field in dataclasses.fields(cls)]
        if "name" not in values:
            raise ConfigError(["a table [[stages]] has no name: give it one, such as name = 'anneal'"])
        if unknown := [unknown_key(key, known, f"stages.{values['name']}") for key in values if key not in known]:
            raise ConfigError(unknown)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The keys that the stage sets."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, (value, default) in values.items()
            if value != default
        }

    def absolute(self) -> "StageConfig":
        return dataclasses.replace(self, sources=tuple(map(absolute_source, self.sources)))


@dataclass(frozen=True)
class Stage:
    """A stage with its place in the run: steps first .. end - 1, counted over the whole run."""

    config: StageConfig | None  # None: the only one of a run without stages
    number: int  # from 1
    of: int
    first: int
    end: int
    boundaries: tuple[int, ...]  # the steps after which stages end: their checkpoints stay
    flops_before: int
    settings: RunSettings  # of the stage: its model, its data, its training

    @property
    def name(self) -> str:
        return "" if self.config is None else self.config.name

    @property
    def steps(self) -> int:
        return self.end - self.first

    def flops(self, tokens: int) -> int:
        """Training FLOPs of the run until so many of its tokens, in this stage, have been learnt from."""
        training = self.settings.training
        per_token = training_flops_per_token(self.settings.model, training.sequence_length)
        return self.flops_before + (tokens - self.first * training.global_batch_tokens) * per_token

    def learning_rate(self, step: int) -> float:
        """The rate of step `step` (from 0, of the run): a pure function of the step's place in the stage."""
        inside, training, c = step - self.first, self.settings.training, self.config
        if c is None or not c.learning_rate:
            return training.learning_rate * learning_rate_ratio(training, inside, self.steps)
        warmup = math.ceil(part_of(self.steps, c.warmup_fraction))
        if inside < warmup:
            return c.learning_rate * (inside + 1) / warmup
        if c.final_learning_rate is None or self.steps - 1 == warmup:
            return c.learning_rate
        left = (self.steps - 1 - inside) / (self.steps - 1 - warmup)
        return c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * left

    def describe(self) -> str:
        """The stage in a line: its steps, its context and its rates."""
        training, model = self.settings.training, self.settings.model
        rates = f"{self.learning_rate(self.first):.3g} to {self.learning_rate(self.end - 1):.3g}"
        return (
            f"stage {self.number} of {self.of}, {self.name}: steps {self.first + 1:,} to {self.end:,}, context "
            f"{training.sequence_length:,} in micro-batches of {training.micro_batch_size}, RoPE base "
            f"{model.rope_base:,.0f}, learning rate {rates}"
        )


def stages_of(settings: RunSettings) -> list[Stage]:
    """The stages of a run in order; ConfigError for those that do not fit together or with the other sections."""
    per_token = training_flops_per_token(settings.model, settings.training.sequence_length)
    if not settings.stages:
        steps = settings.training.total_steps(per_token)
        return [Stage(None, 1, 1, 0, steps, (), 0, settings)]
    if problems := _plan_problems(settings):
        raise ConfigError(problems)
    stages: list[Stage] = []
    first, flops = 0, 0
    ends = _ends(settings)
    for config, end in zip(settings.stages, ends, strict=True):
        if end == first:
            raise ConfigError([f"stages.{config.name} has no step: raise its share, or the length of the run"])
        own = _stage_settings(settings, config)
        stage = Stage(config, len(stages) + 1, len(ends), first, end, tuple(ends), flops, own)
        stages.append(stage)
        first, flops = end, stage.flops(end * settings.training.global_batch_tokens)
    return stages


def stage_at(stages: list[Stage], step: int) -> Stage:
    """The stage that goes on after `step` steps; the last one of a run that is finished."""
    return next((stage for stage in stages if step < stage.end), stages[-1])


def corpus_of(settings: RunSettings) -> DataConfig:
    """The section [data] with the sources of all stages as its own: what is read before training."""
    if not settings.stages:
        return settings.data
    sources = (source for stage in settings.stages for source in stage.sources or settings.data.sources)
    return dataclasses.replace(settings.data, sources=tuple(dict.fromkeys(sources)), weights=())


def _ends(settings: RunSettings) -> list[int]:
    """The step after each stage."""
    batch = settings.training.global_batch_tokens
    if settings.stages[0].tokens:
        lengths = [-(-stage.tokens // batch) for stage in settings.stages]
        return [sum(lengths[: index + 1]) for index in range(len(lengths))]
    shares = [Fraction(repr(float(stage.share))) for stage in settings.stages]
    steps, whole = settings.training.total_steps(1), sum(shares)
    return [round(steps * sum(shares[: index + 1]) / whole) for index in range(len(shares))]


def _stage_settings(settings: RunSettings, c: StageConfig) -> RunSettings:
    training, problems = settings.training, []
    context = c.context or training.sequence_length
    if training.global_batch_tokens % context:
        problems.append(
            f"stages.{c.name}.context is {context}: a step has {training.global_batch_tokens} tokens "
            "(training.global_batch_tokens), which must be a multiple of it"
        )
    if c.rope_theta and c.alpha:
        problems.append(f"stages.{c.name} gives rope_theta and alpha: give one of them")
    if problems:
        raise ConfigError(problems)
    changes: dict[str, Any] = {
        "sequence_length": context,
        "micro_batch_size": micro_batch_size(training, context),
        "recompute": training.recompute if c.recompute is None else c.recompute,
    }
    if c.learning_rate:
        changes["learning_rate"] = max(c.learning_rate, c.final_learning_rate or 0.0)
    data = settings.data
    if c.sources or c.weights:
        data = dataclasses.replace(data, sources=c.sources or data.sources, weights=c.weights)
    model: HunyuanConfig = settings.model
    positions = max(model.max_position_embeddings, context)
    model = model.replace(max_position_embeddings=positions, **({"rope_theta": c.rope_theta} if c.rope_theta else {}))
    if c.alpha:
        model = model.replace(rope_scaling={"type": "dynamic", "alpha": c.alpha})
    own = dataclasses.replace(training, **changes)
    return dataclasses.replace(settings, model=model, data=data, training=own, stages=())


def micro_batch_size(training: TrainingConfig, context: int) -> int:
    """Sequences of so many tokens in a forward pass: as many as have the tokens of [training]'s, and divide a step; or one."""
    sequences = training.global_batch_tokens // context
    most = max(1, training.sequence_length * training.micro_batch_size // context)
    return next(size for size in range(min(most, sequences), 0, -1) if sequences % size == 0)


def _plan_problems(settings: RunSettings) -> list[str]:
    stages, training = settings.stages, settings.training
    problems = []
    names = [stage.name for stage in stages]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        problems.append(f"two stages are named {twice[0]!r}: give each a name of its own")
    if training.flops:
        problems.append("training.flops is given and the run has stages: give its length in steps or tokens")
    by_tokens = [stage.name for stage in stages if stage.tokens]
    if by_tokens and len(by_tokens) < len(stages):
        problems.append("some stages give tokens and others share: give the same of the two in all of them")
    elif by_tokens and (training.steps or training.tokens):
        problems.append(
            "the stages give tokens and training.steps or training.tokens the length again: leave that out, or give shares"
        )
    elif not by_tokens and abs((total := sum(stage.share for stage in stages)) - 1) > 1e-6:
        problems.append(f"the shares of the stages add up to {total:g}: they must add up to 1")
    if settings.data.anneal_sources or settings.data.anneal_weights:
        problems.append(
            "data.anneal_sources and data.anneal_weights have no place beside stages: give the stage that anneals sources "
            "and weights of its own"
        )
    return problems


def _problems(c: StageConfig, label: str) -> list[str]:
    problems = []
    if not c.name:
        problems.append("a table [[stages]] has an empty name: give it one, such as name = 'anneal'")
    for name in "tokens share context rope_theta alpha learning_rate".split():
        if getattr(c, name) < 0:
            problems.append(f"{label}.{name} is {getattr(c, name)}: it must be above 0, or left out")
    if bool(c.tokens) == bool(c.share):
        problems.append(f"{label} needs a length: give it tokens or share, and not both")
    if not 0 <= c.warmup_fraction < 1:
        problems.append(f"{label}.warmup_fraction is {c.warmup_fraction}: it must lie in [0, 1)")
    final = c.final_learning_rate
    if final is not None and not (isinstance(final, int | float) and not isinstance(final, bool) and 0 <= final < 1e9):
        problems.append(f"{label}.final_learning_rate is {final!r}: give a number that is 0 or above")
    if (final is not None or c.warmup_fraction) and not c.learning_rate:
        problems.append(f"{label} gives the rate's end or its warm-up alone: give learning_rate as well")
    if not (c.recompute is None or isinstance(c.recompute, bool)):
        problems.append(f"{label}.recompute is {c.recompute!r}: give true or false")
    try:
        DataConfig(sources=c.sources or ("stdlib",), weights=c.weights if c.sources else ())
    except ConfigError as error:
        problems += [problem.replace("data.", f"{label}.") for problem in error.problems]
    return problems
