"""DPOConfig: what preferences are learnt from, how, and what is watched. The section [dpo] of a run file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from model.config.checks import type_problems
from model.config.hunyuan import HunyuanConfig
from model.counts import total_params
from model.data.config import absolute_source
from model.errors import ConfigError

Kind = Literal["sigmoid", "ipo", "sigmoid_norm", "robust", "hinge"]
Normalization = Literal["token", "sequence"]
Reference = Literal["auto", "memory", "cached"]
Routing = Literal["dropless", "model"]
CHOICES = {"kind": Kind, "sft_normalization": Normalization, "reference": Reference, "moe_routing": Routing}
PAIRS = 16  # a step
SMALL_MODEL, SMALL_MODEL_RATE = 100_000_000, 3e-4  # parameters below which a rate of large models moves nothing


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Settings of one stage of learning from preferences; ConfigError lists every invalid value at once.

    The stage mixes offline pairs with pairs chosen online from the policy's own answers, adds a term on the chosen answer and
    averages the weights (Hunyuan-Large, arXiv:2411.02265, section on RLHF).
    """

    offline: tuple[str, ...] = ()  # files of pairs: a prompt, a chosen and a rejected answer
    prompts: str = ""  # a file of prompts that the policy answers
    other_prompts: str = ""  # prompts of other skills, answered where the run is evaluated: what learning costs them
    reward: str = ""  # a reward model's folder, or the name of a check (rewards.py), that chooses the online pairs
    true_reward: str = ""  # another one that is measured and never learnt from
    online_share: float = 0.5  # of a step's pairs
    online_every: int = 1  # steps between rounds in which the policy answers prompts
    samples: int = 8  # answers to a prompt
    temperature: float = 1.0  # at which they are drawn
    max_new_tokens: int = 0  # of an answer; 0: what sequence_length leaves
    min_margin: float = 0.0  # of the rewards of a pair; an online pair needs more than that
    kind: Kind = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0  # of sigmoid (cDPO) and robust
    sft_coefficient: float = 0.2  # of the negative log-probability of the chosen answer
    sft_normalization: Normalization = "token"
    moe_routing: Routing = "dropless"  # model: the experts have the capacity of model.moe_routing, as in pre-training
    average: float = 0.99  # decay of the moving average of the weights; 0 keeps none
    reference: Reference = "auto"  # memory: a second model; cached: its log-probabilities, for offline pairs alone
    evaluation_prompts: int = 64  # held out of the prompts, at most a quarter of them
    kl_bound: float = 50.0  # nats an answer to the reference, beyond which the run is said to diverge

    def __post_init__(self) -> None:
        if isinstance(self.offline, list):  # TOML gives lists
            object.__setattr__(self, "offline", tuple(self.offline))
        problems = type_problems(self, "dpo") or _problems(self)
        if problems:
            raise ConfigError(problems)
        object.__setattr__(self, "offline", tuple(map(absolute_source, self.offline)))
        for name in ("reward", "true_reward"):
            object.__setattr__(self, name, _absolute_reward(getattr(self, name)))
        for name in ("prompts", "other_prompts"):
            object.__setattr__(self, name, absolute_source(getattr(self, name)) if getattr(self, name) else "")

    @property
    def keeps_reference(self) -> bool:
        """Whether the reference stays in memory; online pairs need it, for no one knows them beforehand."""
        return self.online_share > 0 if self.reference == "auto" else self.reference == "memory"


def _absolute_reward(name: str) -> str:
    """A reward model's folder as it is found from any working folder; the name of a check, or of nothing, stays."""
    if not name or not Path(name).expanduser().is_dir():
        return name
    from model.posttraining.rewards import CHECKS  # with torch: only where there is a folder of that name

    return name if name in CHECKS else str(Path(name).expanduser().absolute())


def _problems(c: DPOConfig) -> list[str]:
    problems = []
    for name, choices in CHOICES.items():
        if getattr(c, name) not in get_args(choices):
            problems.append(f"dpo.{name} is {getattr(c, name)!r}: choose one of {', '.join(get_args(choices))}")
    if not 0 <= c.online_share <= 1:
        problems.append(f"dpo.online_share is {c.online_share}: give a share from 0 (offline) to 1 (online)")
    for name in ("online_every", "evaluation_prompts"):
        if getattr(c, name) < 1:
            problems.append(f"dpo.{name} is {getattr(c, name)}: it must be at least 1")
    if c.samples < 2:
        problems.append(f"dpo.samples is {c.samples}: the best and the worst of at least 2 answers make a pair")
    for name in ("temperature", "beta", "kl_bound"):
        if getattr(c, name) <= 0:
            problems.append(f"dpo.{name} is {getattr(c, name)}: it must be above 0")
    for name in ("max_new_tokens", "min_margin", "sft_coefficient"):
        if getattr(c, name) < 0:
            problems.append(f"dpo.{name} is {getattr(c, name)}: it must be 0 or above")
    if not 0 <= c.label_smoothing < 0.5:
        problems.append(
            f"dpo.label_smoothing is {c.label_smoothing}: half of the labels turned round teach nothing; give 0 to 0.5"
        )
    if c.label_smoothing and c.kind not in ("sigmoid", "robust"):
        problems.append(f"dpo.label_smoothing is for the kinds sigmoid and robust: leave it out with {c.kind}")
    if not 0 <= c.average < 1:
        problems.append(f"dpo.average is {c.average}: give a decay from 0 (no average) to below 1")
    if c.online_share < 1 and not c.offline:
        problems.append("there are no offline pairs: name a file with --offline, or give --online-share 1")
    if c.online_share > 0 and not (c.prompts and c.reward):
        problems.append(
            "online pairs need prompts and a reward: name them with --prompts and --reward, or give --online-share 0"
        )
    if c.online_share > 0 and c.reference == "cached":
        problems.append("dpo.reference cached is for offline pairs alone: leave it at auto, or give --online-share 0")
    return problems


def training_defaults(model: HunyuanConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of [training] in which it differs from pre-training: pairs of so many tokens, a low rate, no decay of weights.

    `given` are those that somebody has chosen. A small model forgets less of so little than a large one, and has less time.
    """
    length = given.get("sequence_length", min(1024, model.max_position_embeddings))
    micro = given.get("micro_batch_size", 2 * PAIRS)
    return {
        "learning_rate": SMALL_MODEL_RATE if total_params(model) < SMALL_MODEL else 5e-7,
        "weight_decay": 0.0,
        "warmup_fraction": 0.1,
        "decay_ratio": 0.1,
        "final_ratio": 0.1,
        "anneal_fraction": 0.0,
        "sequence_length": length,
        "micro_batch_size": micro,
        "global_batch_tokens": length * max(micro, 2 * PAIRS // micro * micro),
        "evaluate_every": 20,
        "graph": False,  # batches differ in shape, and experts are spared padding, which a recording cannot follow
    }
