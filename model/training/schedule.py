"""Learning rates as pure functions: over the steps of a run, and between groups of parameters.

Hunyuan-Large, arXiv:2411.02265: warm-up, a long gradual decay, then annealing over the last 5% to a tenth of the peak; and
routed experts, which see a part of the batch, at a rate of their own.
"""

import math
from fractions import Fraction

from model.config.hunyuan import HunyuanConfig
from model.training.config import TrainingConfig


def part_of(steps: int, fraction: float) -> Fraction:
    """A fraction of the steps as it was written: 0.07 of 100 is 7, where binary has 7.000000000000001."""
    return Fraction(repr(fraction)) * steps


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Steps until the peak, begun ones counted."""
    return math.ceil(part_of(steps, config.warmup_fraction))


def anneal_start(config: TrainingConfig, steps: int) -> int:
    """The first step (from 0) of the annealing phase; a run of fewer steps than 1 / anneal_fraction has none."""
    return steps - math.floor(part_of(steps, config.anneal_fraction))


def learning_rate_ratio(config: TrainingConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`, over its peak.

    Linear to 1 over the warm-up; cosine to decay_ratio; linear to final_ratio, which the last step has
    where there is an annealing phase.
    """
    warmup = warmup_steps(config, steps)
    anneal = anneal_start(config, steps)
    if step < min(warmup, anneal):
        return (step + 1) / warmup
    if step >= anneal:
        return config.final_ratio + (config.decay_ratio - config.final_ratio) * (steps - 1 - step) / (steps - anneal)
    progress = (step - warmup) / (anneal - warmup)
    return config.decay_ratio + (1 - config.decay_ratio) * (1 + math.cos(math.pi * progress)) / 2


def describe_lengthening(config: TrainingConfig, step: int, before: int, steps: int) -> str:
    """What the learning rate does after `step` in a run of `before` steps that is given `steps`, in a sentence."""
    rates = [
        config.learning_rate * learning_rate_ratio(config, *where) for where in ((step - 1, before), (step, steps))
    ]
    anneal, last = anneal_start(config, steps), config.learning_rate * learning_rate_ratio(config, steps - 1, steps)
    end = f"annealing begins at step {anneal + 1:,} and " if anneal < steps else ""
    return (
        f"the run is lengthened from {before:,} to {steps:,} steps: from step {step + 1:,} on the learning rate is that of "
        f"a run of {steps:,} steps, {rates[1]:.3g} where it was {rates[0]:.3g}; {end}it ends at {last:.3g}"
    )


def batch_learning_rate(batch_ratio: float) -> float:
    """AdamW's best rate at batch size B over its maximum: 2 / (sqrt(B_noise/B) + sqrt(B/B_noise)), B/B_noise given.

    Surge phenomenon in optimal learning rate and batch size scaling, arXiv:2405.14578; used in the report.
    """
    return 2 / (math.sqrt(1 / batch_ratio) + math.sqrt(batch_ratio))


def expert_lr_scale(model: HunyuanConfig, config: TrainingConfig) -> float:
    """Routed experts' learning rate over the others': as configured, or lr(B/n) / lr(B), n = experts / top-k."""
    if config.expert_lr_scale:
        return config.expert_lr_scale
    layers = range(model.num_hidden_layers)
    share = sum(map(model.topk, layers)) / len(layers) / model.num_experts  # of the tokens, that one expert sees
    return batch_learning_rate(config.batch_noise_ratio * share) / batch_learning_rate(config.batch_noise_ratio)
