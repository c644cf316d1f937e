"""The bytes that a rank sends to others in one training step, exchange by exchange, in closed form; no torch.

A collective is counted as a ring carries it: of a buffer of B bytes a rank of n sends B (n - 1) / n to have it gathered, as
much to have it summed and shared out (reduce-scatter), twice as much to have the sum (all-reduce), and of its own rows those
that others need (all-to-all). Routing is taken to be balanced. Left out: the counts that go ahead of rows, those that processes
exchange which share places or a balance loss (places.py), and checkpoints.

FSDP gathers the weights of blocks for the forward pass and, where it does not keep them, again for the backward pass, embedding
and head once, and sums the gradients of every micro-batch. It is taken to have no room to keep them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from model.activations import FLOAT, INDEX, VALUE_BYTES
from model.config.hunyuan import HunyuanConfig
from model.config.shape import Attention, ModelShape, shape_of
from model.parallel.layout import Layout
from model.parallel.weights import block_weights, gathered_values, kinds_of, root_weights, weights_of

Collective = Literal["all-gather", "reduce-scatter", "all-to-all", "all-reduce"]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What one kind of exchange has a rank send in a step."""

    name: str
    collective: Collective
    ranks: int  # that exchange with each other
    stride: int  # of their numbers: 1 are neighbours
    bytes: int  # sent by a rank
    overlaps: bool  # whether products go on meanwhile
    rule: str


def traffic(
    model: HunyuanConfig | ModelShape,
    layout: Layout,
    *,
    batch: int,
    context: int,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
    recompute: bool = False,
    micro_batches: int = 1,
) -> list[Exchange]:
    """Of a step with so many micro-batches on each rank, of `batch` sequences of `context` tokens; those that send bytes."""
    found = _exchanges(shape_of(model), layout, batch * context, VALUE_BYTES[precision], recompute, micro_batches)
    return [exchange for exchange in found if exchange.bytes]


def _exchanges(
    shape: ModelShape, layout: Layout, tokens: int, value: int, recompute: bool, times: int
) -> Iterator[Exchange]:
    hidden, again = shape.hidden_size, 1 + recompute
    dense = experts = 0
    for layer, count in kinds_of(shape).items():
        of_all, of_experts = gathered_values(block_weights(layer, hidden), layout)
        dense, experts = dense + value * count * of_all, experts + value * count * of_experts
    root = FLOAT * sum(gathered_values(root_weights(shape), layout))

    def exchange(
        name: str, collective: Collective, ranks: int, stride: int, whole: int, rule: str, *, overlaps: bool = False
    ) -> Exchange:
        sent = (2 if collective == "all-reduce" else 1) * whole * (ranks - 1) // ranks
        return Exchange(
            name=name, collective=collective, ranks=ranks, stride=stride, bytes=sent, overlaps=overlaps, rule=rule
        )

    shard, part, parallel = layout.shard, layout.expert_shard, layout.expert_parallel
    yield exchange(
        "dense weights", "all-gather", shard, 1, times * (2 * dense + root),
        f"{value} bytes a weight of blocks twice, {FLOAT} of embedding and head, a micro-batch", overlaps=True,
    )  # fmt: skip
    yield exchange(
        "expert weights", "all-gather", part, parallel, times * 2 * experts,
        f"{value} bytes a weight of a rank's experts twice, a micro-batch", overlaps=True,
    )  # fmt: skip
    yield exchange(
        "dense gradients", "reduce-scatter", shard, 1, times * (dense + root), "as the weights, once", overlaps=True
    )
    yield exchange(
        "expert gradients", "reduce-scatter", part, parallel, times * experts, "as the weights, once", overlaps=True
    )
    yield exchange(
        "copies' gradients", "all-reduce", layout.replicate, shard, times * (dense + root) // shard,
        "of dense weights, a rank's share", overlaps=True,
    )  # fmt: skip
    yield exchange(
        "expert copies' gradients", "all-reduce", layout.expert_replicate, parallel * part, times * experts // part,
        "a rank's share", overlaps=True,
    )  # fmt: skip
    own = tokens // layout.context_parallel
    rows = sum(own * layer.feed_forward.topk * hidden for layer in shape.layers if layer.feed_forward.num_experts)
    yield exchange(
        "rows to experts and back", "all-to-all", parallel, 1, times * value * rows * (4 + 2 * recompute),
        "K D values a token and layer, there and back, forward and backward" + ", and again" * recompute,
    )  # fmt: skip
    attentions = [layer.attention for layer in shape.layers if isinstance(layer.attention, Attention)]
    pairs = sum(2 * a.kv_heads * a.head_dim for a in attentions if a.owns_cache or recompute)  # gathered, a token
    context, of_whom = layout.context_parallel, "every layer" if recompute else "an owner (CLA)"
    yield exchange(
        "keys and values", "all-gather", context, 1, times * value * tokens * pairs * again,
        f"2 G P values a token of {of_whom}" + ", and again" * recompute,
    )  # fmt: skip
    yield exchange("their gradients", "reduce-scatter", context, 1, times * value * tokens * pairs, "as those, once")
    small = sum(count * weight.values for weight, count in weights_of(shape).items() if weight.is_small)
    counts = sum(2 * layer.feed_forward.num_experts + 3 for layer in shape.layers)
    yield exchange(
        "small gradients, losses, counts", "all-reduce", layout.processes, 1, FLOAT * small + INDEX * (counts + 3),
        "4 bytes a weight of norms, biases, routers; 8 a count",
    )  # fmt: skip
