"""Which pairs and prompts a step takes: pure functions of the seed and of how many were taken before."""

import numpy as np

from model.data.permutation import mix, permute

PAIRS, PROMPTS, ANSWERS, EVALUATION = range(4)  # what a draw is for: each has an order of its own


def places(count: int, first: int, size: int, seed: int, purpose: int) -> list[int]:
    """`count` places of range(size) from draw number `first` on; each is drawn once in `size` draws, an epoch."""
    draws = np.arange(first, first + count)
    keys = mix(seed, purpose, draws // size)
    return permute(draws % size, size, keys).tolist()


def round_seed(seed: int, number: int, purpose: int = ANSWERS) -> int:
    """The seed of the answers of a round."""
    return int(mix(seed, purpose, number) >> np.uint64(1))


def shared(pairs: int, online_share: float) -> int:
    """How many of a step's pairs are to be online; where both kinds are asked for, there is one of each at least."""
    if online_share in (0.0, 1.0):
        return int(pairs * online_share)
    return min(max(1, round(pairs * online_share)), pairs - 1)
