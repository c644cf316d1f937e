"""The random order of recycle routing, as a pure function of (seed, step, micro-batch, layer): no state to save or restore.

    routing_key(seed, step, micro_batch) -> one integer for a forward pass
    place_keys(key, layers, places)      -> (layers, places) integers; sorting a row gives a layer's order of its places

What is drawn depends on nothing else: not on the device, on the number of processes, or on what was drawn before. Integer
arithmetic alone, so that a processor and an accelerator agree to the bit, also in a compiled or captured graph, where `step`
may be a tensor. The hash is the finaliser lowbias32 (Wellons 2018, "Prospecting for hash functions") on 32-bit words in
int64, where no product overflows.
"""

from typing import Any

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: counters that start at 0 do not stay near 0


def routing_key(
    seed: int, step: int | Tensor = 0, micro_batch: int | Tensor = 0, *, device: torch.device | str = "cpu"
) -> Tensor:
    """A key (), int64 on `device`. `step` and `micro_batch` are numbers of the whole run, not of one process.

    They count from 0 and may be int64 tensors () on `device`.
    """
    words = [part for value in (seed, step, micro_batch) for part in (value & WORD, (value >> 32) & WORD)]
    low: Any = 0
    for word in words:
        low = hash_word((low + word + GOLDEN) & WORD)
    high = low
    for word in words:  # again, from where the first pass ended: 64 bits that all words have a part in
        high = hash_word((high + word + GOLDEN) & WORD)
    key = ((high & (WORD >> 1)) << 32) | low
    return key if isinstance(key, Tensor) else torch.full((), key, dtype=torch.int64, device=device)


def place_keys(key: Tensor, layers: int, places: int) -> Tensor:
    """(layers, places) int64 in [0, 2^32), distinct within a row, so that their order is the same on every device.

    The first keys of a row do not depend on how many follow.
    """
    layer = torch.arange(layers, device=key.device)[:, None]
    place = torch.arange(places, device=key.device)
    # A compiler for accelerators may hold indices in 32 bits: the first thing that each meets is an int64 tensor.
    first = hash_word((layer + (key & WORD)) & WORD)  # (layers, 1)
    second = hash_word(first ^ ((key >> 32) & WORD))
    return hash_word(
        hash_word((place + first) & WORD) ^ second
    )  # three bijections of 32-bit words, one after the other


def hash_word(word: Any) -> Any:
    """A bijection of 32-bit words (int, or int64 tensor): each bit of the input flips half the bits of the output."""
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & WORD
    word = word ^ (word >> 15)
    word = (word * (0x846CA68B - 2**32)) & WORD  # as a signed word: the product stays within 63 bits
    return word ^ (word >> 16)
