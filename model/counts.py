"""Parameters, FLOPs and cache bytes of a model in closed form; no torch.

Every count is an integer and equal to what the built model holds, allocates or computes (tests/model/test_counts.py).
Activated means used for one token: a tied embedding counts once, of the routed experts only the chosen ones count.
A model is a HunyuanConfig or, for the systems that are only counted, a ModelShape.

D hidden, V vocabulary, L layers, E experts, K experts per token, F width of an expert, P head size.
"""

from dataclasses import dataclass

from model.config.hunyuan import HunyuanConfig
from model.config.shape import ModelShape, shape_of
from model.config.storage import BF16, Storage

RULES = {
    "embedding": "V * D, once; the head too where tied",
    "attention": "projections q, k, v, o and their biases; a borrowing layer (CLA) has no k and v",
    "shared": "3 * D * width of what every token visits: dense blocks and shared experts",
    "routed": "3 * D * F * E per layer; activated K of the E",
    "router": "D * E per layer, and one bias per expert where the model has it",
    "norms": "2 D per layer, D at the end, and those inside attention",
    "head": "V * D; 0 where tied to the embedding",
}


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one component: all of them, and those that one token uses."""

    total: int
    activated: int


def parameter_counts(model: HunyuanConfig | ModelShape) -> dict[str, ParameterCount]:
    """Parameters by component, in the order of RULES; a dense block is `shared`."""
    shape = shape_of(model)
    hidden = shape.hidden_size
    blocks = [layer.feed_forward for layer in shape.layers]
    attentions = [layer.attention for layer in shape.layers]
    embedding = shape.vocab_size * hidden
    same = {
        "embedding": embedding,
        "attention": sum(attention.weights(hidden) + attention.biases(hidden) for attention in attentions),
        "shared": sum(3 * hidden * block.shared_size for block in blocks),
        "router": sum(block.num_experts * (hidden + block.router_bias) for block in blocks),
        "norms": hidden + sum(2 * hidden + attention.norms for attention in attentions),
        "head": 0 if shape.tied else embedding,
    }
    counts = {name: ParameterCount(count, count) for name, count in same.items()}
    expert = [3 * hidden * block.routed_size for block in blocks]
    counts["routed"] = ParameterCount(
        sum(size * block.num_experts for size, block in zip(expert, blocks, strict=True)),
        sum(size * block.topk for size, block in zip(expert, blocks, strict=True)),
    )
    return {name: counts[name] for name in RULES}


def total_params(model: HunyuanConfig | ModelShape) -> int:
    return sum(count.total for count in parameter_counts(model).values())


def activated_params(model: HunyuanConfig | ModelShape) -> int:
    return sum(count.activated for count in parameter_counts(model).values())


def flops_by_component(model: HunyuanConfig | ModelShape, context: int) -> dict[str, int]:
    """FLOPs of one token's forward pass: 2 per multiply-add of every matrix product, attention over `context` keys.

    The mean causal query sees half of the context; by the field's convention (PaLM, arXiv:2204.02311, appendix B, and
    torch's counter) the full square is counted, of a sliding window the full window. Norms, rotations, biases and softmax
    are left out, as there. `attention` is its projections, `scores` queries by keys and probabilities by values.
    """
    shape = shape_of(model)
    hidden = shape.hidden_size
    attentions = [layer.attention for layer in shape.layers]
    blocks = [layer.feed_forward for layer in shape.layers]
    multiply_adds = {
        "attention": sum(attention.weights(hidden) for attention in attentions),
        "scores": sum(a.values_per_key * min(context, a.window or context) for a in attentions),
        "shared": sum(3 * hidden * block.shared_size for block in blocks),
        "routed": sum(3 * hidden * block.routed_size * block.topk for block in blocks),
        "router": sum(hidden * block.num_experts for block in blocks),
        "head": shape.vocab_size * hidden,
    }
    return {name: 2 * count for name, count in multiply_adds.items()}


def forward_flops_per_token(model: HunyuanConfig | ModelShape, context: int) -> int:
    """The sum of flops_by_component."""
    return sum(flops_by_component(model, context).values())


def training_flops_per_token(model: HunyuanConfig | ModelShape, context: int) -> int:
    """FLOPs of one token's forward and backward pass; backward computes two products for each of the forward's."""
    return 3 * forward_flops_per_token(model, context)


def kv_cache_bytes(
    model: HunyuanConfig | ModelShape,
    *,
    tokens: int,
    batch: int = 1,
    storage: Storage = BF16,
    block_size: int = 1,
    tensor_parallel: int = 1,
) -> int:
    """Bytes of keys and values, on one device, for `batch` sequences of `tokens` tokens (table 2 of the report: tokens=1).

    Paged allocation rounds each sequence up to whole blocks of `block_size` tokens. Tensor parallelism shares out heads:
    a device holds ceil(heads / tensor_parallel) of them, so beyond the number of key-value heads each has a whole one, and
    a latent cache (MLA), which is for all heads, lies on every device. A layer with a sliding window keeps that many tokens.
    """
    total = 0
    for layer in shape_of(model).layers:
        attention = layer.attention
        heads = -(-attention.cache_heads // tensor_parallel)
        token = sum(storage.row_bytes(heads * values) for values in attention.cache_rows)
        kept = min(tokens, attention.window or tokens)
        total += token * -(-kept // block_size) * block_size
    return total * batch
