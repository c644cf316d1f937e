"""KVCache: keys and values of the tokens so far, one slot per layer that owns them.

With cross-layer attention only the first layer of each group owns a slot; its followers read it (model/layers/attention.py).
Sequences may differ in length: a pass of several tokens needs sequences of one length, a pass of one token each does not.

B batch, G key-value heads, S sequence, P head size.
"""

from typing import Self

import torch
from torch import Tensor

from model.config.hunyuan import HunyuanConfig


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
        self.mask: Tensor | None = None  # (B, 1, 1, S): what each sequence sees in this pass, of unequal lengths
        self._place: tuple[Tensor, Tensor] | None = None  # sequence and position of each new token, likewise
        self._end = 0  # after this pass, of the longest sequence
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
        view.mask, view._place, view._end = None, None, view.length
        return view

    def move(self, source: int, target: int) -> None:
        """Copies a sequence over another one."""
        length = self.lengths[target] = self.lengths[source]
        for slot in self.slots.values():
            for tensor in slot:
                tensor[target, :, :length] = tensor[source, :, :length]

    def begin(self, tokens: int, device: torch.device) -> Tensor:
        """Prepares a pass of so many new tokens a sequence; returns their positions, (S,) or, of unequal lengths, (B, 1)."""
        if self.length + tokens > self.max_tokens:
            raise ValueError(f"the cache holds {self.max_tokens} tokens, {self.length + tokens} were to be stored")
        self.mask, self._place, self._end = None, None, self.length + tokens
        if len(set(self.lengths)) == 1:
            return torch.arange(self.length, self.length + tokens, device=device)
        if tokens != 1:
            raise ValueError("sequences of unequal lengths go on by one token at a time")
        positions = torch.tensor(self.lengths, device=device)
        self._place = (torch.arange(len(self.lengths), device=device), positions)
        self.mask = (torch.arange(self._end, device=device) <= positions[:, None])[:, None, None]
        return positions[:, None]

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, G, S, P) after the filled tokens; returns all up to the longest sequence's.

        Every layer of one pass writes at the same place: the caller moves on with `advance` when the pass is over.
        """
        slot_keys, slot_values = self.slots[layer]
        if self._place is None:
            start = self._end - keys.shape[2]
            slot_keys[:, :, start : self._end] = keys
            slot_values[:, :, start : self._end] = values
        else:
            sequence, position = self._place
            slot_keys[sequence, :, position] = keys[:, :, 0].to(slot_keys.dtype)
            slot_values[sequence, :, position] = values[:, :, 0].to(slot_values.dtype)
        return slot_keys[:, :, : self._end], slot_values[:, :, : self._end]

    def advance(self, tokens: int) -> None:
        self.lengths = [length + tokens for length in self.lengths]

    @property
    def bytes(self) -> int:
        """Allocated bytes; equal to counts.kv_cache_bytes for max_tokens."""
        return sum(tensor.numel() * tensor.element_size() for slot in self.slots.values() for tensor in slot)
