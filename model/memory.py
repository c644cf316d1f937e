"""The memory that training takes on each device, part by part, in closed form; no torch.

In float32 weights, gradients and AdamW's two moments take 16 bytes a parameter. In bfloat16 the weights of products are split
(model/training/split_adamw.py): the upper half is the parameter, the lower half the optimizer's. Their gradients are bfloat16,
and summed in float32 where a step has several micro-batches. Embedding, head, routers, norms and biases stay float32.

What autograd keeps for the backward pass is counted tensor by tensor, as the eager blocks of model/layers and model/moe
leave it on an accelerator with its kernels and fused attention: tests/oracles/test_training_memory.py counts the same on the
built model, examples/training_memory.py on a GPU. Latent attention, which is not built here, is counted as it would be written.

Left out: a byte or two a choice where routing has a capacity, the random keys of recycle routing, a router z-loss; and a
library's own workspace, tens of MB.

Several processes share out the state as model/parallel/weights.py says. FSDP gathers the weights of one block while another
computes, and keeps embedding and head gathered; gradients are whole until they are summed over processes. Experts that lie
elsewhere (expert parallelism) go without the kernels' operator, and with balanced routing a rank computes as many rows as
before. With context parallelism each has a part of the tokens, and the keys and values of all (model/parallel/sequence.py).

T tokens, D hidden, V vocabulary, H query heads, G key-value heads, P head size, E experts, K experts per token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from model.activations import FLOAT, INDEX, VALUE_BYTES, block_bytes, block_constants, gathered_keys_bytes
from model.config.hunyuan import HunyuanConfig
from model.config.shape import Attention, LatentAttention, Layer, ModelShape, shape_of
from model.errors import ConfigError
from model.parallel.layout import Layout
from model.parallel.weights import (
    block_weights,
    check_fits,
    gathered_values,
    held_values,
    kinds_of,
    root_weights,
    weights_of,
)

Precision = Literal["bfloat16", "float32"]
ONE = Layout()
LOSS_CHUNK = 1 << 27  # logits that the loss holds at a time: model/kernels/cross_entropy.py, CHUNK_VALUES_DEVICE


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on one device, by part. What is recomputed is every block: only its input is kept."""

    weights: int
    gradients: int  # at the end of a step
    optimizer: int  # AdamW's two moments, and the lower halves of split weights
    held: int  # of the gradients, what there is before a backward pass: the sums of earlier micro-batches
    closing: (
        int  # when a backward pass is in the first block, or after it: gradients of all others, and what the rest takes
    )
    compute_copies: int  # weights that are copied for products and kept by autograd, or layers gathered by FSDP
    compute_copies_recomputed: int
    activations: int
    activations_recomputed: int  # the blocks' inputs, and the activations of the block that is being computed again
    block: int  # of activations_recomputed, what is there for that block alone
    head: int  # of the loss: chunks of logits, and the gradients that it makes already in the forward pass
    in_flight: int  # of the backward pass of one block: gradients on their way
    exchanged: int  # by FSDP when a block is recomputed: the gradients of the block after it, in a row to be summed

    @property
    def state(self) -> int:
        """What is there between steps, and the gradients."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """A step is at its fullest in the loss; in the backward pass of the last block; or in that of the first."""
        return self._fullest(self.compute_copies + self.activations + max(self.head, self.in_flight))

    @property
    def total_recomputed(self) -> int:
        inputs = self.activations_recomputed - self.block
        return self._fullest(self.compute_copies_recomputed + inputs + max(self.head, self.working_recomputed))

    @property
    def working_recomputed(self) -> int:
        """In the backward pass of a block that is recomputed."""
        return self.block + self.in_flight + self.exchanged

    def _fullest(self, before_gradients: int) -> int:
        return self.weights + self.optimizer + self.held + max(before_gradients, self.closing)


def training_memory(
    model: HunyuanConfig | ModelShape,
    *,
    batch: int,
    context: int,
    precision: Precision = "bfloat16",
    moments: Precision = "float32",
    several: bool = True,
    layout: Layout = ONE,
) -> TrainingMemory:
    """Of one step on `batch` sequences of `context` tokens per micro-batch; ConfigError says what cannot be.

    `several` is whether a step has more than one micro-batch on a rank. A micro-batch is one rank's, or with context
    parallelism that of the ranks which share it.
    """
    shape = shape_of(model)
    if problems := list(_problems(precision, batch=batch, context=context)):
        raise ConfigError(problems)
    check_fits(shape, layout, context)
    value, tokens, parts = VALUE_BYTES[precision], batch * context // layout.context_parallel, layout.context_parallel
    weights, gradients, optimizer, held, made = _state(shape, precision, moments, several, layout)
    residual = tokens * value * shape.hidden_size
    inputs = list(accumulate(residual + handed for handed in _handed_on(shape, tokens, value)))
    operator = value < FLOAT and layout.expert_parallel == 1
    plain = [block_bytes(layer, shape.hidden_size, value, operator) for layer in shape.layers]
    constants = [block_constants(layer) for layer in shape.layers]
    inner, again = (
        [
            tokens * (size + gathered_keys_bytes(layer.attention, value, parts, again)) + constant
            for layer, size, constant in zip(shape.layers, plain, constants, strict=True)
        ]
        for again in (False, True)
    )
    # From the last block to the first, a block's activations come back (its input is there) when the later inputs are gone.
    block = max(there + own for there, own in zip(inputs, again, strict=True)) - inputs[-1]
    if value == FLOAT:
        block -= residual  # which the first norm keeps as it is
    around = _around_bytes(shape, tokens, context // parts)
    in_flight = _in_flight_bytes(shape, tokens, value, layout)
    if layout.is_one_process:
        copies, copies_recomputed = _copies(shape, value)
        exchanged = 0
        closing = inputs[0] + inner[0] + in_flight
    else:
        copies = copies_recomputed = _gathered(shape, value, layout)
        exchanged = value * _largest_block(shape, layout)
        closing = max(copies + inputs[0] + inner[0] + in_flight, _root_in_flight(shape, layout))
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        held=held,
        closing=made - made // len(shape.layers) + closing,
        compute_copies=copies,
        compute_copies_recomputed=copies_recomputed,
        activations=around + sum(inner),
        activations_recomputed=around + inputs[-1] + block,
        block=block,
        head=_head_bytes(shape, tokens, value),
        in_flight=in_flight,
        exchanged=exchanged,
    )


def all_gathered_bytes(model: HunyuanConfig | ModelShape, layout: Layout, precision: Precision) -> int:
    """The weights of all blocks, where FSDP keeps what it has gathered until the backward pass is done with it."""
    shape = shape_of(model)
    kinds = kinds_of(shape).items()
    values = sum(
        times * sum(gathered_values(block_weights(layer, shape.hidden_size), layout)) for layer, times in kinds
    )
    return VALUE_BYTES[precision] * values


def state_bytes(
    model: HunyuanConfig | ModelShape,
    *,
    precision: Precision = "float32",
    moments: Precision = "float32",
    several: bool = True,
) -> int:
    """Weights, gradients and moments of all parameters: 16 bytes each in float32, and as few as 10 in bfloat16."""
    weights, gradients, optimizer, _, _ = _state(shape_of(model), precision, moments, several, ONE)
    return weights + gradients + optimizer


def _state(
    shape: ModelShape, precision: str, moments: str, several: bool, layout: Layout
) -> tuple[int, int, int, int, int]:
    """Bytes of weights, gradients, optimizer, and of the gradients those held before a backward pass and those made by it."""
    values = {weight: times * held_values(weight, layout) for weight, times in weights_of(shape).items()}
    count = sum(values.values())
    split = sum(size for weight, size in values.items() if weight.is_split) if VALUE_BYTES[precision] < FLOAT else 0
    half = FLOAT // 2
    weights = FLOAT * count - half * split
    optimizer = 2 * VALUE_BYTES[moments] * count + half * split
    if several:
        return weights, FLOAT * count, optimizer, FLOAT * count, half * split
    return weights, weights, optimizer, 0, weights


# --- around the blocks ----------------------------------------------------------------------------------------------------


def _around_bytes(shape: ModelShape, tokens: int, context: int) -> int:
    """Outside of the blocks: token indices, the input of the final norm and its 1 / rms, cosine and sine."""
    attention = shape.layers[0].attention
    turned = attention.head_dim if isinstance(attention, Attention) else attention.qk_rope_head_dim
    return tokens * (INDEX + FLOAT * (shape.hidden_size + 1)) + 2 * FLOAT * context * turned


def _handed_on(shape: ModelShape, tokens: int, value: int) -> Iterator[int]:
    """Keys and values that a recomputed block is handed: those of the block before it, where that made its own."""
    made = 0
    for layer in shape.layers:
        yield made
        a = layer.attention
        made = 2 * value * tokens * a.kv_heads * a.head_dim if isinstance(a, Attention) and a.owns_cache else 0


def _head_bytes(shape: ModelShape, tokens: int, value: int) -> int:
    """The chunked loss: d_hidden and d_weight, and the more of what its forward and its backward pass hold besides."""
    weight = shape.vocab_size * shape.hidden_size
    gradients = value * tokens * shape.hidden_size + FLOAT * weight
    rows = min(tokens, max(1, LOSS_CHUNK // shape.vocab_size))
    forward = value * tokens * shape.hidden_size  # its input
    forward += (
        value * rows * (shape.vocab_size + shape.hidden_size)
    )  # logits, their gradient in place, and a part of d_hidden
    forward += value * weight * (value < FLOAT)  # cast
    return gradients + max(forward, gradients)  # backward scales the gradients into new tensors


def _in_flight_bytes(shape: ModelShape, tokens: int, value: int, layout: Layout) -> int:
    """Gradients in the backward pass of one block: of the residual stream and its branches, of the widest weight.

    With several processes it may be more that at its end all of its weights' are there, and a copy in a row to be summed.
    """
    head = FLOAT * shape.vocab_size * shape.hidden_size  # its gradient waits: for the embedding's, or to be summed
    most = 0
    for layer in kinds_of(shape):
        block = _block_in_flight(layer, shape.hidden_size, tokens, value, layout.expert_parallel)
        whole = value * sum(gathered_values(block_weights(layer, shape.hidden_size), layout))
        exchanged = _keys_in_flight(layer.attention, tokens, value, layout.context_parallel)
        stream = 4 * FLOAT * tokens * shape.hidden_size
        most = max(most, block + exchanged, stream + 2 * whole)
    return head * (shape.tied or not layout.is_one_process) + most


def _keys_in_flight(a: Attention | LatentAttention, tokens: int, value: int, parts: int) -> int:
    """Gradients of all processes' keys and values: of both chunks, and in the order in which they are summed."""
    if parts == 1 or not isinstance(a, Attention):
        return 0
    return 3 * value * 2 * a.kv_heads * a.head_dim * tokens * parts


def _block_in_flight(layer: Layer, hidden: int, tokens: int, value: int, expert_parallel: int) -> int:
    f = layer.feed_forward
    stream = 4 * FLOAT * tokens * hidden  # the first norm's gradients are float32
    width = max(f.shared_size, f.routed_size * f.num_experts // expert_parallel)
    if value == FLOAT or not f.num_experts:
        return stream + value * 2 * hidden * width
    # model/kernels/mixture.py: the shared experts' gradients wait; gate and up have theirs, or the weights have.
    weights = 3 * hidden * f.shared_size
    rows = tokens * f.topk * (hidden + 4 * f.routed_size)
    later = (
        tokens * f.topk * (hidden + 2 * f.routed_size) + 3 * hidden * f.routed_size * f.num_experts // expert_parallel
    )
    return stream + value * (weights + max(rows, later))


# --- weights ----------------------------------------------------------------------------------------------------------


def _copies(shape: ModelShape, value: int) -> tuple[int, int]:
    """Of the weights of queries, keys and values, which one product reads side by side: of all layers, of a recomputed one."""
    sizes = [value * _stacked_weights(layer, shape.hidden_size) for layer in shape.layers]
    return sum(sizes), 0


def _stacked_weights(layer: Layer, hidden: int) -> int:
    a = layer.attention
    if not isinstance(a, Attention) or not a.owns_cache:
        return 0
    return hidden * a.head_dim * (a.heads + 2 * a.kv_heads)


def _gathered(shape: ModelShape, value: int, layout: Layout) -> int:
    """What FSDP gathers: the largest block twice, one in use and the next on its way, and embedding and head."""
    return value * 2 * _largest_block(shape, layout) + FLOAT * sum(gathered_values(root_weights(shape), layout))


def _largest_block(shape: ModelShape, layout: Layout) -> int:
    """Values that FSDP gathers for it."""
    return max(sum(gathered_values(block_weights(layer, shape.hidden_size), layout)) for layer in kinds_of(shape))


def _root_in_flight(shape: ModelShape, layout: Layout) -> int:
    """At the end of a backward pass: embedding and head, their gradients, and the same in a row to be summed."""
    return FLOAT * 3 * sum(gathered_values(root_weights(shape), layout))


def _problems(precision: str, **sizes: int) -> Iterator[str]:
    if precision not in VALUE_BYTES:
        yield f"precision is {precision!r}: choose one of {', '.join(VALUE_BYTES)}"
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            yield f"{name} is {size!r}: it must be a whole number, 1 or more"
