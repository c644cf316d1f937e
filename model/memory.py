"""The memory that training takes on each device, part by part, in closed form; no torch.

In float32 weights, gradients and AdamW's two moments take 16 bytes a parameter. In bfloat16 the weights of products are split
(model/training/split_adamw.py): the upper half is the parameter, the lower half the optimizer's. Their gradients are bfloat16,
and summed in float32 where a step has several micro-batches. Embedding, head, routers, norms and biases stay float32.

What autograd keeps for the backward pass is counted tensor by tensor, as the eager blocks of model/layers and model/moe
leave it on an accelerator with its kernels and fused attention: tests/oracles/test_training_memory.py counts the same on the
built model, examples/training_memory.py on a GPU. Latent attention, which is not built here, is counted as it would be written.

Left out: a byte or two a choice where routing has a capacity, the random keys of recycle routing, a router z-loss; and a
library's own workspace, tens of MB.

Several devices share out the state evenly (FSDP) and gather one layer after the other; expert parallelism shares out the
experts themselves, and with balanced routing a device computes as many rows as without.

T tokens, D hidden, V vocabulary, H query heads, G key-value heads, P head size, E experts, K experts per token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from model.config.hunyuan import HunyuanConfig
from model.config.shape import Attention, FeedForward, LatentAttention, Layer, ModelShape, shape_of
from model.counts import total_params
from model.errors import ConfigError

Precision = Literal["bfloat16", "float32"]
VALUE_BYTES = {"bfloat16": 2, "float32": 4}  # of a value in matrix products, and of a moment
FLOAT, INDEX = 4, 8  # bytes: the residual stream, norms and the router are float32, indices int64
LOSS_CHUNK = 1 << 27  # logits that the loss holds at a time: model/kernels/cross_entropy.py, CHUNK_VALUES_DEVICE


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on one device, by part. What is recomputed is every block: only its input is kept."""

    weights: int
    gradients: int  # at the end of a step
    optimizer: int  # AdamW's two moments, and the lower halves of split weights
    held: int  # of the gradients, what there is before a backward pass: the sums of earlier micro-batches
    closing: int  # when a backward pass is in the first block: its gradients of all others, and what the block takes
    compute_copies: int  # weights that are copied for products and kept by autograd, or layers gathered by FSDP
    compute_copies_recomputed: int
    activations: int
    activations_recomputed: int  # the blocks' inputs, and the activations of the block that is being computed again
    block: int  # of activations_recomputed, what is there for that block alone
    head: int  # of the loss: chunks of logits, and the gradients that it makes already in the forward pass
    in_flight: int  # of the backward pass of one block: gradients on their way

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
        return self._fullest(self.compute_copies_recomputed + inputs + max(self.head, self.block + self.in_flight))

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
    devices: int = 1,
    expert_parallel: int = 1,
) -> TrainingMemory:
    """Of one step on `batch` sequences of `context` tokens per device and micro-batch; ConfigError says what cannot be.

    `several` is whether a step has more than one micro-batch.
    """
    shape = shape_of(model)
    sizes = {"batch": batch, "context": context, "devices": devices, "expert_parallel": expert_parallel}
    if problems := list(_problems(shape, precision, **sizes)):
        raise ConfigError(problems)
    value, tokens = VALUE_BYTES[precision], batch * context
    state = _state(shape, precision, moments, several)
    weights, gradients, optimizer, held, made = (-(-size // devices) for size in state)
    residual = tokens * value * shape.hidden_size
    inputs = list(accumulate(residual + handed for handed in _handed_on(shape, tokens, value)))
    inner = [tokens * _layer_bytes(layer, shape.hidden_size, value) + _layer_constants(layer) for layer in shape.layers]
    # From the last block to the first, a block's activations come back (its input is there) when the later inputs are gone.
    block = max(there + own for there, own in zip(inputs, inner, strict=True)) - inputs[-1]
    if value == FLOAT:
        block -= residual  # which the first norm keeps as it is
    around, in_flight = _around_bytes(shape, tokens, context), _in_flight_bytes(shape, tokens, value, expert_parallel)
    if devices == 1:
        copies, copies_recomputed = _copies(shape, value)
    else:
        copies = copies_recomputed = _gathered(shape, value, expert_parallel)
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        held=held,
        closing=made - made // len(shape.layers) + inputs[0] + inner[0] + in_flight,
        compute_copies=copies,
        compute_copies_recomputed=copies_recomputed,
        activations=around + sum(inner),
        activations_recomputed=around + inputs[-1] + block,
        block=block,
        head=_head_bytes(shape, tokens, value),
        in_flight=in_flight,
    )


def state_bytes(
    model: HunyuanConfig | ModelShape,
    *,
    precision: Precision = "float32",
    moments: Precision = "float32",
    several: bool = True,
) -> int:
    """Weights, gradients and moments of all parameters: 16 bytes each in float32, and as few as 10 in bfloat16."""
    weights, gradients, optimizer, _, _ = _state(shape_of(model), precision, moments, several)
    return weights + gradients + optimizer


def _state(shape: ModelShape, precision: str, moments: str, several: bool) -> tuple[int, int, int, int, int]:
    """Bytes of weights, gradients, optimizer, and of the gradients those held before a backward pass and those made by it."""
    count, split = total_params(shape), 0
    if VALUE_BYTES[precision] < FLOAT:
        split = sum(sum(_product_weights(layer, shape.hidden_size)) for layer in shape.layers)
    half = FLOAT // 2
    weights = FLOAT * count - half * split
    optimizer = 2 * VALUE_BYTES[moments] * count + half * split
    if several:
        return weights, FLOAT * count, optimizer, FLOAT * count, half * split
    return weights, weights, optimizer, 0, weights


# --- activations: bytes a token ---------------------------------------------------------------------------------------


def _layer_bytes(layer: Layer, hidden: int, value: int) -> int:
    """What one block keeps of each token; `value` bytes a value in its products, and in the residual stream."""
    attention = layer.attention
    if isinstance(attention, Attention):
        attended = _attention_bytes(attention, hidden, value)
    else:
        attended = _latent_bytes(attention, hidden, value)
    norms = (FLOAT + value) * hidden + 2 * FLOAT  # the input of the first in float32, that of the second, and 1 / rms
    return norms + attended + _feed_forward_bytes(layer.feed_forward, hidden, value)


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


def _feed_forward_bytes(f: FeedForward, hidden: int, value: int) -> int:
    if not f.num_experts:
        return value * hidden + _swiglu_bytes(f.shared_size, value)
    if value < FLOAT:  # model/kernels/mixture.py
        return (
            value * hidden
            + FLOAT * f.num_experts  # logits
            + f.topk * 5 * FLOAT  # experts, chosen and final, their weights, and where the rows go and come from
            + f.topk * value * hidden  # dispatched rows
            + 2 * value * (f.shared_size + f.topk * f.routed_size)  # gate and up
        )
    return (
        value * hidden
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


# --- activations: the rest --------------------------------------------------------------------------------------------


def _layer_constants(layer: Layer) -> int:
    """Whatever the number of tokens: the product of both norm weights, where each expert ends, and its share of choices."""
    attention = layer.attention
    norm = attention.head_dim * attention.qk_norm if isinstance(attention, Attention) else 0
    return FLOAT * (norm + 2 * layer.feed_forward.num_experts)


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


def _in_flight_bytes(shape: ModelShape, tokens: int, value: int, expert_parallel: int) -> int:
    """Gradients in the backward pass of one block: of the residual stream and its branches, of the widest weight."""
    waiting = FLOAT * shape.vocab_size * shape.hidden_size * shape.tied  # the head's gradient, for the embedding's
    return waiting + max(
        _block_in_flight(layer, shape.hidden_size, tokens, value, expert_parallel) for layer in shape.layers
    )


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


def _product_weights(layer: Layer, hidden: int) -> tuple[int, int]:
    """Weights of a layer's products in lower precision: those of every token, those of routed experts. Not the router's."""
    f = layer.feed_forward
    return layer.attention.weights(hidden) + 3 * hidden * f.shared_size, 3 * hidden * f.routed_size * f.num_experts


def _copies(shape: ModelShape, value: int) -> tuple[int, int]:
    """Of the weights of queries, keys and values, which one product reads side by side: of all layers, of a recomputed one."""
    sizes = [value * _stacked_weights(layer, shape.hidden_size) for layer in shape.layers]
    return sum(sizes), 0


def _stacked_weights(layer: Layer, hidden: int) -> int:
    a = layer.attention
    if not isinstance(a, Attention) or not a.owns_cache:
        return 0
    return hidden * a.head_dim * (a.heads + 2 * a.kv_heads)


def _gathered(shape: ModelShape, value: int, expert_parallel: int) -> int:
    """What FSDP gathers: the largest layer twice, one in use and the next on its way, and embedding and head."""
    largest = max(_layer_params(layer, shape.hidden_size, expert_parallel) for layer in shape.layers)
    return value * (2 * largest + shape.vocab_size * shape.hidden_size * (1 if shape.tied else 2))


def _layer_params(layer: Layer, hidden: int, expert_parallel: int) -> int:
    """All parameters of a layer, of the routed experts a device's share."""
    attention, f = layer.attention, layer.feed_forward
    dense, routed = _product_weights(layer, hidden)
    rest = attention.biases(hidden) + attention.norms + 2 * hidden + f.num_experts * (hidden + f.router_bias)
    return dense + rest + routed // expert_parallel


def _problems(shape: ModelShape, precision: str, **sizes: int) -> Iterator[str]:
    if precision not in VALUE_BYTES:
        yield f"precision is {precision!r}: choose one of {', '.join(VALUE_BYTES)}"
    wrong = {
        name: size for name, size in sizes.items() if isinstance(size, bool) or not isinstance(size, int) or size < 1
    }
    yield from (f"{name} is {size!r}: it must be a whole number, 1 or more" for name, size in wrong.items())
    parallel, devices = sizes["expert_parallel"], sizes["devices"]
    if wrong or parallel == 1:
        return
    if devices % parallel:
        yield f"expert_parallel is {parallel}: it must divide the number of devices, {devices}"
    experts = {layer.feed_forward.num_experts for layer in shape.layers} - {0}
    if not experts:
        yield f"expert_parallel is {parallel}: the model has no routed experts, so take 1"
    yield from (
        f"expert_parallel is {parallel}: it must divide the {count} experts" for count in experts if count % parallel
    )
