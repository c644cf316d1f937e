"""Dropout, decided by a pure function of (seed, step, micro-batch, layer, place): no state to save, the same when recomputed.

Hunyuan-Large's fine-tuning on instructions drops 0.1 of the attention and 0.2 of the hidden states (arXiv:2411.02265). As in
Megatron-LM the first are shares of the attention after the softmax, the second what attention and experts are about to
add to the residual stream. What stays is scaled up, so that means stay.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.moe.place_keys import hash_word, place_keys

PLACES = 3  # of a layer: the attention, what attention adds, what the experts add
STREAM = 0x5851F42D4C957F2D  # keeps these keys apart from those of routing


class Dropout(NamedTuple):
    """What a layer drops."""

    attention: float  # share of the attention that is dropped, 0 for none
    hidden: float  # of the hidden states
    keys: Tensor  # (3,) int64, one for each place

    def of_attention(self, shares: Tensor) -> Tensor:
        return drop(shares, self.attention, self.keys[0])

    def of_attended(self, hidden: Tensor) -> Tensor:
        return drop(hidden, self.hidden, self.keys[1])

    def of_experts(self, hidden: Tensor) -> Tensor:
        return drop(hidden, self.hidden, self.keys[2])


def dropout_keys(key: Tensor, layers: int) -> Tensor:
    """key () int64 of a forward pass (model/moe/place_keys.py) -> (layers, 3) int64."""
    words = place_keys(key ^ STREAM, layers, 2 * PLACES)
    return (words[:, :PLACES] >> 1) << 32 | words[:, PLACES:]


def drop(values: Tensor, share: float, key: Tensor) -> Tensor:
    """values (..., C) with so large a share of them set to 0 and the others divided by 1 - share; as they are where it is 0."""
    if not share:
        return values
    columns = values.shape[-1]
    row = place_keys(key, 1, values.numel() // columns)[0, :, None]
    column = hash_word(torch.arange(columns, device=values.device))
    dropped = hash_word(row ^ column) < int(share * 2**32)  # words of 32 bits
    return values.masked_fill(dropped.view(values.shape), 0.0) * (1 / (1 - share))
