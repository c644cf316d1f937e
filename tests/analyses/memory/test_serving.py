"""What fits in a memory: terms by hand, the search against its own question, and how the answer moves."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.devices import DEVICES
from analyses.memory.serving import (
    NO_LIMIT,
    WEIGHTS,
    Serving,
    activation_bytes,
    cache_bytes,
    device_memory,
    largest_batch,
    largest_batch_rows,
    limiting_term,
    longest_context,
    longest_context_rows,
    serving_notes,
    weight_bytes,
)
from model.config.load import load_shape
from model.config.storage import STORAGE
from model.config.variants import Variant, variants_of, with_variant
from model.counts import total_params
from model.errors import ConfigError

SHAPES = {
    name: load_shape(name) for name in ("hunyuan-large", "llama-3.1-8b", "mixtral-8x7b", "deepseek-v2", "qwen3-30b-a3b")
}
LARGE, LLAMA, V2 = (SHAPES[name] for name in ("hunyuan-large", "llama-3.1-8b", "deepseek-v2"))
H200 = Serving(memory=141 * 10**9, devices=8)
GB = 10**9


def own(shape):
    return next(variant for variant in variants_of(shape) if variant.own)


def rows_at(shape, serving, context):
    return {row["variant"]: row for row in largest_batch_rows(variants_of(shape), [serving], [context])}


def servings():
    """Serving and shape, from far too little memory to plenty."""
    return st.builds(
        Serving,
        memory=st.integers(10**9, 300 * GB),
        devices=st.just(8),
        tensor_parallel=st.sampled_from([1, 2, 4, 8, None]),
        data_parallel_attention=st.booleans(),
        weights=st.sampled_from(list(WEIGHTS.values())),
        cache=st.sampled_from(list(STORAGE.values())),
        reserve=st.floats(0, 0.9),
        block_size=st.sampled_from([1, 16, 100]),
        prefill_chunk=st.sampled_from([1, 512, 8192]),
    )


shapes = st.sampled_from(sorted(SHAPES)).map(SHAPES.__getitem__)
contexts = st.integers(1, 2**20)
quick = settings(max_examples=25, deadline=None)


def fits(shape, serving, context, batch):
    return sum(device_memory(shape, serving, context=context, batch=batch).values()) <= serving.memory


# --- the number found is the last that fits --------------------------------------------------------------------------


@quick
@given(shapes, servings(), contexts)
def test_the_largest_batch_fits_and_one_more_does_not(shape, serving, context):
    (row,) = largest_batch_rows([own(shape)], [serving], [context])
    batch = row["largest_batch"]
    assert batch == 0 or fits(shape, serving, context, batch)
    assert not fits(shape, serving, context, batch + 1)
    assert row["concurrent_sequences"] == batch * (8 // (serving.tensor_parallel or 8))
    assert row["limited_by"] == culprit(device_memory(shape, serving, context=context, batch=batch + 1), serving.memory)
    terms = device_memory(shape, serving, context=context, batch=max(1, batch))
    assert {name: row[f"{name}_bytes"] for name in terms} == terms
    assert row["free_bytes"] == serving.memory - sum(terms.values()) and (row["free_bytes"] >= 0) == (batch > 0)


@quick
@given(shapes, servings(), st.integers(1, 300))
def test_the_longest_context_fits_and_one_token_more_does_not(shape, serving, batch):
    (row,) = longest_context_rows([own(shape)], [serving], [batch])
    context = row["longest_context"]
    assert context == 0 or fits(shape, serving, context, batch)
    assert not fits(shape, serving, context + 1, batch)
    assert row["limited_by"] == culprit(device_memory(shape, serving, context=context + 1, batch=batch), serving.memory)
    assert row["trained_context"] == shape.max_position_embeddings


def culprit(terms, memory):
    names = list(terms)
    return next(name for i, name in enumerate(names) if sum(terms[n] for n in names[: i + 1]) > memory)


@pytest.mark.parametrize(
    ("serving", "context", "limit"),
    [
        (Serving(memory=16 * GB, reserve=0.1), 1024, "weights"),  # 16.06 GB of bf16 weights
        (Serving(memory=16 * GB, reserve=0.0, weights=WEIGHTS["fp8"], prefill_chunk=10**6), 10**6, "activations"),
        (Serving(memory=24 * GB, reserve=0.1), 8192, "cache"),
        (Serving(memory=17 * GB, reserve=0.0), 1024, "cache"),
        (
            Serving(memory=17 * GB, reserve=0.5),
            1024,
            "weights",
        ),  # a reserve leaves less: weights are the first too many
        (Serving(memory=1, reserve=0.99), 1, "weights"),
    ],
)
def test_what_stops_one_more(serving, context, limit):
    (row,) = largest_batch_rows([own(LLAMA)], [serving], [context])
    assert row["limited_by"] == limit


def test_limiting_term():
    terms = {"reserve": 1, "weights": 5, "activations": 2, "cache": 3}
    assert [limiting_term(terms, memory) for memory in (0, 1, 5, 6, 7, 8, 10, 11)] == [
        "reserve", "weights", "weights", "activations", "activations", "cache", "cache", None]  # fmt: skip


def test_windows_everywhere_have_no_limit():
    variant = Variant("SWA", with_variant(LLAMA, "GQA+SWA:4096"), False)
    serving = Serving(memory=24 * GB)
    (row,) = longest_context_rows([variant], [serving], [1])
    assert row["longest_context"] is None and row["limited_by"] is None
    assert row["cache_bytes"] == 4096 * 131_072 and row["page_rounding_bytes"] == 0
    assert longest_context(variant.shape, serving, 1) == NO_LIMIT
    (row,) = longest_context_rows([variant], [serving], [1000])  # windows of 1,000 sequences are too many
    assert 0 < row["longest_context"] < 4096 and row["limited_by"] == "cache"


# --- how the answer moves --------------------------------------------------------------------------------------------

MOVES = {
    "memory": (st.integers(10**9, 300 * GB), +1),
    "reserve": (st.floats(0, 0.9), -1),
    "weights": (st.sampled_from(list(WEIGHTS.values())), -1),
    "cache": (st.sampled_from(list(STORAGE.values())), -1),
    "block_size": (st.sampled_from([1, 2, 4, 16, 256]), -1),
    "prefill_chunk": (st.sampled_from([1, 100, 8192]), -1),
}


def order(value):
    """Storage by the bits of a value, its share of a scale included."""
    return (
        value.bits + (value.group_bits / value.group_size if value.group_size else 0)
        if hasattr(value, "bits")
        else value
    )


@pytest.mark.parametrize("name", MOVES)
@quick
@given(data=st.data())
def test_more_of_one_thing_moves_the_answer_one_way(name, data):
    values, sign = MOVES[name]
    shape, serving = data.draw(shapes), data.draw(servings())
    serving = dataclasses.replace(serving, memory=data.draw(st.integers(20 * GB, 300 * GB)), tensor_parallel=8)
    less, more = sorted((data.draw(values), data.draw(values)), key=order)
    low, high = (dataclasses.replace(serving, **{name: value}) for value in (less, more))
    context, batch = data.draw(contexts), data.draw(st.integers(1, 100))
    assert sign * largest_batch(shape, low, context) <= sign * largest_batch(shape, high, context)
    assert sign * longest_context(shape, low, batch) <= sign * longest_context(shape, high, batch)


@quick
@given(shapes, servings(), contexts, contexts)
def test_a_longer_context_leaves_no_more_sequences_and_more_sequences_no_longer_context(shape, serving, first, second):
    low, high = sorted((first, second))
    assert largest_batch(shape, serving, low) >= largest_batch(shape, serving, high)
    assert longest_context(shape, serving, 1 + low % 100) >= longest_context(shape, serving, 1 + low % 100 + high % 100)


@quick
@given(shapes, contexts)
def test_more_devices_in_a_replica_hold_no_fewer_sequences(shape, context):
    batches = [largest_batch(shape, Serving(memory=100 * GB, devices=devices), context) for devices in (1, 2, 4, 8, 16)]
    assert batches == sorted(batches)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["hunyuan-large", "llama-3.1-8b", "deepseek-v2"]), st.integers(1, 64), st.integers(1, 64))
def test_half_the_bytes_hold_twice_the_tokens(name, batch, block):
    """fp8 instead of bf16, all else fixed: to within one page a sequence."""
    shape = SHAPES[name]
    wide = Serving(memory=200 * GB, devices=8, block_size=block, prefill_chunk=1)
    narrow = dataclasses.replace(wide, cache=STORAGE["fp8"])
    long, longer = (longest_context(shape, serving, batch) for serving in (wide, narrow))
    assert long > 0 and abs(longer - 2 * long) <= 2 * block


def test_replicas_add_up():
    whole = Serving(memory=80 * GB, devices=8, tensor_parallel=8)
    one = Serving(memory=80 * GB, devices=8, tensor_parallel=1)
    alone = Serving(memory=80 * GB)
    batch = largest_batch(LLAMA, alone, 8192)
    assert largest_batch(LLAMA, one, 8192) == batch > 0
    assert rows_at(LLAMA, one, 8192)["GQA"]["concurrent_sequences"] == 8 * batch
    assert rows_at(LLAMA, whole, 8192)["GQA"]["concurrent_sequences"] > 8 * batch  # its weights are there once


@pytest.mark.parametrize(("context", "kept"), [(1, 16), (15, 16), (16, 16), (17, 32), (8191, 8192), (8192, 8192)])
def test_pages_are_rounded_up(context, kept):
    """Llama 3.1 8B: 32 layers * 2 * 8 heads * 128 * 2 bytes are 131,072 a token."""
    serving = Serving(memory=80 * GB)
    assert cache_bytes(LLAMA, serving, context, 3, 16) == 3 * 131_072 * kept
    assert cache_bytes(LLAMA, serving, context, 3) == 3 * 131_072 * context
    (row,) = largest_batch_rows([own(LLAMA)], [serving], [context])
    assert row["page_rounding_bytes"] == row["largest_batch"] * 131_072 * (kept - context)


# --- several devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallel", "attention", "share"),
    [(1, False, 1), (2, False, 2), (8, False, 8), (16, False, 8), (64, False, 8), (8, True, 8), (64, True, 64)],
)
def test_heads_are_shared_out_until_they_are_held_more_than_once(parallel, attention, share):
    """Hunyuan-Large's 8 heads; with data-parallel attention it is the 64 sequences that are shared out."""
    serving = Serving(memory=141 * GB, devices=parallel, data_parallel_attention=attention)
    assert cache_bytes(LARGE, serving, 1024, 64) == 81_920 * 1024 * 64 // share


def test_a_latent_is_on_every_device():
    for parallel in (1, 2, 8):
        assert cache_bytes(V2, Serving(devices=parallel), 1024, 8) == 69_120 * 1024 * 8
        spread = Serving(devices=parallel, data_parallel_attention=True)
        assert cache_bytes(V2, spread, 1024, 8) == 69_120 * 1024 * 8 // parallel


@pytest.mark.parametrize(
    ("model", "devices", "attention", "says"),
    [
        ("hunyuan-large", 8, False, None),
        ("hunyuan-large", 16, False, "for 16 devices, so each key and value is held 2 times; --tensor-parallel 8"),
        ("hunyuan-large", 12, False, "held 1.5 times; --tensor-parallel 4 or --dp-attention"),  # 8 would not divide 12
        ("hunyuan-large", 6, False, "8 heads for 6 devices, which does not divide evenly: the fullest"),
        ("hunyuan-large", 16, True, None),
        ("deepseek-v2", 8, False, "the cache has 1 head for 8 devices, so each key and value is held 8 times"),
        ("deepseek-v2", 8, True, None),
        ("deepseek-v2", 1, False, None),
    ],
)
def test_notes_say_what_is_held_more_than_once(model, devices, attention, says):
    serving = Serving(memory=141 * GB, devices=devices, data_parallel_attention=attention)
    notes = serving_notes([own(SHAPES[model])], serving)
    assert len(notes) == (says is not None) and all(says in note and model in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"devices": 8, "tensor_parallel": 3}, "8 devices cannot be shared by replicas of 3"),
        ({"devices": 1, "tensor_parallel": 2}, "1 device cannot"),
        ({"reserve": 1.0}, "reserve of 100%"),
        ({"reserve": -0.1}, "reserve of -10%"),
    ],
)
def test_what_cannot_be_served(changes, says):
    with pytest.raises(ConfigError, match=says):
        Serving(memory=10, **changes)


# --- weights and activations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SHAPES, "toy", "deepseek-v3", "hunyuan-a13b"])
def test_one_device_holds_every_parameter_in_bf16(name):
    shape = load_shape(name)
    assert weight_bytes(shape, Serving()) == 2 * total_params(shape)


def test_int4_takes_4_and_a_quarter_bits_of_a_matrix():
    """Llama 3.1 8B: 6,979,321,856 of attention and MLP; embedding, head (2 * 525,336,576) and norms stay."""
    small = 2 * (2 * 525_336_576 + 65 * 4096)
    sizes = {"bf16": 16, "fp8": 8, "int8": 8.25, "int4": 4.25}
    for name, bits in sizes.items():
        assert weight_bytes(LLAMA, Serving(weights=WEIGHTS[name])) == 6_979_321_856 * bits / 8 + small


def test_devices_share_out_all_but_norms_and_routers():
    shared = 2 * (total_params(LARGE) - 6_553_600 - 835_840)
    key_heads = 2 * 32 * 2 * 80 * 6400  # of one key-value head in 32 layers
    for devices in (1, 2, 4, 8):
        small = 2 * (6_553_600 + 835_840)
        assert weight_bytes(LARGE, Serving(devices=devices)) == shared // devices + small
    # 16 devices have half a key-value head each, which is a whole one.
    assert weight_bytes(LARGE, Serving(devices=16)) == shared // 16 + small + key_heads // 2


def test_data_parallel_attention_holds_all_of_attention():
    serving = Serving(devices=8, data_parallel_attention=True)
    attention = 2 * 5_505_024_000
    assert weight_bytes(LARGE, serving) - weight_bytes(LARGE, Serving(devices=8)) == attention - attention // 8


def test_activations_are_of_a_chunk_or_of_one_token_of_every_sequence():
    def at(context, batch, **options):
        bytes_ = activation_bytes(LLAMA, Serving(**options), context=context, batch=batch)
        return bytes_ - 4 * batch * 128_256  # float32 logits of the last tokens

    token = at(1, 1)
    assert 2 * 4 * 14_336 <= token <= 2 * 4 * 14_336 + 2 * 6 * 4096  # gate, up, activated, product; a few of D
    assert at(100, 1) == 100 * token and at(10**6, 1) == 8192 * token and at(10**6, 1, prefill_chunk=64) == 64 * token
    assert at(1, 9000) == 9000 * token == at(10**6, 9000)


# --- the report's model on one machine -------------------------------------------------------------------------------


def test_hunyuan_large_on_eight_h200():
    """bf16, a tenth kept free, 256K tokens: 10 sequences, recomputed from table 1."""
    layers, hidden, width, vocab, head = 64, 6400, 18_304 // 8, 129_024 // 8, 80
    attention = hidden * head * (layers * 2 * 10 + 32 * 2 * 1)  # 10 heads and, in every other layer, 1 for the cache
    experts = layers * 3 * hidden * width * (16 + 1)
    router_and_norms = layers * hidden * 16 + layers * (2 * hidden + 2 * head) + hidden
    weights = 2 * (attention + experts + vocab * hidden + router_and_norms)
    cache = 2 * 2 * 32 * head * 262_144
    room = 141 * 10**9 * 9 // 10 - weights - 2 * 8192 * (hidden * 5 + 4 * width) - 10 * 4 * vocab
    assert (weights, cache, room // cache) == (97_188_282_880, 2_684_354_560, 10)
    row = rows_at(LARGE, H200, 262_144)["GQA+CLA"]
    assert (row["weights_bytes"], row["cache_bytes"], row["largest_batch"]) == (weights, 10 * cache, 10)
    assert row["reserve_bytes"] == 14_100_000_000 and row["free_bytes"] == room - 10 * cache
    assert row["limited_by"] == "cache" and row["own"]
    assert {name: row["largest_batch"] for name, row in rows_at(LARGE, H200, 262_144).items()} == {
        "MHA": 0, "GQA": 5, "MQA": 5, "CLA": 1, "GQA+CLA": 10}  # fmt: skip


def test_devices_say_where_their_numbers_are_from():
    for name, device in DEVICES.items():
        assert device.memory >= 16 * GB and 1e11 < device.bandwidth < 1e14 and device.source, name
    assert (DEVICES["h200"].memory, DEVICES["h200"].bandwidth) == (141 * 10**9, 4_800 * 10**9)
