"""Causal self-attention: MHA, GQA and MQA by the number of key-value heads, CLA by who owns the keys and values.

Cross-layer attention (CLA, arXiv:2405.12981): the first layer of each group of cla_share_factor layers computes keys and
values, the others use them. In the released model each layer then scales those keys with a key RMSNorm of its own, and
its code caches the result once per layer. Normalisation without the weight is the same for all of a group, and
q . (w * k) = (q * w) . k, so here the owner caches the plain normalised keys once and each layer puts its key weight
on its queries.

B batch, S sequence, H heads, G key-value heads, P head size, D hidden.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config.hunyuan import HunyuanConfig
from model.layers.kv_cache import KVCache
from model.layers.linear import Linear, project
from model.layers.norm import rms_normalize
from model.layers.rope import rotate


class KeysValues(NamedTuple):
    """What an owner hands to its followers: every token's keys (rotated, normalised, unweighted) and values."""

    keys: Tensor  # (B, G, S, P)
    values: Tensor  # (B, G, S, P)


class Attention(nn.Module):
    """hidden (B, S, D) -> (B, S, D), and the keys and values that were used."""

    def __init__(self, config: HunyuanConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.owns_cache = layer in config.cache_layers
        query_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query_size, bias=bias)
        if self.owns_cache:
            self.k_proj = Linear(config.hidden_size, kv_size, bias=bias)
            self.v_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=bias)
        self._fused: tuple[Tensor, Tensor | None] | None = None  # weight and bias of q, k and v as one (`fuse`)
        self.query_norm: nn.Parameter | None = None
        self.key_norm: nn.Parameter | None = None
        if config.use_qk_norm:
            self.query_norm = nn.Parameter(torch.ones(config.head_dim))
            self.key_norm = nn.Parameter(torch.ones(config.head_dim))

    def forward(
        self, hidden: Tensor, rope: tuple[Tensor, Tensor], shared: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        batch, tokens, _ = hidden.shape
        queries = rotate(self.q_proj(hidden).view(batch, tokens, -1, self.head_dim), *rope)
        if self.query_norm is not None and self.key_norm is not None:
            queries = rms_normalize(queries, self.eps, self.query_norm * self.key_norm)
        if self.owns_cache:
            shared = self._own_keys_values(hidden, rope)
        assert shared is not None, "a layer that borrows keys and values comes after their owner"
        attended = causal_attention(queries.transpose(1, 2), *shared)
        return self.o_proj(attended.transpose(1, 2).reshape(batch, tokens, -1)), shared

    def _own_keys_values(self, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> KeysValues:
        batch, tokens, _ = hidden.shape
        keys = rotate(self.k_proj(hidden).view(batch, tokens, -1, self.head_dim), *rope)
        if self.key_norm is not None:
            keys = rms_normalize(keys, self.eps)
        values = self.v_proj(hidden).view(batch, tokens, -1, self.head_dim)
        return KeysValues(keys.transpose(1, 2), values.transpose(1, 2))

    def infer(
        self, hidden: Tensor, rope: tuple[Tensor, Tensor], shared: KeysValues | None, cache: KVCache
    ) -> tuple[Tensor, KeysValues]:
        """hidden (T, D) of B sequences -> (T, D): what `forward` computes, after the tokens in the cache.

        Queries and keys go through the same steps, so they take them together.
        """
        sequences, head_dim = len(cache.lengths), self.head_dim
        query_heads = self.q_proj.weight.shape[0] // head_dim
        heads = self._project(hidden).view(sequences, -1, self._heads, head_dim)  # (B, S, H + 2 G, P)
        kv_heads = (self._heads - query_heads) // 2
        turned = rotate(heads[:, :, : query_heads + kv_heads], *rope)
        if self.key_norm is not None:
            turned = rms_normalize(turned, self.eps)
        queries, keys = turned.split((query_heads, kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            queries = queries * (self.query_norm * self.key_norm)
        if self.owns_cache:
            values = heads[:, :, query_heads + kv_heads :]
            shared = KeysValues(*cache.store(self.layer, keys.transpose(1, 2), values.transpose(1, 2)))
        assert shared is not None, "a layer that borrows keys and values comes after their owner"
        attended = causal_attention(queries.transpose(1, 2), *shared, mask=cache.mask)
        return project(
            attended.transpose(1, 2).reshape(hidden.shape[0], -1), self.o_proj.weight, self.o_proj.bias
        ), shared

    @property
    def _projections(self) -> list[Linear]:
        return [self.q_proj, self.k_proj, self.v_proj] if self.owns_cache else [self.q_proj]

    @property
    def _heads(self) -> int:
        """Heads that this layer projects: queries and, of an owner, keys and values."""
        return sum(linear.weight.shape[0] for linear in self._projections) // self.head_dim

    @property
    def _is_fused(self) -> bool:
        """Whether every projection still is a view of what `fuse` laid side by side: none was moved, cast or replaced."""
        if self._fused is None:
            return False
        memory = [part.untyped_storage().data_ptr() for part in self._fused if part is not None]
        parts = [part for linear in self._projections for part in (linear.weight, linear.bias) if part is not None]
        return all(part.untyped_storage().data_ptr() in memory for part in parts)

    def _project(self, hidden: Tensor) -> Tensor:
        """hidden (T, D) -> queries and, of an owner, keys and values beside them, (T, (H + 2 G) P)."""
        if self._fused is not None and self._is_fused:
            return project(hidden, *self._fused)
        parts = [project(hidden, linear.weight, linear.bias) for linear in self._projections]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    @torch.no_grad()
    def fuse(self) -> None:
        """Lays the projections of q, k and v side by side, so that `infer` has one product; they become views of it.

        A model that is moved or cast afterwards has projections of its own again, and goes back to three products.
        """
        if self._is_fused:
            return
        weight = torch.cat([linear.weight for linear in self._projections])
        bias = torch.cat([linear.bias for linear in self._projections]) if self.q_proj.bias is not None else None
        start = 0
        for linear in self._projections:
            end = start + linear.weight.shape[0]
            linear.weight.data = weight[start:end]
            if bias is not None:
                linear.bias.data = bias[start:end]
            start = end
        self._fused = (weight, bias)


def repeats_heads(queries: Tensor) -> bool:
    """Whether keys and values are repeated for the query heads of their group before attention.

    No fused kernel of torch 2.11 on a GPU takes float32 in groups: the scores, B * H * S^2, would be kept for backward.
    """
    return queries.device.type == "cuda" and queries.dtype == torch.float32


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of the last S tokens, queries (B, H, S, P), over all tokens so far, keys and values (B, G, S', P).

    With a mask (B, 1, 1, S') one token each of sequences of unequal lengths.
    """
    new, total = queries.shape[2], keys.shape[2]
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    if new == 1:  # the query heads of a group see the same keys: they are the rows of one product
        rows = queries.reshape(queries.shape[0], keys.shape[1], -1, queries.shape[-1])  # (B, G, H / G, P)
        return F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask).reshape(queries.shape)
    if 1 < new < total:  # a chunk after a cached prefix: query i sees the prefix and the chunk up to itself
        mask = torch.ones(new, total, dtype=torch.bool, device=queries.device).tril(total - new)
    grouped = queries.shape[1] != keys.shape[1]
    if grouped and repeats_heads(queries):
        each = queries.shape[1] // keys.shape[1]
        keys, values, grouped = keys.repeat_interleave(each, dim=1), values.repeat_interleave(each, dim=1), False
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=1 < new == total, enable_gqa=grouped
    )
