"""Numbers that look random and follow from their key alone: a hash of integers, and a shuffle without a table.

The shuffle is a Feistel network on the smallest even number of bits that holds n, walked until it lands in range(n)
(Black and Rogaway 2002): a bijection at any size. Both are our own, so that no version of a library changes them.
"""

import numpy as np

ROUNDS = 6


def mix(*values: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of integers or arrays that broadcast, by the finaliser of splitmix64 (Steele et al. 2014)."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            state = _taken_in(state, np.asarray(value).astype(np.uint64))
    return state


def _taken_in(state: np.ndarray, value: np.ndarray) -> np.ndarray:
    state = state + value + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def permute(index: np.ndarray, n: int, key: int | np.ndarray) -> np.ndarray:
    """Where `index` in range(n) goes: a bijection for each key; `key` broadcasts against `index`."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    one_key = np.ndim(key) == 0
    rounds = [mix(key, turn) for turn in range(ROUNDS)]  # a turn is mix(key, turn, right)
    values = np.broadcast_arrays(np.asarray(index, np.uint64), rounds[0])[0]
    if not one_key:
        rounds = [np.broadcast_to(state, values.shape) for state in rounds]
    result = values.copy()
    outside = np.ones(result.shape, bool)  # every value takes one walk, those that leave range(n) go on
    with np.errstate(over="ignore"):
        while outside.any():
            left, right = result[outside] >> half, result[outside] & mask
            for state in rounds:
                left, right = right, left ^ (_taken_in(state if one_key else state[outside], right) & mask)
            result[outside] = left << half | right
            outside = result >= n
    return result.astype(np.int64)
