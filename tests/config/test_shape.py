"""Shapes of config.json files: what is refused and how, what is built, and the bytes of storage and caches."""

import contextlib
import json
import math
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.config import HunyuanConfig
from model.config.architectures import READERS, buildable_config, read_shape
from model.config.load import load_shape, load_values
from model.config.presets import COMPARED, PRESETS
from model.config.shape import ModelShape, shape_of
from model.counts import activated_params, kv_cache_bytes, parameter_counts, total_params
from model.errors import ConfigError

LLAMA = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 8}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN = LLAMA | {"model_type": "qwen3", "head_dim": 6}
QWEN_MOE = LLAMA | {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
HUNYUAN = LLAMA | {"model_type": "hunyuan", "num_experts": 4, "num_shared_expert": 1, "moe_topk": 1}
DEEPSEEK = LLAMA | {
    "model_type": "deepseek_v3", "q_lora_rank": None, "kv_lora_rank": 6, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
    "v_head_dim": 7, "moe_intermediate_size": 12, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1,
}  # fmt: skip
SLIDING = "sliding_attention"


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def without(values: dict, *keys: str) -> dict:
    return {key: value for key, value in values.items() if key not in keys}


# --- what is refused -------------------------------------------------------------------------------------------------

BAD = {  # a config.json and the key that the only problem names
    "unknown model type": (LLAMA | {"model_type": "gpt2"}, "model type 'gpt2'"),
    "null model type": (LLAMA | {"model_type": None}, "model type None"),
    "list as model type": (LLAMA | {"model_type": ["llama"]}, "model type ['llama']"),
    "deep model type": (LLAMA | {"model_type": nested(500)}, "model type [[[[[[[...]]]]]]]"),
    "missing size": (without(LLAMA, "vocab_size"), "vocab_size is missing"),
    "null size": (LLAMA | {"hidden_size": None}, "hidden_size is None"),
    "string": (LLAMA | {"hidden_size": "24"}, "hidden_size is '24'"),
    "negative": (LLAMA | {"intermediate_size": -20}, "intermediate_size is -20"),
    "zero": (LLAMA | {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "zero heads": (LLAMA | {"num_attention_heads": 0}, "num_attention_heads is 0"),
    "zero key-value heads": (LLAMA | {"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    "boolean": (LLAMA | {"num_attention_heads": True}, "num_attention_heads is True"),
    "float": (LLAMA | {"vocab_size": 61.0}, "vocab_size is 61.0"),
    "1e30": (LLAMA | {"hidden_size": 1e30}, "hidden_size is 1e+30"),
    "10**30": (LLAMA | {"hidden_size": 10**30}, "hidden_size is 1000"),
    "NaN": (LLAMA | {"hidden_size": math.nan}, "hidden_size is nan"),
    "Infinity": (LLAMA | {"max_position_embeddings": math.inf}, "max_position_embeddings is inf"),
    "object": (LLAMA | {"vocab_size": {"value": 61}}, "vocab_size is {'value': 61}"),
    "deep nesting": (LLAMA | {"vocab_size": nested(500)}, "vocab_size is [["),
    "too many layers": (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    "too many layers beside a list": (HUNYUAN | {"num_hidden_layers": 10**9, "moe_topk": [1, 1, 1]}, "num_hidden_layers"),
    "key-value heads do not divide": (LLAMA | {"num_key_value_heads": 3}, "num_key_value_heads is 3"),
    "more key-value heads than heads": (LLAMA | {"num_key_value_heads": 8}, "num_key_value_heads is 8"),
    "heads do not divide hidden": (LLAMA | {"hidden_size": 26}, "num_attention_heads is 4"),
    "flag": (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    "flag as number": (LLAMA | {"attention_bias": 1}, "attention_bias is 1"),
    "MLP bias": (LLAMA | {"mlp_bias": True}, "mlp_bias is true"),
    "MLP bias of DeepSeek": (DEEPSEEK | {"mlp_bias": True, "model_type": "deepseek_v2"}, "mlp_bias is true"),
    "topk above experts": (MIXTRAL | {"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
    "topk above experts, Qwen": (QWEN_MOE | {"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
    "topk above experts, Hunyuan": (HUNYUAN | {"moe_topk": [1, 5, 1]}, "moe_topk is [1, 5, 1]"),
    "topk above experts by its other name": (
        without(HUNYUAN, "moe_topk") | {"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
    "bad experts alone": (MIXTRAL | {"num_local_experts": -1}, "num_local_experts is -1"),
    "list of wrong length": (HUNYUAN | {"moe_topk": [1, 1]}, "moe_topk is [1, 1]"),
    "list of wrong things": (HUNYUAN | {"num_shared_expert": [1, "1", 1]}, "num_shared_expert is [1, '1', 1]"),
    "list of booleans": (HUNYUAN | {"moe_intermediate_size": [True] * 3}, "moe_intermediate_size is [True, True, True]"),
    "list where there is none": (LLAMA | {"intermediate_size": [20, 20, 20]}, "intermediate_size is [20, 20, 20]"),
    "dense layers": (QWEN_MOE | {"mlp_only_layers": 1}, "mlp_only_layers is 1"),
    "dense layers by name": (QWEN_MOE | {"mlp_only_layers": [[0]]}, "mlp_only_layers is [[0]]"),
    "step": (QWEN_MOE | {"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    "layer_types of wrong length": (MISTRAL | {"layer_types": [SLIDING] * 2}, "layer_types is ["),
    "layer_types unknown": (MISTRAL | {"layer_types": [SLIDING, SLIDING, "mamba"]}, "layer_types is ["),
    "layer_types unhashable": (MISTRAL | {"layer_types": [SLIDING, SLIDING, {}]}, "layer_types is ["),
    "layer_types no list": (MISTRAL | {"layer_types": SLIDING}, "layer_types is 'sliding_attention'"),
    "no window": (MISTRAL | {"layer_types": [SLIDING] * 3, "sliding_window": None}, "sliding_window is None"),
    "window switched off": (QWEN | {"layer_types": [SLIDING] * 3, "sliding_window": 8}, "sliding_window is 8"),
    "window of nothing": (MISTRAL | {"sliding_window": 0}, "sliding_window is 0"),
    # Keys whose default in transformers is some model's size: absent they would count as that here or as nothing.
    "Mistral's window": (without(MISTRAL, "sliding_window"), "sliding_window is missing"),
    "Mistral's heads": (without(MISTRAL, "num_key_value_heads"), "num_key_value_heads is missing"),
    "Mixtral's heads": (without(MIXTRAL, "num_key_value_heads"), "num_key_value_heads is missing"),
    "Qwen's head_dim": (without(QWEN, "head_dim"), "head_dim is missing"),
    "Qwen's window": (QWEN | {"use_sliding_window": True}, "sliding_window is missing"),
    "Qwen's first window": (QWEN | {"use_sliding_window": True, "sliding_window": 8}, "max_window_layers is missing"),
    "DeepSeek's queries": (without(DEEPSEEK, "q_lora_rank"), "q_lora_rank is missing"),
    "DeepSeek's shared experts": (without(DEEPSEEK, "n_shared_experts"), "n_shared_experts is missing"),
    "DeepSeek-V3's dense layers": (without(DEEPSEEK, "first_k_dense_replace"), "first_k_dense_replace is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "shown"), BAD.values(), ids=BAD)
def test_a_bad_key_is_the_one_problem_and_named(values, shown, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as error:
        load_shape(tmp_path)
    (problem,) = error.value.problems
    assert shown in problem and str(tmp_path) in problem
    assert ": " in problem and "\n" not in problem and len(problem) < len(str(tmp_path)) + 300


@pytest.mark.parametrize(
    "values", [LLAMA, MISTRAL, MIXTRAL, QWEN, QWEN_MOE, HUNYUAN, DEEPSEEK], ids=lambda v: v["model_type"]
)
def test_the_configs_that_are_made_bad_are_good(values, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert total_params(load_shape(tmp_path)) == total_params(load_shape(tmp_path / "config.json")) > 0


FILES = {
    "empty": (b"", "not a JSON document"),
    "half": (b'{"model_type": "llama", ', "not a JSON document"),
    "binary": (bytes(range(256)), "not a JSON document"),
    "UTF-16": ("{}".encode("utf-16"), "not a JSON document"),
    "list": (b"[1, 2]", "holds a list"),
    "null": (b"null", "holds a NoneType"),
    "number": (b"NaN", "holds a float"),
    "a million brackets": (b"[" * 1_000_000, "not a JSON document"),
    "a number of 5000 digits": (b'{"hidden_size": ' + b"9" * 5000 + b"}", "not a JSON document"),
}


@pytest.mark.parametrize(("content", "shown"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_config(content, shown, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(ConfigError, match=shown) as error:
            load_shape(path)
        assert str(tmp_path / "config.json") in str(error.value) and len(error.value.problems) == 1


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: No such file"):
        load_shape(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'mixtral-8x22b'"):
        load_shape("mixtral-8x22")
    with pytest.raises(ConfigError, match="choose one of toy"):
        load_shape("no such model")
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load_shape("x" * 5000)
    with pytest.raises(ConfigError, match="there is no model"):
        load_shape("\0")


@pytest.mark.parametrize("depth", range(200, sys.getrecursionlimit() + 100, 50))
def test_deep_nesting_is_a_config_error_at_every_depth(depth, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA)[:-1] + ', "head_dim": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ConfigError, match=r"head_dim is|not a JSON document"):
        load_shape(tmp_path)


def test_all_problems_are_listed_and_nothing_that_follows_from_them():
    values = without(DEEPSEEK, "vocab_size", "kv_lora_rank") | {
        "hidden_size": 0, "num_attention_heads": "4", "v_head_dim": -1, "tie_word_embeddings": 0,
        "num_experts_per_tok": 9, "mlp_bias": True,
    }  # fmt: skip
    with pytest.raises(ConfigError) as error:
        read_shape(values, "mine")
    bad = {"vocab_size", "kv_lora_rank", "hidden_size", "num_attention_heads", "v_head_dim", "tie_word_embeddings",
           "num_experts_per_tok", "mlp_bias"}  # fmt: skip
    assert {problem.split()[4] for problem in error.value.problems} == bad
    assert len(error.value.problems) == len(bad) and "8 settings cannot be used" in str(error.value)

    values = QWEN | {"num_attention_heads": None, "num_hidden_layers": -3, "use_sliding_window": True}
    with pytest.raises(ConfigError) as error:
        read_shape(values | {"sliding_window": "8", "layer_types": [SLIDING] * 3}, "mine")
    bad = ["num_attention_heads", "num_hidden_layers", "sliding_window"]
    assert sorted(problem.split()[4] for problem in error.value.problems) == bad


def test_a_changed_key_that_is_not_read_is_refused():
    assert load_shape("llama-3.1-8b", {"num_key_value_heads": 4}) != load_shape("llama-3.1-8b")
    with pytest.raises(ConfigError, match=r"num_key_value_head is not a setting: did you mean 'num_key_value_heads'"):
        load_shape("llama-3.1-8b", {"num_key_value_head": 4})
    with pytest.raises(ConfigError, match="sliding_window is not a setting"):  # Llama has none
        load_shape("llama-3.1-8b", {"sliding_window": 4})


# --- anything at all -------------------------------------------------------------------------------------------------

KEYS = sorted({key for values in (LLAMA, MISTRAL, MIXTRAL, QWEN, QWEN_MOE, HUNYUAN, DEEPSEEK) for key in values} | set("""
    tie_word_embeddings attention_bias mlp_bias layer_types use_sliding_window max_window_layers decoder_sparse_step
    mlp_only_layers moe_layer_freq use_cla cla_share_factor use_qk_norm use_mixed_mlp_moe rope_theta rope_parameters
    """.split()) - {"model_type"})  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 70) | st.integers() | st.floats() | st.text(max_size=4)
JSON = st.recursive(
    SCALARS | st.sampled_from(["full_attention", SLIDING]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
SWITCHES = "tie_word_embeddings attention_bias use_cla use_qk_norm use_sliding_window use_mixed_mlp_moe".split()
EXPERTS = "num_experts num_local_experts n_routed_experts".split()
GOOD = dict.fromkeys(KEYS, st.integers(1, 8)) | dict.fromkeys(SWITCHES, st.booleans()) | dict.fromkeys(EXPERTS, st.just(8)) | {
    "num_attention_heads": st.sampled_from([4, 8]), "num_key_value_heads": st.sampled_from([1, 2, 4]),
    "hidden_size": st.sampled_from([8, 64]), "mlp_bias": st.just(False), "layer_types": st.none(),
    "mlp_only_layers": st.lists(st.integers(-1, 9), max_size=3),
}  # fmt: skip
FUZZ = settings(deadline=1000, suppress_health_check=[HealthCheck.too_slow], max_examples=300)


def assert_shape_or_config_error(values):
    try:
        shape = read_shape(values, "mine")
    except ConfigError as error:
        assert error.problems and all(len(problem) < 500 for problem in error.problems)
        return False
    assert total_params(shape) >= activated_params(shape) > 0
    assert kv_cache_bytes(shape, tokens=3) > 0
    with contextlib.suppress(ConfigError):
        assert shape_of(buildable_config(values, "mine")).layers == shape.layers
    return True


@FUZZ
@given(st.sampled_from(sorted(READERS)), st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_keys_give_a_shape_or_a_config_error(kind, values):
    assert_shape_or_config_error(values | {"model_type": kind})


@FUZZ
@given(
    st.sampled_from(sorted(READERS)),
    st.fixed_dictionaries(GOOD),
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=1),
)
def test_good_keys_give_a_shape_with_one_bad_key_or_a_config_error(kind, values, bad):
    assert assert_shape_or_config_error(values | {"model_type": kind})
    assert_shape_or_config_error(values | bad | {"model_type": kind})


def test_ten_thousand_layers_are_quick():
    shape = read_shape(LLAMA | {"num_hidden_layers": 10_000}, "deep")
    assert len(shape.layers) == 10_000 and total_params(shape) > 0


# --- HunyuanConfig and back ------------------------------------------------------------------------------------------

OWN = {name: HunyuanConfig.from_name(name) for name in PRESETS} | {
    f"toy+{key}={value}": HunyuanConfig.from_name("toy", **{key: value})
    for key, value in [
        ("attention_bias", True), ("cla_share_factor", 1), ("cla_share_factor", 3), ("cla_share_factor", 4),
        ("use_qk_norm", False), ("num_shared_expert", 0), ("num_shared_expert", 3), ("moe_topk", 3),
        ("tie_word_embeddings", False), ("num_key_value_heads", 1), ("num_hidden_layers", 2),
    ]
}  # fmt: skip


def released(config: HunyuanConfig) -> dict:
    """The keys of Hunyuan-Large's config.json for a configuration of this project."""
    keys = config.to_dict() | {"model_type": "hunyuan", "use_cla": config.cla_share_factor > 1}
    return keys | ({"num_shared_expert": 0, "moe_topk": 1} if config.is_dense else {})


@pytest.mark.parametrize("config", OWN.values(), ids=OWN)
def test_shape_of_is_the_inverse_of_buildable_config(config):
    values = released(config)
    assert read_shape(values, "mine") == shape_of(config, "mine")
    built = buildable_config(values, "mine")
    assert shape_of(built, "mine") == shape_of(config, "mine")
    # What a shape does not hold: training, whose numbers are computed, scaled positions, experts where there are none.
    free = ["moe_routing", "capacity_factor", "rope_scaling", "convention"] + ["num_shared_expert"] * config.is_dense
    assert without(built.to_dict(), *free) == without(config.to_dict(), *free)
    assert shape_of(shape_of(config)) == shape_of(config)


REASONS = {
    "deepseek-v2": "multi-head latent attention", "deepseek-v2.5": "multi-head latent attention",
    "deepseek-v3": "multi-head latent attention",
}  # fmt: skip


@pytest.mark.parametrize("name", COMPARED)
def test_compared_models_are_built_alike_or_refused_with_the_reason(name):
    if name in REASONS:
        with pytest.raises(ConfigError, match=f"{name} is counted but not built here: it has {REASONS[name]}"):
            HunyuanConfig.from_name(name)
        return
    config, shape = HunyuanConfig.from_name(name), load_shape(name)
    assert parameter_counts(config) == parameter_counts(shape)
    assert shape_of(config).layers == shape.layers
    assert kv_cache_bytes(config, tokens=100) == kv_cache_bytes(shape, tokens=100)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (MISTRAL, "it has sliding windows"),
        (MISTRAL | {"layer_types": ["full_attention", SLIDING, SLIDING]}, "its layers differ"),
        (QWEN_MOE | {"mlp_only_layers": [1]}, "it has layers that are not alike"),
        (HUNYUAN | {"num_shared_expert": [1, 2, 1]}, "it has layers that are not alike"),
        (MIXTRAL | {"num_local_experts": 1, "num_experts_per_tok": 1}, "its layers differ"),
        (HUNYUAN | {"head_dim": 7}, "model.head_dim is 7"),
    ],
)
def test_what_is_not_built_says_why(values, reason):
    assert isinstance(read_shape(values, "mine"), ModelShape)
    with pytest.raises(ConfigError, match=reason):
        buildable_config(values, "mine")


def test_the_rotation_is_kept_where_transformers_5_writes_it():
    own = LLAMA | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rms_norm_eps": 1e-6}
    assert (
        buildable_config(own, "mine").rope_theta
        == buildable_config(LLAMA | {"rope_theta": 5e5}, "mine").rope_theta
        == 5e5
    )
    assert buildable_config(own, "mine").rms_norm_eps == 1e-6


def test_windows_are_read_where_transformers_model_has_them():
    """tests/oracles/test_architectures.py compares them with transformers; here what has none."""
    for values in (LLAMA, HUNYUAN, DEEPSEEK, LLAMA | {"model_type": "hunyuan_v1_dense"}):
        shape = read_shape(values | {"sliding_window": 8, "layer_types": [SLIDING] * 3}, "mine")
        assert [layer.attention.window for layer in shape.layers] == [None] * 3


def test_load_values_gives_a_copy():
    load_values("toy")["hidden_size"] = 0
    assert load_values("toy")["hidden_size"] == 128
