"""AdamW on weights whose products run in bfloat16: the upper 16 bits are the parameter, the lower 16 the optimizer's.

Products read such a weight rounded to bfloat16; the optimizer alone reads it whole. In two halves it takes 4 bytes, where a
float32 master with a bfloat16 copy takes 6, and the forward pass casts nothing. The halves are exact: `join(*split(weight))`
is the weight, bit for bit. Ties are rounded up, not to the even number, so that the remainder fits 16 bits with a sign.
Transformer Engine knows the idea as `store_param_remainders`.

Moments may be bfloat16 as well (DeepSeek-V3, arXiv:2412.19437). They are rounded stochastically: to the nearest, a second
moment that moves by less than half a unit a step would stand still. The noise is a hash of seed, step and place.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from model.moe.place_keys import GOLDEN, WORD, hash_word


class Rates(NamedTuple):
    """What a step applies to every weight; the learning rate is the group's."""

    beta1: float
    beta2: float
    epsilon: float


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 -> its value rounded to bfloat16, ties up, and the int16 remainder."""
    bits = weight.contiguous().view(torch.int32)
    return ((bits + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16), bits.to(torch.int16)


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 weight of its halves."""
    return ((high.view(torch.int16).int() << 16) + low.int()).view(torch.float32)


def round_stochastically(value: Tensor, noise: Tensor) -> Tensor:
    """float32 -> bfloat16, up with the probability that makes it right on average; noise int64 uniform in [0, 2^16)."""
    bits = value.contiguous().view(torch.int32).long() & WORD
    high = ((bits + noise) & WORD) >> 16
    return torch.where(high >= 1 << 15, high - (1 << 16), high).to(torch.int16).view(torch.bfloat16)


def noise(seed: int, step: int, first: int, count: int, device: torch.device) -> Tensor:
    """A hash (count,) in [0, 2^32) of seed, step and place; the first moment takes its lower half, the second its upper."""
    key = hash_word((seed + GOLDEN * step) & WORD)
    place = first + torch.arange(count, device=device)
    return hash_word(hash_word((place + key) & WORD) ^ (place >> 32))


@torch.no_grad()
def update(
    weight: Tensor,
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    rates: Rates,
    *,
    step: int,
    learning_rate: float | Tensor,
    weight_decay: float,
    clip: float | Tensor,
    bits: Tensor | None = None,
) -> Tensor:
    """One step, in place on the moments: the new float32 weight. `clip` scales the gradient; `bits` rounds bfloat16 moments."""
    gradient = gradient.float() * clip
    first = first_moment.float() + (1 - rates.beta1) * (gradient - first_moment.float())
    second = rates.beta2 * second_moment.float() + (1 - rates.beta2) * gradient * gradient
    scale = (second / (1 - rates.beta2**step)).sqrt() + rates.epsilon
    weight = weight * (1 - learning_rate * weight_decay) - learning_rate / (1 - rates.beta1**step) * first / scale
    for moment, value, shift in ((first_moment, first, 0), (second_moment, second, 16)):
        if moment.dtype == torch.bfloat16:
            assert bits is not None, "bfloat16 moments are rounded with noise"
            value = round_stochastically(value, (bits.view(value.shape) >> shift) & 0xFFFF)
        moment.copy_(value)
    return weight


def log_of(beta: float) -> float:
    """The logarithm of a moment's decay; of 0, which forgets at once, a number whose exponential is 0."""
    return math.log(beta) if beta else -1e4
