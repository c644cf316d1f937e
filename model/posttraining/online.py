"""Pairs of a policy's own answers: the one with the highest reward and the one with the lowest."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Pair(NamedTuple):
    """Positions among the answers to one prompt."""

    best: int
    worst: int


def select_pair(
    rewards: Sequence[float] | Tensor, tokens: Sequence[Sequence[int] | Tensor], *, min_margin: float = 0.0
) -> Pair | None:
    """The answers of highest and lowest reward, of several the first; None where they teach nothing.

    That is where a reward is no number, where both are not more than `min_margin` apart, as in a tie, and where both are
    the same text.
    """
    values = rewards.tolist() if isinstance(rewards, Tensor) else [float(reward) for reward in rewards]
    if len(values) != len(tokens):
        raise ValueError(f"there are {len(values)} rewards for {len(tokens)} answers: give one for each")
    if not values or any(map(math.isnan, values)):
        return None
    best, worst = values.index(max(values)), values.index(min(values))
    if not values[best] - values[worst] > min_margin or _ids(tokens[best]) == _ids(tokens[worst]):
        return None
    return Pair(best, worst)


def _ids(tokens: Sequence[int] | Tensor) -> list[int]:
    return tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
