"""The weights of a model that one rank of a layout holds, tensor by tensor, in closed form; no torch.

As model/parallel/shard.py shares them out: dense weights by rows, stacked experts by expert and then by FSDP, and what is
small, norms, biases and routers, everyone has whole. A part that does not divide evenly is counted as the first rank's.

V vocabulary, D hidden, E experts, F width of an expert.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from model.config.shape import Attention, FeedForward, Layer, ModelShape
from model.parallel.layout import Layout


class Weight(NamedTuple):
    """A parameter; of a sum of several that only their number matters of, one row."""

    rows: int
    columns: int
    stack: int = 0  # experts one upon the other
    is_small: bool = False  # held whole by every rank, in float32
    is_split: bool = False  # in lower precision kept in two halves (model/training/split_adamw.py)

    @property
    def values(self) -> int:
        return self.rows * self.columns * max(1, self.stack)


@cache
def block_weights(layer: Layer, hidden: int) -> tuple[Weight, ...]:
    """Those of one block."""
    attention, f = layer.attention, layer.feed_forward
    found = [Weight(1, attention.biases(hidden) + attention.norms + 2 * hidden, is_small=True)]
    if isinstance(attention, Attention):
        queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
        shapes = [(queries, hidden), (hidden, queries), *([(keys, hidden)] * 2 if attention.owns_cache else [])]
        found += [Weight(*shape, is_split=True) for shape in shapes]
    else:  # not built here: shared out to the value
        found.append(Weight(attention.weights(hidden), 1, is_split=True))
    return *found, *_feed_forward_weights(f, hidden)


def _feed_forward_weights(f: FeedForward, hidden: int) -> Iterator[Weight]:
    if f.shared_size:
        yield Weight(2 * f.shared_size, hidden, is_split=True)
        yield Weight(hidden, f.shared_size, is_split=True)
    if f.num_experts:
        yield Weight(1, f.num_experts * (hidden + f.router_bias), is_small=True)
        yield Weight(2 * f.routed_size, hidden, f.num_experts, is_split=True)
        yield Weight(hidden, f.routed_size, f.num_experts, is_split=True)


def root_weights(shape: ModelShape) -> tuple[Weight, ...]:
    """Embedding, final norm, head."""
    embedding = Weight(shape.vocab_size, shape.hidden_size)
    return embedding, Weight(1, shape.hidden_size, is_small=True), *(() if shape.tied else (embedding,))


@cache
def kinds_of(shape: ModelShape) -> Counter[Layer]:
    """Its blocks by their sizes, and how many have the same."""
    return Counter(shape.layers)


@cache
def weights_of(shape: ModelShape) -> Counter[Weight]:
    """All of them, and how many have the same sizes."""
    found = Counter(root_weights(shape))
    for layer, times in kinds_of(shape).items():
        for weight in block_weights(layer, shape.hidden_size):
            found[weight] += times
    return found


@cache
def held_values(weight: Weight, layout: Layout) -> int:
    """Values that the first rank holds."""
    if weight.is_small:
        return weight.values
    if not weight.stack:
        return -(-weight.rows // layout.shard) * weight.columns
    own, parts = weight.stack // layout.expert_parallel, layout.expert_shard
    if layout.expert_shard_dim(weight.stack) == 0:
        return own // parts * weight.rows * weight.columns
    return own * -(-weight.rows // parts) * weight.columns


@cache
def gathered_values(weights: tuple[Weight, ...], layout: Layout) -> tuple[int, int]:
    """Values that FSDP gathers on a rank for these weights to be used: dense ones, and experts."""
    dense = experts = 0
    for weight in weights:
        if weight.stack and layout.processes > layout.expert_parallel:
            experts += weight.values // layout.expert_parallel
        elif not weight.stack and not weight.is_small:
            dense += weight.values
    return (dense, experts) if layout.processes > 1 else (0, 0)


def check_fits(shape: ModelShape, layout: Layout, context: int | None = None) -> None:
    """ConfigError for a model whose experts, or a context whose tokens, the layout cannot share out."""
    blocks = {layer.feed_forward for layer in shape.layers}
    for block in {f for f in blocks if f.num_experts} or {FeedForward()}:
        rows = (2 * block.routed_size, shape.hidden_size) if block.num_experts else ()
        layout.check_fits(num_experts=block.num_experts, expert_rows=rows, sequence_length=context)
