"""Storage formats, and the cache in closed form on one device and on several."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.architectures import read_shape
from model.config.load import load_shape
from model.config.storage import STORAGE, Storage
from model.counts import kv_cache_bytes

LLAMA = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 8}
DEEPSEEK = LLAMA | {
    "model_type": "deepseek_v3", "q_lora_rank": None, "kv_lora_rank": 6, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
    "v_head_dim": 7, "moe_intermediate_size": 12, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1,
}  # fmt: skip
SLIDING = "sliding_attention"

# --- storage ---------------------------------------------------------------------------------------------------------

FORMATS = st.sampled_from(list(STORAGE.values()))
ROWS = st.integers(1, 100_000)


@given(FORMATS, ROWS, st.integers(1, 4096))
def test_rows_grow_with_their_values_and_never_shrink_below_them(storage, values, group):
    storage = storage.with_group(group)
    assert (
        storage.row_bytes(values) <= storage.row_bytes(values + 1) <= storage.row_bytes(values) + 5
    )  # a value and a group
    assert storage.row_bytes(values) * 8 >= values * storage.bits
    assert storage.row_bytes(2 * values) <= 2 * storage.row_bytes(values)
    assert storage.row_bytes(0) == 0


@given(st.sampled_from(["int4", "int8"]), ROWS, st.integers(1, 4096))
def test_every_group_that_is_touched_has_its_scale(name, values, group):
    storage = STORAGE[name].with_group(group)
    assert (storage.bits, storage.group_bits) == ({"int4": 4, "int8": 8}[name], 32)
    assert storage.row_bytes(values) == math.ceil(values * storage.bits / 8) + 4 * math.ceil(values / group)
    assert storage.with_group(2 * group).row_bytes(values) <= storage.row_bytes(values)


@given(st.sampled_from(["fp32", "bf16", "fp16", "fp8"]), ROWS, st.integers(1, 4096))
def test_floats_have_no_groups(name, values, group):
    storage = STORAGE[name]
    assert storage.with_group(group) == storage
    assert storage.row_bytes(values) == values * {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}[name]


def test_literal_rows():
    int4 = STORAGE["int4"]
    assert [int4.row_bytes(values) for values in (1, 2, 3, 63, 64, 65)] == [5, 5, 6, 36, 36, 41]
    assert int4.with_group(64).row_bytes(640) == 320 + 40  # as in the module's first lines
    assert Storage("int3", 3).row_bytes(3) == 2  # whole bytes at the end of a row, not of a value


# --- caches ----------------------------------------------------------------------------------------------------------

SMALL_GQA = read_shape(LLAMA | {"num_attention_heads": 48, "hidden_size": 96, "num_key_value_heads": 12}, "gqa")
SMALL_MLA = read_shape(DEEPSEEK, "mla")
WINDOWED = read_shape(MISTRAL | {"layer_types": [SLIDING, "full_attention", SLIDING], "sliding_window": 40}, "windowed")


@given(ROWS, st.integers(1, 300), st.integers(1, 3), FORMATS)
def test_paging_rounds_every_sequence_up_to_whole_blocks(tokens, block, batch, storage):
    paged = kv_cache_bytes(SMALL_GQA, tokens=tokens, batch=batch, storage=storage, block_size=block)
    token = kv_cache_bytes(SMALL_GQA, tokens=1, storage=storage)
    assert paged == batch * token * block * math.ceil(tokens / block)


@given(st.integers(1, 100), ROWS, st.sampled_from(["fp32", "bf16", "fp8"]))
def test_devices_hold_together_the_cache_or_more(devices, tokens, name):
    """12 key-value heads: shared out without loss where the devices divide them; beyond 12 each device has a whole head."""
    whole = kv_cache_bytes(SMALL_GQA, tokens=tokens, storage=STORAGE[name])
    each = kv_cache_bytes(SMALL_GQA, tokens=tokens, storage=STORAGE[name], tensor_parallel=devices)
    assert (each * devices == whole) == (12 % devices == 0) and each * devices >= whole
    assert each * 12 == whole * math.ceil(12 / devices)
    if devices >= 12:
        head = SMALL_GQA.layers[0].attention.head_dim
        assert each == 3 * 2 * head * STORAGE[name].row_bytes(1) * tokens  # 3 layers, keys and values of one head


@given(st.integers(1, 100), ROWS, FORMATS)
def test_a_latent_cache_is_whole_on_every_device(devices, tokens, storage):
    each = kv_cache_bytes(SMALL_MLA, tokens=tokens, storage=storage, tensor_parallel=devices)
    assert each == kv_cache_bytes(SMALL_MLA, tokens=tokens, storage=storage)
    assert each == 3 * tokens * (storage.row_bytes(6) + storage.row_bytes(4))  # 3 layers: latent and rotated key


@given(ROWS, st.integers(1, 64))
def test_a_window_keeps_so_many_tokens(tokens, block):
    row = 2 * 2 * 6 * 2  # keys and values, 2 heads of 6, 2 bytes
    rounded = [math.ceil(kept / block) * block for kept in (min(tokens, 40), tokens, min(tokens, 40))]
    assert kv_cache_bytes(WINDOWED, tokens=tokens, block_size=block) == row * sum(rounded)


@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16, 128])
def test_deepseek_v2_on_several_devices(devices):
    assert kv_cache_bytes(load_shape("deepseek-v2"), tokens=1, tensor_parallel=devices) == 69_120


@pytest.mark.parametrize(("devices", "each"), [(1, 81_920), (2, 40_960), (8, 10_240), (16, 10_240), (80, 10_240)])
def test_hunyuan_large_on_several_devices(devices, each):
    assert kv_cache_bytes(load_shape("hunyuan-large"), tokens=1, tensor_parallel=devices) == each


@given(st.integers(1, 100), st.sampled_from([SMALL_GQA, SMALL_MLA]))
def test_devices_hold_together_the_weights_of_attention_or_more(devices, shape):
    attention, hidden = shape.layers[0].attention, shape.hidden_size
    whole, each = attention.weights(hidden), attention.weights(hidden, devices)
    assert each <= whole <= each * devices
    if shape is SMALL_GQA:
        assert (each * devices == whole) == (12 % devices == 0)
    else:  # the projection to the latent is on every device
        shared = hidden * (attention.kv_lora_rank + attention.qk_rope_head_dim)
        assert (each - shared) * 4 == (whole - shared) * math.ceil(4 / devices)
