"""RewardConfig: how a reward model learns from pairs of answers. The section [reward] of a run file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config.checks import type_problems
from model.config.hunyuan import HunyuanConfig
from model.errors import ConfigError
from model.posttraining import sft_config

PAIRS = 16  # a step


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Settings of a reward model, whose pairs are those of [data]; ConfigError lists every invalid value at once."""

    epochs: float = 1.0  # more make it sure of the pairs that it has seen; training.steps goes before it
    center_coefficient: float = 0.01  # holds rewards near 0, which differences alone leave open

    def __post_init__(self) -> None:
        problems = type_problems(self, "reward")
        if not problems and not 0 < self.epochs <= 1e6:
            problems.append(f"reward.epochs is {self.epochs}: it must be above 0")
        if not problems and self.center_coefficient < 0:
            problems.append(f"reward.center_coefficient is {self.center_coefficient}: it must be 0 or above")
        if problems:
            raise ConfigError(problems)


def training_defaults(model: HunyuanConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of [training] in which it differs from pre-training: 16 pairs a step, at half the rate of fine-tuning."""
    defaults = sft_config.training_defaults(model, {"micro_batch_size": 8, **given})
    size, length = defaults["micro_batch_size"], defaults["sequence_length"]
    rows = size * max(1, 2 * PAIRS // size)
    return defaults | {"global_batch_tokens": rows * length, "learning_rate": defaults["learning_rate"] / 2}
