"""Attention variants by name: the grammar, the name of a model's own attention, and the standard variants."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import HunyuanConfig
from model.config.architectures import read_shape
from model.config.load import load_shape
from model.config.shape import Attention, LatentAttention, shape_of
from model.config.variants import own_variant, variants_of, with_variant
from model.errors import ConfigError

LARGE = load_shape("hunyuan-large")  # 80 heads of 80, 8 key-value heads, 64 layers in pairs
LLAMA = load_shape("llama-3.1-8b")  # 32 heads of 128, 8 key-value heads, 32 layers
DEEPSEEK = load_shape("deepseek-v2")  # 128 heads, MLA of 512 and 64, 60 layers
QWEN = load_shape("qwen3-30b-a3b")


def attention(shape, index=0):
    return shape.layers[index].attention


def owners(shape, kind=lambda attention: True):
    """Which layers, counted within a kind, own their cache."""
    layers = [layer.attention for layer in shape.layers if kind(layer.attention)]
    return [index for index, layer in enumerate(layers) if layer.owns_cache]


def small(heads=4, kv_heads=2, layers=6, **changes):
    return shape_of(
        HunyuanConfig.from_name("toy").replace(
            num_attention_heads=heads, num_key_value_heads=kv_heads, num_hidden_layers=layers, **changes
        )
    )


# --- the grammar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kv_heads", "owning", "window"),
    [
        ("MHA", 80, 64, None),
        ("GQA", 8, 64, None),
        ("GQA:20", 20, 64, None),
        ("GQA:1", 1, 64, None),
        ("GQA:80", 80, 64, None),
        ("MQA", 1, 64, None),
        ("CLA", 80, 32, None),
        ("CLA:3", 80, 22, None),
        ("CLA:1", 80, 64, None),
        ("CLA:64", 80, 1, None),
        ("SWA", 80, 64, 4096),
        ("SWA:1000", 80, 64, 1000),
        ("GQA+CLA", 8, 32, None),
        ("CLA+GQA", 8, 32, None),
        ("MQA+CLA:4+SWA:512", 1, 16, 512),
        ("MHA+CLA", 80, 32, None),
        ("gqa:4 + Cla", 4, 32, None),
        (" mqa ", 1, 64, None),
    ],
)
def test_every_term(name, kv_heads, owning, window):
    shape = with_variant(LARGE, name)
    assert {(layer.attention.kv_heads, layer.attention.window) for layer in shape.layers} == {(kv_heads, window)}
    assert len(owners(shape)) == owning
    assert shape.with_attention(tuple(layer.attention for layer in LARGE.layers)) == LARGE  # all else stays
    assert attention(shape).qk_norm and attention(shape).heads == 80


@pytest.mark.parametrize(
    ("shape", "kv_heads"),
    [(LARGE, 8), (QWEN, 4), (small(6, 6), 3), (small(6, 1), 3), (small(64, 64), 8), (small(2, 2), 1), (DEEPSEEK, 8)],
)
def test_gqa_without_a_number_is_the_models_own_or_at_most_8_heads(shape, kv_heads):
    assert attention(with_variant(shape, "GQA")).kv_heads == kv_heads


def test_without_a_number_cla_and_swa_take_the_models_own():
    assert owners(with_variant(small(cla_share_factor=3), "CLA")) == [0, 3]
    assert owners(with_variant(small(cla_share_factor=1), "CLA")) == [0, 2, 4]
    windowed = with_variant(LLAMA, "GQA+SWA:777*3/GQA")
    assert attention(with_variant(windowed, "MQA+SWA")).window == 777


def test_mla_on_a_model_without_it_has_a_latent_of_four_heads_and_half_a_rotated_key():
    """DeepSeek-V2, section 2.1: d_c = 4 d_h and d_h^R = d_h / 2."""
    mla = attention(with_variant(LLAMA, "MLA"))
    assert isinstance(mla, LatentAttention) and mla.cache_rows == (4 * 128, 128 // 2)
    assert (mla.heads, mla.qk_nope_head_dim, mla.v_head_dim, mla.q_lora_rank) == (32, 128, 128, None)
    assert attention(with_variant(LLAMA, "MLA:300:20")).cache_rows == (300, 20)
    assert attention(with_variant(LLAMA, "MLA:300")).cache_rows == (300, 64)
    assert owners(with_variant(LLAMA, "MLA+CLA:4")) == list(range(0, 32, 4))


def test_a_model_with_mla_keeps_its_sizes_and_its_mha_has_heads_of_its_values():
    assert with_variant(DEEPSEEK, "MLA") == DEEPSEEK
    assert attention(with_variant(DEEPSEEK, "MLA:256")).cache_rows == (256, 64)
    mha = attention(with_variant(DEEPSEEK, "MHA"))
    assert isinstance(mha, Attention) and (mha.heads, mha.kv_heads, mha.head_dim) == (128, 128, 128)


# --- layers that differ ----------------------------------------------------------------------------------------------


def test_a_pattern_repeats_to_the_end():
    shape = with_variant(small(layers=8), "GQA+SWA:16*2/MQA")
    assert [(layer.attention.kv_heads, layer.attention.window) for layer in shape.layers] == [
        (2, 16), (2, 16), (1, None), (2, 16), (2, 16), (1, None), (2, 16), (2, 16)]  # fmt: skip
    assert own_variant(shape) == "GQA+SWA:16*2/MQA"


def test_layers_of_a_kind_share_with_their_kind():
    """Of 12 layers, 8 slide and 4 do not: the sliding ones share by twos, the others by threes."""
    shape = with_variant(small(layers=12), "GQA+CLA:2+SWA:16*2/GQA+CLA:3")
    assert owners(shape, lambda a: a.window == 16) == [0, 2, 4, 6]
    assert owners(shape, lambda a: a.window is None) == [0, 3]
    assert [layer.attention.owns_cache for layer in shape.layers[:6]] == [True, False, True, True, False, False]


BASES = {shape.name: shape for shape in (LARGE, LLAMA, QWEN, load_shape("hunyuan-a13b"), load_shape("ladder-512"))}


@st.composite
def named_variants(draw):
    """A model and a pattern of layers in which those that are alike otherwise share alike."""
    shape = BASES[draw(st.sampled_from(sorted(BASES)))]
    heads = attention(shape).heads
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    share = st.sampled_from([1, 2, 3, 5, len(shape.layers)])
    kinds = draw(
        st.dictionaries(st.tuples(st.sampled_from(divisors), st.sampled_from([0, 100, 5000])), share, min_size=1)
    )
    parts = []
    for kv_heads, window in draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=6)):
        terms = [f"GQA:{kv_heads}", f"CLA:{kinds[kv_heads, window]}", f"SWA:{window}" if window else ""]
        parts.append("+".join(filter(None, terms)) + draw(st.sampled_from(["", "*2", "*7"])))
    return shape, "/".join(parts)


@settings(max_examples=80, deadline=None)
@given(named_variants())
def test_the_own_name_of_a_variant_makes_the_same_variant(given_):
    shape, name = given_
    changed = with_variant(shape, name)
    assert with_variant(changed, own_variant(changed)) == changed
    marked = [variant for variant in variants_of(changed) if variant.own]
    assert [variant.shape for variant in marked] == [changed]


@pytest.mark.parametrize("sizes", ["", ":300", ":512:32", "+CLA:3", "+SWA:99+CLA"])
@pytest.mark.parametrize("shape", [LARGE, DEEPSEEK], ids=["hunyuan-large", "deepseek-v2"])
def test_the_own_name_of_latent_attention_makes_it_again(shape, sizes):
    changed = with_variant(shape, f"MLA{sizes}")
    assert own_variant(changed).startswith("MLA") and with_variant(changed, own_variant(changed)) == changed


# --- the own and the standard variants -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("hunyuan-large", "GQA+CLA"),
        ("hunyuan-a13b", "GQA"),
        ("llama-3.1-405b", "GQA"),
        ("mixtral-8x22b", "GQA"),
        ("deepseek-v2", "MLA"),
        ("deepseek-v3", "MLA"),
        ("ladder-64", "MQA+CLA"),
        ("qwen3-30b-a3b", "GQA"),
    ],
)
def test_own_variants(model, own):
    shape = load_shape(model)
    assert own_variant(shape) == own and with_variant(shape, own) == shape


def test_own_variants_of_windows_and_odd_sharing():
    assert own_variant(small(4, 4, cla_share_factor=1)) == "MHA"
    assert own_variant(small(4, 4, cla_share_factor=2)) == "CLA"
    assert own_variant(small(4, 1, cla_share_factor=5)) == "MQA+CLA:5"
    assert own_variant(small(1, 1, cla_share_factor=1)) == "MHA"
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 64, "model_type": "qwen3",
             "head_dim": 16, "use_sliding_window": True}  # fmt: skip
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    shape = read_shape(sizes | {"num_hidden_layers": 6, "layer_types": kinds, "sliding_window": 32}, "sliding")
    assert own_variant(shape) == "GQA+SWA:32*2/GQA" and with_variant(shape, own_variant(shape)) == shape


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("hunyuan-large", ["MHA", "GQA", "MQA", "CLA", "GQA+CLA"]),
        ("toy", ["MHA", "GQA", "MQA", "CLA", "GQA+CLA"]),
        ("llama-3.1-70b", ["MHA", "GQA", "MQA", "CLA", "GQA+CLA"]),
        ("deepseek-v2", ["MHA", "GQA", "MQA", "CLA", "GQA+CLA", "MLA"]),
        ("deepseek-v3", ["MHA", "GQA", "MQA", "CLA", "GQA+CLA", "MLA"]),
    ],
)
def test_the_standard_variants_and_the_models_own(model, names):
    shape = load_shape(model)
    variants = variants_of(shape)
    assert [variant.name for variant in variants] == names
    assert [variant.shape for variant in variants if variant.own] == [shape]


@pytest.mark.parametrize(
    ("shape", "wanted", "names", "own"),
    [
        (LARGE, ["MQA"], ["MQA", "GQA+CLA"], "GQA+CLA"),  # the own one is always there
        (LARGE, ["GQA:8+CLA:2"], ["GQA:8+CLA:2"], "GQA:8+CLA:2"),  # under any name
        (LARGE, ["gqa+cla", "GQA+CLA"], ["gqa+cla", "GQA+CLA"], "GQA+CLA"),  # and marked once
        (small(2, 1, cla_share_factor=1), (), ["MHA", "GQA", "MQA", "CLA", "GQA+CLA"], "MQA"),  # 2 heads: GQA is MQA
        (small(1, 1, cla_share_factor=1), (), ["MHA", "MQA", "CLA"], "MHA"),
    ],
)
def test_the_own_variant_is_there_and_marked_once(shape, wanted, names, own):
    variants = variants_of(shape, wanted)
    assert [variant.name for variant in variants] == names
    assert [variant.name for variant in variants if variant.own] == [own]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "'' in variant ''"),
        ("XYZ", "'XYZ' in variant 'XYZ'"),
        ("GQA:", "not understood"),
        ("GQA:-1", "not understood"),
        ("GQA:0", "not understood"),
        ("GQA:7", "7 key-value heads: 80 heads allow 1, 2, 4, 5, 8"),
        ("GQA:160", "160 key-value heads"),
        ("GQA:8:2", "not understood"),
        ("MHA:4", "not understood"),
        ("MLA:1:2:3", "not understood"),
        ("MLA:512:0", "not understood"),
        ("GQA+GQA", "not understood"),
        ("GQA+MQA", "two kinds of heads"),
        ("MLA+MHA", "two kinds of heads"),
        ("GQA++CLA", "not understood"),
        ("CLA:65", "65 layers: the model has 64"),
        ("CLA:0", "not understood"),
        ("SWA:0", "not understood"),
        ("SWA:1e3", "not understood"),
        ("GQA/", "not understood"),
        ("GQA*", "repeats a layer ''"),
        ("GQA*0", "repeats a layer '0'"),
        ("GQA*10001", "repeats a layer '10001'"),
        ("GQA*-2", "repeats a layer '-2'"),
        ("GQA*2*2", "repeats a layer '2*2'"),
        ("GQA*" + "1" * 5000, "from 1 to 10,000"),
        ("SWA:" + "1" * 10, "not understood"),
        ("GQA\u0661", "not understood"),
    ],
)  # fmt: skip
def test_a_bad_name_is_one_sentence(name, says):
    with pytest.raises(ConfigError, match="variant") as refused:
        with_variant(LARGE, name)
    assert says in str(refused.value)
    assert len(refused.value.problems) == 1 and "\n" not in str(refused.value)
