"""KVCache: keys and values of the tokens so far, one slot per layer that owns them.

With cross-layer attention only the first layer of each group owns a slot; its followers read it (model/layers/attention.py).
Sequences may differ in length: a pass of several tokens needs sequences of one length, a pass of one token each does not.

B batch, G key-value heads, S sequence, P head size.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Self

import torch
from torch import Tensor

from model.config.hunyuan import HunyuanConfig
from model.kernels.continued import continues


class CachePass(NamedTuple):
    """One pass of new tokens, in tensors alone: a compiled program or a recorded graph takes it as it is."""

    slots: dict[int, tuple[Tensor, Tensor]]  # keys and values (B, G, S', P) by the layer that owns them
    positions: Tensor  # of the new tokens: (S,), alike for all sequences, or (B, 1)
    mask: Tensor | None  # which of the S' places each new token sees, (S, S') or (B, 1, 1, S'); None: causal

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, G, S, P) of the new tokens to their positions; returns those of all places."""
        slot = self.slots[layer]
        for there, new in zip(slot, (keys.to(slot[0].dtype), values.to(slot[1].dtype)), strict=True):
            if self.positions.dim() == 1:
                there.index_copy_(2, self.positions, new)
            else:
                there[torch.arange(len(new), device=new.device), :, self.positions[:, 0]] = new[:, :, 0]
        return slot


def visible(positions: Tensor, places: int) -> Tensor:
    """The mask of a pass over so many places: a token sees those up to its own."""
    seen = torch.arange(places, device=positions.device) <= positions[..., None]
    return seen if positions.dim() == 1 else seen[:, None]


@dataclass
class BranchPass:
    """One pass of new tokens behind a prefix that is read and left as it is: rows may branch off it, and one row into several.

    What it stores is the prefix and the new tokens together, and can be the prefix of the next pass.
    """

    prefix: dict[
        int, tuple[Tensor, Tensor]
    ]  # keys and values (1 or B, G, S', P) by the layer that owns them; may be empty
    positions: Tensor  # of the new tokens: (S,) or (B, S)
    mask: (
        Tensor | None
    )  # which of the S' + S places each new token sees, (S, S' + S) or (B, 1, S, S' + S); None: causal
    slots: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # (B, G, S' + S, P), once the pass is over

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Puts keys and values (B, G, S, P) of the new tokens behind those of the prefix; returns those of all places."""
        if layer in self.prefix:
            before = (part.expand(len(keys), -1, -1, -1) for part in self.prefix[layer])
            keys, values = (torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True))
        self.slots[layer] = keys, values
        return keys, values


class KVCache:
    """Space for `max_tokens` tokens of `batch` sequences, allocated at once; `lengths` tokens of each are filled."""

    def __init__(
        self,
        config: HunyuanConfig,
        *,
        batch: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_tokens = max_tokens
        self.lengths = [0] * batch
        shape = (batch, config.num_key_value_heads, max_tokens, config.head_dim)
        self.slots = {
            layer: (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for layer in config.cache_layers
        }

    @property
    def length(self) -> int:
        """Tokens filled of the longest sequence."""
        return max(self.lengths, default=0)

    def rows(self, start: int, stop: int) -> Self:
        """Sequences [start, stop) as a cache of their own over the same memory; `lengths` is a copy."""
        view = object.__new__(type(self))
        view.max_tokens, view.lengths = self.max_tokens, self.lengths[start:stop]
        view.slots = {layer: (keys[start:stop], values[start:stop]) for layer, (keys, values) in self.slots.items()}
        return view

    def move(self, source: int, target: int) -> None:
        """Copies a sequence over another one."""
        length = self.lengths[target] = self.lengths[source]
        for slot in self.slots.values():
            for tensor in slot:
                tensor[target, :, :length] = tensor[source, :, :length]

    def begin(self, tokens: int) -> CachePass:
        """A pass of so many new tokens a sequence, after the filled ones and over the places up to the longest sequence's.

        Every layer writes at the same positions: the caller moves on with `advance` when the pass is over.
        """
        end = self.length + tokens
        if end > self.max_tokens:
            raise ValueError(f"the cache holds {self.max_tokens} tokens, {end} were to be stored")
        keys = next(iter(self.slots.values()))[0]
        device = keys.device
        slots = {
            layer: (keys.narrow(2, 0, end), values.narrow(2, 0, end)) for layer, (keys, values) in self.slots.items()
        }
        if len(set(self.lengths)) == 1:
            positions = torch.arange(self.length, end, device=device)
            # One token sees all that are there, and a whole sequence is causal as it is; a part needs a mask or a kernel.
            unmasked = tokens in (1, end) or continues(keys)
            return CachePass(slots, positions, None if unmasked else visible(positions, end))
        if tokens != 1:
            raise ValueError("sequences of unequal lengths go on by one token at a time")
        positions = torch.tensor(self.lengths, device=device)[:, None]
        return CachePass(slots, positions, visible(positions, end))

    def advance(self, tokens: int) -> None:
        self.lengths = [length + tokens for length in self.lengths]

    @property
    def bytes(self) -> int:
        """Allocated bytes; equal to counts.kv_cache_bytes for max_tokens."""
        return sum(tensor.numel() * tensor.element_size() for slot in self.slots.values() for tensor in slot)
