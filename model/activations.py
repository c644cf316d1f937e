"""The activations that one block keeps for the backward pass, in bytes a token, tensor by tensor; no torch.

The sums are in model/memory.py, which says what is counted and what holds it against the built model.

D hidden, H query heads, G key-value heads, P head size, E experts, K experts per token.
"""

from model.config.shape import Attention, FeedForward, LatentAttention, Layer

VALUE_BYTES = {"bfloat16": 2, "float32": 4}  # of a value in matrix products, and of a moment
FLOAT, INDEX = 4, 8  # bytes: norms and the router are float32, indices int64


def block_bytes(layer: Layer, hidden: int, value: int, operator: bool) -> int:
    """What one block keeps of each token; `value` bytes a value in its products, and in the residual stream."""
    attention = layer.attention
    if isinstance(attention, Attention):
        attended = _attention_bytes(attention, hidden, value)
    else:
        attended = _latent_bytes(attention, hidden, value)
    norms = (FLOAT + value) * hidden + 2 * FLOAT  # the input of the first in float32, that of the second, and 1 / rms
    return norms + attended + _feed_forward_bytes(layer.feed_forward, hidden, value, operator)


def _attention_bytes(a: Attention, hidden: int, value: int) -> int:
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim * a.owns_cache
    repeated = value == FLOAT and a.kv_heads < a.heads  # model/layers/attention.py, repeats_heads: by followers, too
    return (
        value * hidden  # the normalised input of the product for queries, keys and values
        + value * (queries + 2 * keys)  # what that makes
        + value * (queries + 2 * (queries if repeated else keys))  # queries, keys, values as attention reads them
        + value * queries  # attention's output, which o reads
        + FLOAT * a.heads  # log-sum-exp of the scores
    )


def _latent_bytes(a: LatentAttention, hidden: int, value: int) -> int:
    ranks = [rank for rank in (a.q_lora_rank, a.kv_lora_rank) if rank is not None]
    query = a.heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
    return (
        value * hidden * (1 if value == FLOAT else 2)  # the normalised input, for queries and for the latent
        + FLOAT * (sum(ranks) + len(ranks))  # latents, the inputs of their norms, and 1 / rms
        + value * sum(ranks)  # normalised latents, which the expansions read
        + value * (2 * query + a.heads * a.v_head_dim)  # queries, keys, values of every head
        + value * a.heads * a.v_head_dim  # attention's output
        + FLOAT * a.heads  # log-sum-exp
    )


def gathered_keys_bytes(a: Attention | LatentAttention, value: int, parts: int, again: bool) -> int:
    """What a token of one of `parts` processes takes more for there being all keys and values; `again`: with recomputation."""
    if parts == 1 or not isinstance(a, Attention):
        return 0
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    joined = value * queries  # attention's output of both chunks side by side
    if (
        value == FLOAT and a.kv_heads < a.heads
    ):  # repeated for each chunk, up to its end: (2 parts + 1) chunks instead of 2
        return joined + value * (2 * parts - 1) * queries
    return joined + value * 2 * keys * ((parts if again or a.owns_cache else 0) - a.owns_cache)


def _feed_forward_bytes(f: FeedForward, hidden: int, value: int, operator: bool) -> int:
    if not f.num_experts:
        return value * hidden + _swiglu_bytes(f.shared_size, value)
    if operator:  # model/kernels/mixture.py
        return (
            value * hidden
            + FLOAT * f.num_experts  # logits
            + f.topk * 5 * FLOAT  # experts, chosen and final, their weights, and where the rows go and come from
            + f.topk * value * hidden  # dispatched rows
            + 2 * value * (f.shared_size + f.topk * f.routed_size)  # gate and up
        )
    return (
        value * hidden
        + FLOAT * hidden * (value < FLOAT)  # the router's input
        + _swiglu_bytes(f.shared_size, value)
        + FLOAT * f.num_experts  # probabilities
        + FLOAT * (f.topk + 1) * (f.topk > 1)  # chosen probabilities and their sum
        + f.topk * 3 * INDEX  # experts, the order of dispatch and its inverse
        + f.topk * value * hidden  # dispatched rows
        + f.topk * _swiglu_bytes(f.routed_size, value)
        + f.topk * value * (hidden + 1)  # the experts' output and its weight
    )


def _swiglu_bytes(width: int, value: int) -> int:
    return 4 * value * width  # gate and up, silu(gate), their product


def block_constants(layer: Layer) -> int:
    """Whatever the number of tokens: the product of both norm weights, where each expert ends, and its share of choices."""
    attention = layer.attention
    norm = attention.head_dim * attention.qk_norm if isinstance(attention, Attention) else 0
    return FLOAT * (norm + 2 * layer.feed_forward.num_experts)
