"""Parameters, FLOPs and cache bytes of a configuration in closed form; no torch.

Every count is an integer and equal to what the built model holds, allocates or computes (tests/model/test_counts.py).
Activated means used for one token: a tied embedding counts once, of the routed experts only moe_topk count.
"""

from dataclasses import dataclass

from model.config import HunyuanConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one component: all of them, and those that one token uses."""

    total: int
    activated: int


def parameter_counts(config: HunyuanConfig) -> dict[str, ParameterCount]:
    """Parameters by component: embedding, attention, shared, routed, router, norms, head. A dense block is `shared`."""
    c = config
    owners = len(c.cache_layers)  # a layer that borrows its keys and values has no k and v projection
    query_size, kv_size = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = c.num_hidden_layers * 2 * c.hidden_size * query_size + owners * 2 * c.hidden_size * kv_size
    if c.attention_bias:
        attention += c.num_hidden_layers * (query_size + c.hidden_size) + owners * 2 * kv_size
    expert = 3 * c.hidden_size * c.intermediate_size  # gate, up and down
    always = expert * (1 if c.is_dense else c.num_shared_expert) * c.num_hidden_layers
    routed, routed_activated, router = 0, 0, 0
    if not c.is_dense:
        routed, routed_activated = (expert * n * c.num_hidden_layers for n in (c.num_experts, c.moe_topk))
        router = c.hidden_size * c.num_experts * c.num_hidden_layers
    norms = (2 * c.num_hidden_layers + 1) * c.hidden_size
    norms += 2 * c.head_dim * c.num_hidden_layers if c.use_qk_norm else 0
    embedding = c.vocab_size * c.hidden_size
    same = {
        "embedding": embedding,
        "attention": attention,
        "shared": always,
        "router": router,
        "norms": norms,
        "head": 0 if c.tie_word_embeddings else embedding,
    }
    counts = {name: ParameterCount(count, count) for name, count in same.items()}
    return counts | {"routed": ParameterCount(routed, routed_activated)}


def total_params(config: HunyuanConfig) -> int:
    return sum(count.total for count in parameter_counts(config).values())


def activated_params(config: HunyuanConfig) -> int:
    return sum(count.activated for count in parameter_counts(config).values())


def forward_flops_per_token(config: HunyuanConfig, context: int) -> int:
    """FLOPs of one token's forward pass: 2 per multiply-add of every matrix product, attention over `context` keys.

    The mean causal query sees half of the context; by the field's convention (PaLM, arXiv:2204.02311, appendix B, and
    torch's counter) the full square is counted. Norms, rotations and softmax are left out, as there.
    """
    counts = parameter_counts(config)
    matrices = sum(counts[name].activated for name in ("attention", "shared", "routed", "router"))
    if config.attention_bias:  # additions, not products
        query_size, kv_size = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        matrices -= config.num_hidden_layers * (query_size + config.hidden_size)
        matrices -= len(config.cache_layers) * 2 * kv_size
    head = config.vocab_size * config.hidden_size
    scores = 2 * context * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return 2 * (matrices + head + scores)


def training_flops_per_token(config: HunyuanConfig, context: int) -> int:
    """FLOPs of one token's forward and backward pass; backward computes two products for each of the forward's."""
    return 3 * forward_flops_per_token(config, context)


def kv_cache_bytes(config: HunyuanConfig, *, tokens: int, batch: int = 1, bytes_per_value: int = 2) -> int:
    """Bytes of keys and values for `batch` sequences of `tokens` tokens (table 2 of the report is tokens=1 in bf16)."""
    values = 2 * config.num_key_value_heads * config.head_dim * len(config.cache_layers)
    return values * tokens * batch * bytes_per_value
