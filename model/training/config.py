"""TrainingConfig: how long, on how much, how fast to learn, and what to keep. The [training] section of a run file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from model.config.checks import type_problems
from model.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", True, False]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one training run; ConfigError lists every invalid value at once.

    The length is given once: in steps, tokens or FLOPs. The defaults train the toy preset on a laptop in minutes.
    """

    steps: int = 0  # optimizer steps; when nothing is given, 400
    tokens: int = 0  # or training tokens, rounded up to whole steps
    flops: float = 0.0  # or training FLOPs by the exact count (model/counts.py), rounded up to whole steps
    sequence_length: int = 256  # tokens
    global_batch_tokens: int = 4096  # tokens per optimizer step
    micro_batch_size: int = 16  # sequences per forward pass; the rest of the batch is accumulated
    learning_rate: float = 4e-3  # peak
    batch_noise_ratio: float = 0.26  # B / B_noise of the expert learning-rate rule; the report's 0.31 for 16 experts
    expert_lr_scale: float = 0.0  # of the routed experts' learning rate; 0 takes the rule's
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_fraction: float = 0.04  # of the steps, up to the peak
    decay_ratio: float = 0.3  # of the peak, where the long decay ends
    anneal_fraction: float = 0.05  # of the steps, the last ones (Hunyuan-Large, arXiv:2411.02265)
    final_ratio: float = 0.1  # of the peak, where annealing ends (ibid.)
    seed: int = 0  # of the weights, the data order and the routing
    device: str = "auto"  # cpu, cuda, cuda:1; auto takes a CUDA device where there is one
    precision: Precision = "auto"  # of matrix products; auto: bfloat16 where the device has units for it
    moments: Literal["float32", "bfloat16"] = "float32"  # of AdamW on a GPU; bfloat16 saves 4 bytes a parameter
    compile: Compile = "auto"  # torch.compile of every block; auto is on for a GPU where it can be (prepare.py)
    graph: Compile = "auto"  # the whole step as one CUDA graph; auto is on for a small model on a GPU (graph.py)
    attention_dropout: float = 0.0  # share of the attention that a step drops (model/layers/dropout.py)
    hidden_dropout: float = 0.0  # share that it drops of what attention and experts add to the residual stream
    recompute: bool = False  # forget activations inside a block and compute them again in the backward pass
    init_from: str = ""  # folder of the weights that the run begins with; empty: random ones
    measure_noise_scale: bool = False  # log the batch size at which gradients are half noise (noise_scale.py)
    log_every: int = 5  # steps between lines of metrics.jsonl
    evaluate_every: int = 100  # steps between validations; 0 validates at the end only
    evaluation_tokens: int = 65_536  # of validation text per evaluation, at most
    evaluate_tasks: tuple[str, ...] = ()  # asked at each validation: RULER's, such as niah_single_1@256; or "ruler"
    evaluate_samples: int = 16  # of each of them
    checkpoint_every: int = 200  # steps between checkpoints; 0 saves at the end only
    keep_checkpoints: int = 2  # newest ones that stay

    def __post_init__(self) -> None:
        if isinstance(self.evaluate_tasks, list):  # as TOML gives it
            object.__setattr__(self, "evaluate_tasks", tuple(self.evaluate_tasks))
        problems = type_problems(self, "training") or _problems(self)
        if problems:
            raise ConfigError(problems)

    @property
    def batch_sequences(self) -> int:
        """Sequences per optimizer step."""
        return self.global_batch_tokens // self.sequence_length

    @property
    def micro_batches(self) -> int:
        """Forward passes per optimizer step."""
        return self.batch_sequences // self.micro_batch_size

    def total_steps(self, flops_per_token: int) -> int:
        """The length of the run in steps, from whichever way it was given."""
        # The decimal that was written: the nearest binary number may lie above it, and begin one step more.
        tokens = self.tokens or math.ceil(Fraction(repr(float(self.flops))) / flops_per_token)
        return self.steps or -(-tokens // self.global_batch_tokens) or 400


def begun_in(environment: Mapping[str, Any]) -> Precision:
    """The precision in which a run began that was given auto, by its environment.json.

    Older versions did not record it: their auto was bfloat16 on a GPU and float32 elsewhere.
    """
    was = "bfloat16" if str(environment.get("device")).startswith("cuda") else "float32"
    return "bfloat16" if environment.get("precision", was) == "bfloat16" else "float32"


def _problems(c: TrainingConfig) -> list[str]:
    problems = []
    lengths = {name: getattr(c, name) for name in ("steps", "tokens", "flops") if getattr(c, name)}
    if len(lengths) > 1:
        given = " and ".join(f"training.{name} = {value}" for name, value in lengths.items())
        problems.append(f"{given} say the length twice: give one of steps, tokens and flops")
    at_least_one = "sequence_length global_batch_tokens micro_batch_size log_every keep_checkpoints"
    for name in [*at_least_one.split(), "evaluation_tokens", "evaluate_samples"]:
        if getattr(c, name) < 1:
            problems.append(f"training.{name} is {getattr(c, name)}: it must be at least 1")
    for name in "learning_rate batch_noise_ratio epsilon max_grad_norm".split():
        if getattr(c, name) <= 0:
            problems.append(f"training.{name} is {getattr(c, name)}: it must be above 0")
    not_negative = "steps tokens flops expert_lr_scale weight_decay seed evaluate_every checkpoint_every"
    for name in not_negative.split():
        if getattr(c, name) < 0:
            problems.append(f"training.{name} is {getattr(c, name)}: it must be 0 or above")
    if c.seed >= 2**63:
        problems.append(f"training.seed is {c.seed}: it must be below 2**63")
    for name in "beta1 beta2 warmup_fraction anneal_fraction attention_dropout hidden_dropout".split():
        if not 0 <= getattr(c, name) < 1:
            problems.append(f"training.{name} is {getattr(c, name)}: it must lie in [0, 1)")
    if not 0 <= c.final_ratio <= c.decay_ratio <= 1:
        problems.append(
            f"training.final_ratio is {c.final_ratio} and training.decay_ratio {c.decay_ratio}: "
            "they must be in order, 0 <= final_ratio <= decay_ratio <= 1"
        )
    if c.warmup_fraction + c.anneal_fraction > 1:
        problems.append(
            f"training.warmup_fraction {c.warmup_fraction} and training.anneal_fraction {c.anneal_fraction} "
            "are together over 1: lower one"
        )
    if c.precision not in get_args(Precision):
        problems.append(f"training.precision is {c.precision!r}: choose one of {', '.join(get_args(Precision))}")
    if not (isinstance(c.compile, bool) or c.compile == "auto"):
        problems.append(f"training.compile is {c.compile!r}: give auto, true or false")
    if not (isinstance(c.graph, bool) or c.graph == "auto"):
        problems.append(f"training.graph is {c.graph!r}: give auto, true or false")
    if not (isinstance(c.evaluate_tasks, tuple) and all(isinstance(name, str) for name in c.evaluate_tasks)):
        problems.append(
            f"training.evaluate_tasks is {c.evaluate_tasks!r}: give a list of names such as ['niah_single_1@256']"
        )
    if c.moments not in ("float32", "bfloat16"):
        problems.append(f"training.moments is {c.moments!r}: choose float32 or bfloat16")
    micro_tokens = c.sequence_length * c.micro_batch_size
    if micro_tokens > 0 and (c.global_batch_tokens < 1 or c.global_batch_tokens % micro_tokens):
        problems.append(
            f"training.global_batch_tokens is {c.global_batch_tokens}: it must be a multiple of sequence_length "
            f"{c.sequence_length} x micro_batch_size {c.micro_batch_size} = {micro_tokens}"
        )
    elif c.measure_noise_scale and c.micro_batches < 2:
        most = max((size for size in range(1, c.batch_sequences) if c.batch_sequences % size == 0), default=0)
        mend = f"lower training.micro_batch_size to {most}" if most else "raise training.global_batch_tokens"
        problems.append(
            f"training.measure_noise_scale needs two micro-batches a step or more, and there is one: {mend}"
        )
    return problems
