"""The batch and the learning rate of a plan: by a law of one's own runs, by the critical batch, or by rules of thumb."""

import math
from dataclasses import dataclass

from analyses.scaling.laws import CHINCHILLA, LAWS, ScalingLaw
from model.errors import HunyuanError
from model.sweep.config import BatchRule
from model.sweep.rates import RateLaws

LEAST_STEPS = 1_000  # a batch that would leave fewer steps is made smaller; the best runs of the toy had 1,600
# Kaplan et al. 2020, arXiv:2001.08361, as in the report: tokens at a loss of 1.
CRITICAL_BATCH, CRITICAL_EXPONENT = 2e8, 0.21

# The best learning rate of the toy, with 1.22M activated parameters. With this exponent the rule is within 11% of the peak
# rates of Llama 3.1 8B, 70B and 405B, which are 3e-4, 1.5e-4 and 8e-5 (arXiv:2407.21783, table 3).
TOY_RATE, TOY_PARAMS, RATE_EXPONENT = 4e-3, 1.22e6, 0.3
RATE_RULE = f"{TOY_RATE:g} * ({TOY_PARAMS:g} / N)^{RATE_EXPONENT}"

# Chinchilla's surface knows losses of budgets from 6e18 FLOPs. Far below, it says more than a model that knows nothing has,
# ln V, and a critical batch at such a loss is none.
LEAST_OF_CHINCHILLA = LAWS["chinchilla"].valid[0] / 100 if LAWS["chinchilla"].valid else 0.0


@dataclass(frozen=True)
class Batch:
    """Tokens of a step before they are made whole sequences, where they come from, and the loss behind a critical batch."""

    tokens: float
    source: str
    loss: float | None
    loss_source: str
    critical: float | None


def learning_rate_of(activated: float) -> float:
    """A first guess of the peak learning rate, by RATE_RULE."""
    return float(f"{TOY_RATE * (TOY_PARAMS / activated) ** RATE_EXPONENT:.3g}")


def learning_rate_for(
    given: float | None, rates: RateLaws | None, activated: int, tokens: int, batch_tokens: int
) -> tuple[float, str]:
    """The peak learning rate, and where it is from."""
    if given is not None:
        return given, "given"
    if rates is None:
        return learning_rate_of(activated), RATE_RULE
    rate = rates.learning_rate(params=activated, tokens=tokens, batch_tokens=batch_tokens)
    if not 0 < rate <= 1:
        raise HunyuanError(f"the law of {rates.name} has a rate of {rate:.3g} here: give --learning-rate")
    return float(f"{rate:.3g}"), f"the law of {rates.name}"


def critical_batch(loss: float) -> float:
    """The critical batch in tokens: a run with it takes twice the least number of steps and twice the least tokens."""
    return CRITICAL_BATCH / loss ** (1 / CRITICAL_EXPONENT)


def batch_of(
    law: ScalingLaw,
    flops: float,
    activated: int,
    tokens: int,
    vocab_size: int,
    given: float | None,
    rates: RateLaws | None,
) -> Batch:
    """The batch of a run that is not given: by the runs' own law, else the critical one, else the sweep's rule."""
    loss, source = _loss(law, flops, activated, tokens, vocab_size, given)
    critical = None if loss is None else critical_batch(loss)
    if rates is not None and rates.batch_tokens is not None:
        return Batch(
            rates.batch_tokens(params=activated, tokens=tokens), f"the law of {rates.name}", loss, source, critical
        )
    if critical is not None:
        return Batch(critical, "the critical batch", loss, source, critical)
    rule = BatchRule()
    said = f"{rule.value:g} tokens * (C / {rule.at_flops:g})^{rule.exponent:g}, the sweep's rule"
    return Batch(rule.value * (flops / rule.at_flops) ** rule.exponent, said, loss, source, critical)


def _loss(
    law: ScalingLaw, flops: float, activated: int, tokens: int, vocab_size: int, given: float | None
) -> tuple[float | None, str]:
    """The loss at the end of a run, and where that is from; None where nothing tells of it."""
    if given is not None:
        return given, "given"
    if (own := law.loss_at(flops)) is not None:
        return own, "the least losses of the law's own budgets"
    loss = float(CHINCHILLA.loss(activated, max(1, tokens)))
    if flops >= LEAST_OF_CHINCHILLA and loss < math.log(max(2, vocab_size)):
        return loss, "Chinchilla's surface, of dense models"
    return (
        None,
        f"unknown: Chinchilla's surface says nothing of {flops:.3g} FLOPs, give --loss or a law of your own runs",
    )


def sequences_of(batch_tokens: float, context: int, tokens: int) -> int:
    """The sequences of a step: the power of two nearest to a batch, with at least LEAST_STEPS steps."""
    by_batch = 2 ** max(0, round(math.log2(batch_tokens / context)))
    return min(by_batch, power_of_two(max(1, tokens // (LEAST_STEPS * context))))


def power_of_two(size: int) -> int:
    """The largest power of two that is at most size."""
    return 1 << (size.bit_length() - 1)
