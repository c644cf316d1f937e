"""SFTConfig: what of a conversation is learnt, and what is shown while it is. The section [sft] of a run file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from model.config.checks import type_problems
from model.config.hunyuan import HunyuanConfig
from model.counts import total_params
from model.data.config import absolute_source
from model.data.instructions.rendering import TrainOn
from model.errors import ConfigError

TEMPLATES = ("", "turns", "none")  # or the path of a file

SMALL_MODEL = 100_000_000  # parameters, below which the report's learning rates teach next to nothing in a short run
SMALL_MODEL_RATE = (
    3e-3  # of 1e-3 and 3e-3 the better for the demo on conversations of the standard library: 2.29 against 2.51
)
BATCH_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of fine-tuning on conversations, which are those of [data]; ConfigError lists every invalid value at once."""

    epochs: float = 3.0  # the report's; training.steps goes before it
    train_on: TrainOn = "answers"  # every answer, the last one, or all tokens
    template: str = ""  # a file; turns: the one for models without; none: plain text; empty: the model's, else turns
    end_token: str = ""  # the name of a token that ends an answer, beside those that the model's folder names
    samples: int = 4  # held-out questions that the model answers at every validation
    sample_tokens: int = 96  # of each answer, at most

    def __post_init__(self) -> None:
        problems = type_problems(self, "sft") or _problems(self)
        if problems:
            raise ConfigError(problems)
        if self.template not in TEMPLATES:
            object.__setattr__(self, "template", absolute_source(self.template))


def training_defaults(model: HunyuanConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of [training] for fine-tuning: a cosine from 2e-5 to 2e-6 (arXiv:2411.02265), more for small models.

    `given` are those that somebody has chosen: a batch is about 4,096 tokens of rows of that length.
    """
    length = _whole(given.get("sequence_length"), min(1024, model.max_position_embeddings))
    size = _whole(given.get("micro_batch_size"), 4)
    return {
        "learning_rate": SMALL_MODEL_RATE if total_params(model) < SMALL_MODEL else 2e-5,
        "decay_ratio": 0.1,
        "final_ratio": 0.1,
        "anneal_fraction": 0.0,
        "sequence_length": length,
        "micro_batch_size": size,
        "global_batch_tokens": size * length * max(1, BATCH_TOKENS // (size * length)),
        "evaluate_every": 50,
    }


def _whole(value: Any, otherwise: int) -> int:
    """A number to reckon with; what is wrong with another value, its own section says."""
    return value if isinstance(value, int) and value > 0 else otherwise


def _problems(c: SFTConfig) -> list[str]:
    problems = []
    if not 0 < c.epochs <= 1e6:
        problems.append(f"sft.epochs is {c.epochs}: it must be above 0")
    if c.train_on not in get_args(TrainOn):
        problems.append(f"sft.train_on is {c.train_on!r}: choose one of {', '.join(get_args(TrainOn))}")
    if c.samples < 0:
        problems.append(f"sft.samples is {c.samples}: it must be 0 or above")
    if c.sample_tokens < 1:
        problems.append(f"sft.sample_tokens is {c.sample_tokens}: it must be at least 1")
    return problems
