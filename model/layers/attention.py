"""Causal self-attention: MHA, GQA and MQA by the number of key-value heads, CLA by who owns the keys and values.

Cross-layer attention (CLA, arXiv:2405.12981): the first layer of each group of cla_share_factor layers computes keys and
values, the others use them. In the released model each layer then scales those keys with a key RMSNorm of its own, and
its code caches the result once per layer. Normalisation without the weight is the same for all of a group, and
q . (w * k) = (q * w) . k, so here the owner caches the plain normalised keys once and each layer puts its key weight
on its queries.

B batch, S sequence, H heads, G key-value heads, P head size, D hidden.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config.hunyuan import HunyuanConfig
from model.kernels.choice import uses_triton
from model.kernels.continued import attend_at_the_end, continues
from model.kernels.rotary import split_and_turn
from model.layers.dropout import Dropout
from model.layers.kv_cache import BranchPass, CachePass, visible
from model.layers.linear import Linear, project_stacked, project_together, stacks
from model.layers.norm import rms_normalize
from model.layers.rope import rotate

SMALL_HEAD = 64


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
        self.query_norm: nn.Parameter | None = None
        self.key_norm: nn.Parameter | None = None
        if config.use_qk_norm:
            self.query_norm = nn.Parameter(torch.ones(config.head_dim))
            self.key_norm = nn.Parameter(torch.ones(config.head_dim))
        # What model/parallel/sequence.py exchanges, where a process has a part of each sequence. Not used with a cache.
        self.hand_on: Callable[[KeysValues], KeysValues] = as_they_are
        self.attend: Callable[..., Tensor] = causal_attention

    def forward(
        self,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        shared: KeysValues | None,
        cache: CachePass | BranchPass | None = None,
        mask: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """With a cache the new tokens see those before them, and the keys and values are all that are stored.

        Without one `mask` is what `attend` reads: (B, 1, S, S), what each query sees; None: the tokens up to its own.
        """
        batch, tokens, _ = hidden.shape
        queries, own = self._queries_keys_values(hidden, rope, cache)
        if own is not None:
            shared = self.hand_on(own) if cache is None else KeysValues(*cache.store(self.layer, *own))
        assert shared is not None, "a layer that borrows keys and values comes after their owner"
        attend, mask = (self.attend, mask) if cache is None else (causal_attention, cache.mask)
        attended = attend(queries.transpose(1, 2), *shared, mask=mask, dropout=dropout)
        return self.o_proj(attended.transpose(1, 2).reshape(batch, tokens, -1)), shared

    def _queries_keys_values(
        self, hidden: Tensor, rope: tuple[Tensor, Tensor], cache: CachePass | BranchPass | None
    ) -> tuple[Tensor, KeysValues | None]:
        """Queries (B, S, H, P), and the keys and values of an owner."""
        weight = None if self.query_norm is None or self.key_norm is None else self.query_norm * self.key_norm
        layers = [self.q_proj, self.k_proj, self.v_proj] if self.owns_cache else [self.q_proj]
        if stacks(hidden) and uses_triton(hidden) and cache is None:
            heads = [layer.out_features // self.head_dim for layer in layers]
            queries, keys, values = split_and_turn(
                project_stacked(hidden, layers), rope, weight, self.eps, heads=heads[0], kv_heads=sum(heads[2:])
            )
            own = KeysValues(keys.transpose(1, 2), values.transpose(1, 2)) if self.owns_cache else None
            return queries, own
        queries, *projected = project_together(hidden, layers)
        queries = self._turned(queries, rope, weight)
        if not projected:
            return queries, None
        keys, values = self._turned(projected[0], rope), projected[1]
        return queries, KeysValues(keys.transpose(1, 2), values.view(keys.shape).transpose(1, 2))

    def _turned(self, projected: Tensor, rope: tuple[Tensor, Tensor], weight: Tensor | None = None) -> Tensor:
        """Queries or keys (B, S, H P) -> (B, S, H, P), rotated and, where the model has norms for them, normalised."""
        turned = rotate(projected.view(*projected.shape[:-1], -1, self.head_dim), *rope)
        if self.key_norm is not None:
            turned = rms_normalize(turned, self.eps, weight)
        return turned.to(projected.dtype)


def as_they_are(own: KeysValues) -> KeysValues:
    """What an owner hands on of its keys and values, where a process has whole sequences."""
    return own


def repeats_heads(queries: Tensor, mask: Tensor | None = None) -> bool:
    """Whether keys and values are repeated for the query heads of their group before attention.

    No fused kernel of torch 2.11 on a GPU takes float32 in groups, nor a mask: the scores, B * H * S^2, would be kept for
    backward.
    """
    return queries.device.type == "cuda" and (queries.dtype == torch.float32 or mask is not None)


def kernel_precision(queries: Tensor) -> AbstractContextManager[object]:
    """Autocast, but for small float32 heads on a processor: torch's backward pass of them takes twice as long in bfloat16."""
    if queries.device.type == "cpu" and queries.dtype == torch.float32 and queries.shape[-1] < SMALL_HEAD:
        return torch.autocast("cpu", enabled=False)
    return nullcontext()


def causal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: Dropout | None = None
) -> Tensor:
    """Attention of the last S tokens, queries (B, H, S, P), over all tokens so far, keys and values (B, G, S', P).

    The mask (model/layers/kv_cache.py, documents.py) says what each query sees. Without one each sees the tokens up to its
    own, and the last one all.
    """
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    if dropout is not None and dropout.attention:
        return attention_with_dropout(queries, keys, values, mask, dropout)
    if queries.shape[2] == 1:  # the query heads of a group see the same keys: they are the rows of one product
        rows = queries.reshape(queries.shape[0], keys.shape[1], -1, queries.shape[-1])  # (B, G, H / G, P)
        if torch.compiler.is_compiling() and mask is not None:  # written out it melts into what stands around it
            scores = (rows @ keys.transpose(2, 3)).float() * rows.shape[-1] ** -0.5
            shares = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
            return (shares.to(rows.dtype) @ values).reshape(queries.shape)
        return F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask).reshape(queries.shape)
    if mask is None and queries.shape[2] != keys.shape[2]:
        if continues(keys):
            return attend_at_the_end(queries, keys, values)
        places = keys.shape[2]
        mask = visible(torch.arange(places - queries.shape[2], places, device=keys.device), places)
    grouped = queries.shape[1] != keys.shape[1]
    if grouped and repeats_heads(queries, mask):
        each = queries.shape[1] // keys.shape[1]
        keys, values, grouped = keys.repeat_interleave(each, dim=1), values.repeat_interleave(each, dim=1), False
    with kernel_precision(queries):
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        ).to(queries.dtype)


def attention_with_dropout(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: Dropout
) -> Tensor:
    """The same with a share of the attention dropped, written out: B * H * S * S shares are held for the backward pass.

    The kernels that do not hold them draw from generators of their own, which differ between devices and versions.
    """
    each, tokens = queries.shape[1] // keys.shape[1], queries.shape[2]
    keys, values = keys.repeat_interleave(each, dim=1), values.repeat_interleave(each, dim=1)
    if mask is None:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=queries.device).tril()
    with kernel_precision(queries):
        scores = (queries @ keys.transpose(2, 3)).float() * queries.shape[-1] ** -0.5
        shares = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        return (dropout.of_attention(shares).to(queries.dtype) @ values).to(queries.dtype)
