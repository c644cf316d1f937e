"""What fits: how many sequences of which length a model serves in a memory, and how fast it can decode at most.

A replica is `tensor_parallel` devices that share out heads (or, with data-parallel attention, the sequences), experts'
widths and the vocabulary; `devices` hold one or more replicas. On each device the memory goes to a reserve, weights,
activations and the cache, and the largest batch is the last with which all four fit.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from model.config.shape import Attention, ModelShape
from model.config.storage import BF16, STORAGE, Storage
from model.config.variants import Variant, with_variant
from model.counts import kv_cache_bytes, parameter_counts
from model.errors import ConfigError

# int8 and int4 weights share a scale among 128 values, as GPTQ (arXiv:2210.17323) and AWQ (arXiv:2306.00978) do.
WEIGHTS = {name: STORAGE[name].with_group(128) for name in ("bf16", "fp8", "int8", "int4")}
NO_LIMIT = 2**40  # tokens: a context beyond it is called unlimited, as with sliding windows in every layer


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where and how a model is served; ConfigError says what cannot be."""

    gpu: str = ""  # the name of the device, where it has one
    memory: int = 0  # bytes of one device
    bandwidth: int = 0  # bytes a second of one device
    devices: int = 1
    tensor_parallel: int | None = None  # devices of one replica; None is all
    data_parallel_attention: bool = False  # each device attends for sequences of its own, with all heads
    weights: Storage = BF16  # of attention and experts; embedding, head, router and norms stay bf16
    cache: Storage = BF16
    reserve: float = 0.1  # of each device's memory, for the engine, graphs and fragmentation
    block_size: int = 16  # tokens of one page of the cache
    prefill_chunk: int = 8192  # tokens in one pass

    def __post_init__(self) -> None:
        problems = []
        if self.devices % self.replica_devices:
            problems.append(
                f"{self.devices} device{'s' * (self.devices > 1)} cannot be shared by replicas of {self.replica_devices}: "
                "give a tensor parallelism that divides them"
            )
        if not 0 <= self.reserve < 1:
            problems.append(f"a reserve of {self.reserve:.0%} leaves no memory: give 0% or more, and less than 100%")
        if problems:
            raise ConfigError(problems)

    @property
    def replica_devices(self) -> int:
        return self.tensor_parallel or self.devices

    @property
    def attention_devices(self) -> int:
        """Devices that share out the heads of one sequence."""
        return 1 if self.data_parallel_attention else self.replica_devices

    @property
    def replicas(self) -> int:
        return self.devices // self.replica_devices


def device_memory(shape: ModelShape, serving: Serving, *, context: int, batch: int) -> dict[str, int]:
    """Bytes on one device by term, for `batch` sequences of `context` tokens on its replica; in the order they are taken."""
    return {
        "reserve": math.ceil(serving.memory * serving.reserve),
        "weights": weight_bytes(shape, serving),
        "activations": activation_bytes(shape, serving, context=context, batch=batch),
        "cache": cache_bytes(shape, serving, context, batch, serving.block_size),
    }


def weight_bytes(shape: ModelShape, serving: Serving, batch: int | None = None) -> int:
    """Bytes of weights on one device; with a batch, only those that one decoding step reads.

    A step of `batch` tokens reads E (1 - (1 - K/E)^batch) of a layer's E experts, if each token chooses its K independently
    and evenly; of the embedding it reads a few rows, not counted, but the whole head.
    """
    hidden, devices = shape.hidden_size, serving.replica_devices
    products = float(sum(layer.attention.weights(hidden, serving.attention_devices) for layer in shape.layers))
    for layer in shape.layers:
        block = layer.feed_forward
        experts = float(block.num_experts)
        if batch is not None and block.num_experts:
            experts *= 1 - (1 - block.topk / block.num_experts) ** batch
        products += 3 * hidden * (-(-block.shared_size // devices) + experts * -(-block.routed_size // devices))
    counts = parameter_counts(shape)
    biases = sum(layer.attention.biases(hidden) for layer in shape.layers)
    matrices = 1 if shape.tied or batch is not None else 2
    vocabulary = matrices * hidden * -(-shape.vocab_size // devices)
    small = vocabulary + counts["router"].total + counts["norms"].total + biases
    return serving.weights.row_bytes(round(products)) + BF16.row_bytes(small)


def activation_bytes(shape: ModelShape, serving: Serving, *, context: int, batch: int) -> int:
    """Bytes that one pass holds at once in bf16: the widest moment of any block, and float32 logits of the last tokens.

    A pass has a chunk of a prompt, or one token of every sequence if that is more. Beside its input, the residual, the
    attended and a normed copy a block holds queries, keys, values and heads; or the rows of the routed experts, their gate
    and up, the activated gate and its product with up; or the same of the shared ones and the routed output. This
    project's own pass on a GPU takes 1 to 5% more (examples/memory/serving_memory.json).
    """
    devices, hidden = serving.replica_devices, shape.hidden_size
    tokens = max(min(serving.prefill_chunk, context), batch)
    widest = 0
    for layer in shape.layers:
        attention, block = layer.attention, layer.feed_forward
        heads = -(-attention.heads // serving.attention_devices)
        if isinstance(attention, Attention):
            attending = 2 * attention.head_dim * (heads - (-attention.kv_heads // serving.attention_devices))
        else:
            attending = 2 * heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim)
        routed = block.topk * (hidden + 4 * -(-block.routed_size // devices))
        shared = hidden + 4 * -(-block.shared_size // devices)
        widest = max(widest, attending, routed, shared)
    logits = 4 * batch * -(-shape.vocab_size // devices)
    return 2 * tokens * (4 * hidden + widest) + logits


def cache_bytes(shape: ModelShape, serving: Serving, context: int, batch: int, block_size: int = 1) -> int:
    """Bytes of keys and values on one device, for `batch` sequences on its replica."""
    own_sequences = -(-batch * serving.attention_devices // serving.replica_devices)
    return kv_cache_bytes(
        shape,
        tokens=context,
        batch=own_sequences,
        storage=serving.cache,
        block_size=block_size,
        tensor_parallel=serving.attention_devices,
    )


def limiting_term(terms: Mapping[str, int], memory: int) -> str | None:
    """The first term, in the order they are taken, that no longer fits; None when all do."""
    taken = 0
    for name, size in terms.items():
        taken += size
        if taken > memory:
            return name
    return None


def largest_batch(shape: ModelShape, serving: Serving, context: int) -> int:
    """The most sequences of `context` tokens that one replica holds; 0 when not even one."""
    return _largest(lambda batch: _fits(shape, serving, context, batch))


def longest_context(shape: ModelShape, serving: Serving, batch: int) -> int:
    """The longest context of `batch` sequences on one replica; 0 when not even one token, at most NO_LIMIT."""
    return _largest(lambda tokens: _fits(shape, serving, tokens, batch))


def _fits(shape: ModelShape, serving: Serving, context: int, batch: int) -> bool:
    return limiting_term(device_memory(shape, serving, context=context, batch=batch), serving.memory) is None


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest number up to NO_LIMIT that fits, of a question that turns from yes to no once."""
    low, high = 0, 1
    while high <= NO_LIMIT and fits(high):
        low, high = high, 2 * high
    while high - low > 1 and low < NO_LIMIT:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_batch_rows(
    variants: Iterable[Variant], servings: Iterable[Serving], contexts: Iterable[int]
) -> list[dict[str, Any]]:
    """Per variant, cache format and context: the largest batch, every term on one device with it, what stops one more."""
    rows = []
    for variant, serving, context in product(variants, servings, contexts):
        shape = variant.shape
        batch = largest_batch(shape, serving, context)
        full = limiting_term(device_memory(shape, serving, context=context, batch=batch + 1), serving.memory)
        rows.append(
            _names(variant, serving)
            | {"context": context, "largest_batch": batch, "concurrent_sequences": batch * serving.replicas}
            | {"limited_by": full}
            | _terms(shape, serving, context, max(1, batch))
        )
    return rows


def longest_context_rows(
    variants: Iterable[Variant], servings: Iterable[Serving], batches: Iterable[int]
) -> list[dict[str, Any]]:
    """Per variant, cache format and batch of one replica: the longest context, every term, what stops one more token.

    None is no limit; trained_context is the length that the model is meant for, whatever the memory allows.
    """
    rows = []
    for variant, serving, batch in product(variants, servings, batches):
        shape = variant.shape
        context = longest_context(shape, serving, batch)
        full = limiting_term(device_memory(shape, serving, context=context + 1, batch=batch), serving.memory)
        unlimited = context >= NO_LIMIT
        rows.append(
            _names(variant, serving)
            | {"batch": batch, "longest_context": None if unlimited else context}
            | {"limited_by": None if unlimited else full, "trained_context": shape.max_position_embeddings}
            | _terms(shape, serving, max(1, context), batch)
        )
    return rows


def _names(variant: Variant, serving: Serving) -> dict[str, Any]:
    gpu = {"gpu": serving.gpu} if serving.gpu else {}
    names = {"model": variant.shape.name, "variant": variant.name, "own": variant.own}
    return names | gpu | {"weights": serving.weights.name, "dtype": serving.cache.name}


def _terms(shape: ModelShape, serving: Serving, context: int, batch: int) -> dict[str, int]:
    """Every term; where nothing fits, those of one sequence or token, with less than nothing free."""
    terms = device_memory(shape, serving, context=context, batch=batch)
    rounding = terms["cache"] - cache_bytes(shape, serving, context, batch)
    sizes = {f"{name}_bytes": size for name, size in terms.items()}
    return sizes | {"page_rounding_bytes": rounding, "free_bytes": serving.memory - sum(terms.values())}


def decode_rows(
    variants: Iterable[Variant],
    servings: Iterable[Serving],
    contexts: Iterable[int],
    batches: Iterable[int],
) -> list[dict[str, Any]]:
    """Decoding at the limit of memory bandwidth: each step reads weights and the whole cache.

    No engine is faster; computing, communication and launches come on top. tokens_per_second is that of all replicas with
    `batch` sequences each. fits says whether the memory holds them; it is None where no memory is given. times_mha is the
    gain over the same model with MHA.
    """

    def step(shape: ModelShape, serving: Serving, context: int, batch: int) -> tuple[int, int]:
        return weight_bytes(shape, serving, batch), cache_bytes(shape, serving, context, batch)

    rows = []
    for variant, serving, context, batch in product(variants, servings, contexts, batches):
        weights, cache = step(variant.shape, serving, context, batch)
        speed = batch * serving.bandwidth / (weights + cache)
        rows.append(
            _names(variant, serving)
            | {"context": context, "batch": batch, "weights_read_bytes": weights, "cache_read_bytes": cache}
            | {"tokens_per_second": speed * serving.replicas, "tokens_per_second_per_sequence": speed / batch}
            | {"fits": _fits(variant.shape, serving, context, batch) if serving.memory else None}
            | {"times_mha": sum(step(with_variant(variant.shape, "MHA"), serving, context, batch)) / (weights + cache)}
        )
    return rows


def serving_notes(variants: Iterable[Variant], serving: Serving) -> list[str]:
    """What a reader of the rows should know, one sentence each."""
    notes = []
    for variant in variants:
        copies = cache_copies(variant.shape, serving)
        if copies > 1:
            heads = max(layer.attention.cache_heads for layer in variant.shape.layers)
            fewer = math.gcd(heads, serving.replica_devices)
            if heads > serving.replica_devices:
                held = f"which does not divide evenly: the fullest device holds {copies:.3g} times its share"
            else:
                held = f"so each key and value is held {copies:.3g} times"
            notes.append(
                f"{variant.shape.name} {variant.name}: the cache has {heads} head{'s' * (heads > 1)} for "
                f"{serving.replica_devices} devices, {held}; --tensor-parallel {fewer} or --dp-attention avoids it"
            )
    return notes


def cache_copies(shape: ModelShape, serving: Serving) -> float:
    """How often a replica holds each key and value: above 1 where devices outnumber the heads of the cache."""
    once = kv_cache_bytes(shape, tokens=1)
    on_each = kv_cache_bytes(shape, tokens=1, tensor_parallel=serving.attention_devices)
    return serving.attention_devices * on_each / once
