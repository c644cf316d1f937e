"""What the reporting commands read beyond a plain config.json: the release's switches, other names, unknown types."""

import json

import pytest

from model.config.architectures import SWITCHES
from model.config.load import load_counted, preset_of
from model.config.presets import COMPARED
from model.config.released import read_config
from model.counts import activated_params, kv_cache_bytes, total_params
from model.errors import ConfigError

HUNYUAN = {
    "model_type": "hunyuan", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "moe_topk": 2,
    "num_shared_expert": 1, "tie_word_embeddings": True, "max_position_embeddings": 2048, "use_cla": False,
    "use_qk_norm": True,
}  # fmt: skip
LATENT = {"use_mla": True, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
LLAMA = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
# One layer of HUNYUAN: projections 64 * 8 * (2 * 8 + 2 * 2) = 10,240, norms 16 + 128, a dense block or a shared or routed
# expert 3 * 64 * 96 = 18,432, a router 4 * 64. Embedding 64,000, the last norm 64.
AROUND, ATTENTION, EXPERT, ROUTER = 64_064, 10_384, 18_432, 256


@pytest.fixture
def load(tmp_path):
    def load(values, **options):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return load_counted(path, **options)

    return load


def test_the_first_layers_of_moe_layer_num_skipped_are_dense(load):
    shape = load(HUNYUAN | {"moe_layer_num_skipped": 1}).shape
    assert (total_params(shape), activated_params(shape)) == (401_280, 290_688)


def test_use_mla_caches_latents(load):
    shape = load(HUNYUAN | LATENT | {"v_head_dim": 8}).shape
    assert kv_cache_bytes(shape, tokens=1) == 320  # 4 layers of (32 + 8) values of 2 bytes


def test_expert_counts_may_differ_by_layer(load):
    same = load(HUNYUAN | {"num_experts": [4, 4, 4, 4]}).shape
    assert total_params(same) == AROUND + 4 * (ATTENTION + 5 * EXPERT + ROUTER) == 475_264
    other = load(HUNYUAN | {"num_experts": [4, 8, 4, 8]}).shape
    assert total_params(other) == 475_264 + 2 * (4 * EXPERT + ROUTER)


@pytest.mark.parametrize("kind", ["hunyuan", "hunyuan_v1_moe", "hunyuan_v1_dense"])
def test_attention_head_dim_is_the_head_size(load, kind):
    values = {key: value for key, value in HUNYUAN.items() if key != "head_dim"} | {"model_type": kind}
    shape = load(values | {"attention_head_dim": 16}).shape
    assert kv_cache_bytes(shape, tokens=1) == 4 * 2 * 2 * 16 * 2
    with pytest.raises(ConfigError, match="attention_head_dim is 16: it must be the same as head_dim, 8"):
        load(HUNYUAN | {"model_type": kind, "attention_head_dim": 16})


@pytest.mark.parametrize("key", SWITCHES)
@pytest.mark.parametrize("kind", ["hunyuan", "hunyuan_v1_moe", "hunyuan_v1_dense"])
def test_no_switch_is_ignored(load, key, kind):
    """Loading refuses another value of every switch; counting counts it, refuses it, or its sizes are the same."""
    other = {"hidden_act": "gelu", "norm_type": "layer", "moe_layer_num_skipped": 1, "routed_scaling_factor": 2.5}
    value = other.get(key, not SWITCHES[key][0][0])
    values = HUNYUAN | {"model_type": kind, key: value}
    with pytest.raises(ConfigError, match=key):
        read_config(values, "it")
    if SWITCHES[key][1] and (key not in ("use_mla", "moe_layer_num_skipped") or kind == "hunyuan_v1_dense"):
        with pytest.raises(ConfigError, match=key):
            load(values)
    elif key not in ("use_mla", "moe_layer_num_skipped"):
        plain = {name: item for name, item in values.items() if name != key}
        assert load(values).shape == load(plain).shape


def test_a_multimodal_config_counts_its_language_model_and_says_so(load):
    found = load({"model_type": "llava", "text_config": LLAMA, "quantization_config": {"quant_method": "fp8"}})
    assert found.shape.layers == load(LLAMA).shape.layers
    assert found.weights is not None and found.weights.name == "fp8"
    assert "of llava the language model in text_config is counted" in found.notes[0]


def test_an_unknown_type_is_counted_as_a_known_one_only_where_asked(load):
    values = COMPARED["deepseek-v3"] | {"model_type": "kimi_k2"}
    with pytest.raises(ConfigError, match="--as counts it as one of them"):
        load(values)
    found = load(values, counted_as="deepseek_v3")
    assert total_params(found.shape) == 671_026_419_200
    assert found.counted_as == "deepseek_v3" and "'kimi_k2' and is counted as deepseek_v3" in found.notes[0]
    assert load(LLAMA, counted_as="deepseek_v3").counted_as is None  # its own type is known
    with pytest.raises(ConfigError, match="'deepseek' is not a known model type"):
        load(values, counted_as="deepseek")


def test_other_peoples_keys_without_a_type_are_one_sentence(load):
    with pytest.raises(ConfigError) as raised:
        load({"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14_336, "n_heads": 32, "vocab_size": 32_768})
    assert "has no model_type" in str(raised.value) and len(str(raised.value)) < 400


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert load_counted(path).shape.layers


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", "mixtral-8x22b"),
        ("tencent/Tencent-Hunyuan-Large", "hunyuan-large"),
        ("TOY", "toy"),
        ("deepseek-ai/DeepSeek-V2-Lite", None),
        ("/", None),
    ],
)
def test_presets_are_found_by_their_repositories_names(name, preset):
    assert preset_of(name) == preset
    if preset:
        assert load_counted(name).shape.name == preset


def test_a_folder_comes_before_a_preset_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "DeepSeek-V3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert preset_of("DeepSeek-V3") is None


def test_a_key_that_is_all_but_the_name_of_a_missing_one_is_refused(load):
    values = {
        "model_type": "llama",
        "num_key_value_head": 2,
        "vocab_size": 64,
        "hidden_size": 8,
        "intermediate_size": 16,
    }
    values |= {"num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 32}
    with pytest.raises(ConfigError, match="num_key_value_head is not read: did you mean num_key_value_heads"):
        load(values)
    assert load(values | {"num_key_value_heads": 2}).shape  # the key is there: the other is somebody's own
