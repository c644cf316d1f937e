"""KVCache: keys and values of the tokens so far, one slot per layer that owns them.

With cross-layer attention only the first layer of each group owns a slot; its followers read it (model/layers/attention.py).
B batch, G key-value heads, S sequence, P head size.
"""

import torch
from torch import Tensor

from model.config import HunyuanConfig


class KVCache:
    """Space for `max_tokens` tokens of `batch` sequences, allocated at once; `length` tokens are filled."""

    def __init__(
        self,
        config: HunyuanConfig,
        *,
        batch: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        shape = (batch, config.num_key_value_heads, max_tokens, config.head_dim)
        self.slots = {
            layer: (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for layer in config.cache_layers
        }

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, G, S, P) after the filled tokens; returns all of them, these included.

        Every layer of one pass writes at the same place: the caller moves on with `advance` when the pass is over.
        """
        end = self.length + keys.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache holds {self.max_tokens} tokens, {end} were to be stored")
        slot_keys, slot_values = self.slots[layer]
        slot_keys[:, :, self.length : end] = keys
        slot_values[:, :, self.length : end] = values
        return slot_keys[:, :, :end], slot_values[:, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    @property
    def bytes(self) -> int:
        """Allocated bytes; equal to counts.kv_cache_bytes for max_tokens."""
        return sum(tensor.numel() * tensor.element_size() for slot in self.slots.values() for tensor in slot)
