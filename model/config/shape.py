"""ModelShape: the sizes on which a model's counts and memory depend, for every architecture that can be counted; no torch.

One layer after the other, so that windows, cross-layer sharing and leading dense layers need no special case.
D hidden, H query heads, G key-value heads, P head size.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

from model.config.hunyuan import HunyuanConfig


@dataclass(frozen=True, kw_only=True)
class Attention:
    """MHA, GQA or MQA of one layer, over all tokens or a sliding window of them."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None  # the most keys a query sees, itself included; None is all
    owns_cache: bool = True  # False borrows the keys and values of an earlier layer (CLA)
    qk_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False

    def weights(self, hidden: int, tensor_parallel: int = 1) -> int:
        """Parameters of the matrix products q, k, v and o; on one of several devices those of its heads."""
        heads, kv_heads = -(-self.heads // tensor_parallel), -(-self.kv_heads // tensor_parallel)
        return hidden * self.head_dim * (2 * heads + (2 * kv_heads if self.owns_cache else 0))

    def biases(self, hidden: int) -> int:
        heads = self.heads + (2 * self.kv_heads if self.owns_cache else 0)
        return heads * self.head_dim * self.qkv_bias + hidden * self.output_bias

    @property
    def norms(self) -> int:
        return 2 * self.head_dim * self.qk_norm

    @property
    def values_per_key(self) -> int:
        """Multiply-adds of one query with one key and its value, over all heads."""
        return 2 * self.heads * self.head_dim

    @property
    def cache_heads(self) -> int:
        """Heads of the cache, which tensor parallelism can share out."""
        return self.kv_heads

    @property
    def cache_rows(self) -> tuple[int, ...]:
        """Values per head and token of each tensor in the cache: keys, values; nothing for a borrower."""
        return (self.head_dim, self.head_dim) if self.owns_cache else ()


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA, DeepSeek-V2, arXiv:2405.04434).

    The cache holds one latent and one rotated key a token, for all heads together.
    """

    heads: int
    q_lora_rank: int | None  # None projects the queries directly
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    bias: bool = False
    window: int | None = None
    owns_cache: bool = True

    def weights(self, hidden: int, tensor_parallel: int = 1) -> int:
        """Parameters of the matrix products; the projections to the latents lie on every one of several devices."""
        heads = -(-self.heads // tensor_parallel)
        query = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        queries = hidden * query if self.q_lora_rank is None else self.q_lora_rank * (hidden + query)
        latent = hidden * (self.kv_lora_rank + self.qk_rope_head_dim)
        expanded = self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        return queries + (latent if self.owns_cache else 0) + expanded + heads * self.v_head_dim * hidden

    def biases(self, hidden: int) -> int:
        return ((self.q_lora_rank or 0) + self.kv_lora_rank + self.qk_rope_head_dim + hidden) * self.bias

    @property
    def norms(self) -> int:
        return (self.q_lora_rank or 0) + self.kv_lora_rank

    @property
    def values_per_key(self) -> int:
        return self.heads * (self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim)

    @property
    def cache_heads(self) -> int:
        return 1

    @property
    def cache_rows(self) -> tuple[int, ...]:
        return (self.kv_lora_rank, self.qk_rope_head_dim) if self.owns_cache else ()


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """SwiGLUs of one layer: a dense block is one that every token visits, with nothing routed."""

    shared_size: int = 0  # width of what every token visits: dense block or shared experts together
    routed_size: int = 0  # width of one routed expert
    num_experts: int = 0  # routed
    topk: int = 0
    router_bias: bool = False  # one value per expert that balances the choice (arXiv:2408.15664)


@dataclass(frozen=True, kw_only=True)
class Layer:
    attention: Attention | LatentAttention
    feed_forward: FeedForward


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder-only model: embedding, layers, final norm, head."""

    name: str
    model_type: str  # as in config.json
    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    tied: bool
    max_position_embeddings: int

    def replace(self, **changes: object) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def with_attention(self, attention: tuple[Attention | LatentAttention, ...]) -> Self:
        """The same model with other attention, one for each layer."""
        layers = tuple(
            dataclasses.replace(layer, attention=new) for layer, new in zip(self.layers, attention, strict=True)
        )
        return self.replace(layers=layers)


def shape_of(model: HunyuanConfig | ModelShape, name: str = "") -> ModelShape:
    """The shape of a configuration of this project; a shape is returned as it is."""
    if isinstance(model, ModelShape):
        return model
    c, owners = model, set(model.cache_layers)
    dense = FeedForward(shared_size=c.intermediate_size)
    mixtures = [
        FeedForward(
            shared_size=c.num_shared_expert * c.intermediate_size,
            routed_size=c.intermediate_size,
            num_experts=c.num_experts,
            topk=c.topk(layer),
        )
        for layer in range(c.num_hidden_layers)
    ]
    layers = tuple(
        Layer(
            attention=Attention(
                heads=c.num_attention_heads,
                kv_heads=c.num_key_value_heads,
                head_dim=c.head_dim,
                owns_cache=index in owners,
                qk_norm=c.use_qk_norm,
                qkv_bias=c.attention_bias,
                output_bias=c.attention_bias,
            ),
            feed_forward=dense if c.is_dense else mixtures[index],
        )
        for index in range(c.num_hidden_layers)
    )
    return ModelShape(
        name=name,
        model_type="hunyuan",
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        layers=layers,
        tied=c.tie_word_embeddings,
        max_position_embeddings=c.max_position_embeddings,
    )
