"""What may change when a run is resumed: keys that alter none of its numbers, and its length.

A resumed run is the same experiment. Everything that decides a number of it stays as run.toml has it; what should change
such a thing is a new run, which may begin with the weights of this one (train --init-from).
"""

from typing import Any

from model.config.checks import unknown_key
from model.counts import training_flops_per_token
from model.data.config import absolute_source
from model.errors import ConfigError
from model.training.schedule import anneal_start
from model.training.settings import RunSettings
from model.training.stages import stages_of

LENGTHS = ("steps", "tokens", "flops")
FREE = {
    "training": (
        *("device", "compile", "graph", "recompute"),
        *("log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"),
        *("evaluate_tasks", "evaluate_samples", "measure_noise_scale"),
    ),
    "data": ("cache_dir",),
    "model": (),
    "sft": ("samples", "sample_tokens"),
    "reward": (),
    "dpo": ("kl_bound",),
}
REASONS = {  # of a whole section, where a key has none of its own
    "model": "it would be another model",
    "data": "it would be another text or another order of it",
    "training": "it alters the numbers of the run",
    "sft": "it alters what is learnt",
    "reward": "it alters what is learnt",
    "dpo": "it alters what is learnt",
}
KEY_REASONS = {
    "micro_batch_size": "it alters the capacity of an expert and the rounding of sums",
    "precision": "it alters the rounding of every product",
    "seed": "it alters the order of the text and the places of recycle routing",
    "document_mask": "it alters what a token sees",
    "evaluation_tokens": "its validation losses could not be compared",
    "init_from": "the run has begun",
}
STAGES_STAY = (
    "the stages of a run, and its length with them, cannot change when it is resumed: begin a new run with --init-from"
)


def resumed_settings(recorded: RunSettings, changes: dict[str, dict[str, Any]]) -> RunSettings:
    """The settings of a run that goes on with `changes` to its sections; ConfigError names every key that must stay.

    A length (steps, tokens or flops) is that of the whole run, and must be more than it had.
    """
    sections = recorded.to_sections()
    if "stages" in changes:
        raise ConfigError([STAGES_STAY])
    if other := [name for name in changes if name not in sections]:
        raise ConfigError([f"[{other[0]}] is not a section of the run that is resumed: leave it out"])
    changes = changes | {"data": {key: _absolute(key, value) for key, value in changes.get("data", {}).items()}}
    unknown = [
        unknown_key(key, sections[section], section)
        for section, keys in changes.items()
        for key in keys
        if key not in sections[section]
    ]
    if unknown:
        raise ConfigError(unknown)
    problems = []
    for section, keys in changes.items():
        for key, value in keys.items():
            before = sections[section]
            if (
                key not in FREE[section]
                and not (section == "training" and key in LENGTHS)
                and not _same(before[key], value)
            ):
                reason = KEY_REASONS.get(key, REASONS[section])
                problems.append(f"{section}.{key} cannot change when a run is resumed: {reason}")
    if problems:
        advice = "; begin a new run with --init-from to change it"
        raise ConfigError([*problems[:-1], problems[-1] + advice])
    given = {key: value for key, value in changes.get("training", {}).items() if key in LENGTHS}
    if given and recorded.stages:
        raise ConfigError([STAGES_STAY])
    if given:
        sections["training"] |= dict.fromkeys(LENGTHS, 0)
    for section, keys in changes.items():
        sections[section] |= keys
    settings = recorded.replace_sections(sections)
    per_token = training_flops_per_token(recorded.model, recorded.training.sequence_length)
    before_steps, after = (each.training.total_steps(per_token) for each in (recorded, settings))
    if given and after < before_steps:
        raise ConfigError(
            [f"the run has {before_steps:,} steps and would have {after:,}: a resumed run can be lengthened only"]
        )
    return settings


def _absolute(key: str, value: Any) -> Any:
    """A setting of [data] with absolute paths, as run.toml has them."""
    if (
        key in ("sources", "join", "anneal_sources")
        and isinstance(value, list)
        and all(isinstance(one, str) for one in value)
    ):
        return [absolute_source(one) for one in value]
    return absolute_source(value) if key in ("tokenizer", "cache_dir") and value and isinstance(value, str) else value


def _same(before: Any, value: Any) -> bool:
    return before == (tuple(value) if isinstance(value, list) else value)  # as the configs keep what TOML has as a list


def check_stages(recorded: RunSettings, settings: RunSettings) -> None:
    """Refuses to go on with other stages, or with other ends of them, than the run began with."""
    ends = [[stage.end for stage in stages_of(each)] for each in (recorded, settings)]
    if recorded.stages != settings.stages or (settings.stages and ends[0] != ends[1]):
        raise ConfigError([STAGES_STAY])


def check_lengthening(recorded: RunSettings, steps_before: int, steps: int, step: int) -> None:
    """Refuses a longer run whose text would not go on: it has begun the mixture of its annealing phase."""
    data = recorded.data
    if steps == steps_before or not (data.anneal_sources or data.anneal_weights):
        return
    begin = anneal_start(recorded.training, steps_before)
    if step > begin:
        raise ConfigError([
            f"the run has been reading the text of its annealing phase since step {begin + 1:,} and cannot go back to the "
            "other: begin a new run with its weights, --init-from"
        ])  # fmt: skip
