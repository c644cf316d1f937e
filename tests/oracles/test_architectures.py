"""Other people's architectures against transformers' own models: parameters, windows and FLOPs, as exact integers.

Each config.json goes the way of a download, through a file and AutoConfig; models are built on the meta device, at full size.
"""

import json
import os
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config.architectures import READERS
from model.config.load import load_shape
from model.config.presets import COMPARED
from model.counts import flops_by_component, kv_cache_bytes, parameter_counts

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", minversion="5.0")

SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LATENT = SIZES | {
    "num_key_value_heads": 4, "q_lora_rank": 10, "kv_lora_rank": 6, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
    "v_head_dim": 7, "moe_intermediate_size": 12, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip
BASES = {
    "hunyuan_v1_moe": SIZES | {"head_dim": 10, "num_experts": 4, "moe_topk": 2},
    "hunyuan_v1_dense": SIZES | {"head_dim": 10},
    "llama": SIZES,
    "mistral": SIZES | {"sliding_window": None},
    "mixtral": SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT | {"n_group": 1, "topk_group": 1},
    "qwen3": SIZES | {"head_dim": 10},
    "qwen3_moe": SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
}
BIAS, TIED, MHA = {"attention_bias": True}, {"tie_word_embeddings": True}, {"num_key_value_heads": None}
VARIANTS = {  # what makes each type awkward
    "hunyuan_v1_moe": {
        "lists": {"moe_topk": [1, 3, 2], "num_shared_expert": [1, 1, 1], "moe_intermediate_size": [20, 20, 20]},
        "bias+tied": BIAS | TIED,
        "MHA": MHA,
    },
    "hunyuan_v1_dense": {"bias+tied": BIAS | TIED, "MHA": MHA},
    "llama": {"bias+tied": BIAS | TIED, "MHA": MHA, "head_dim": {"head_dim": 10}, "mlp_bias-off": {"mlp_bias": False}},
    "mistral": {"bias-is-not-read": BIAS, "tied": TIED, "MHA": {"num_key_value_heads": 4}, "head_dim": {"head_dim": 10}},
    "mixtral": {"bias-is-not-read": BIAS, "tied": TIED, "head_dim": {"head_dim": 10}, "one-expert": {
        "num_local_experts": 1, "num_experts_per_tok": 1}},
    "deepseek_v2": {
        "no-q-lora": {"q_lora_rank": None},
        "bias": BIAS,
        "bias-no-q-lora": BIAS | {"q_lora_rank": None},
        "two-shared": {"n_shared_experts": 2},
        "all-mixtures": {"first_k_dense_replace": 0} | TIED,
        "all-dense": {"first_k_dense_replace": 3},
    },
    "deepseek_v3": {
        "no-q-lora": {"q_lora_rank": None},
        "bias+tied": BIAS | TIED,
        "two-dense-two-shared": {"first_k_dense_replace": 2, "n_shared_experts": 2},
    },
    "qwen3": {"bias+tied": BIAS | TIED, "MHA": MHA},
    "qwen3_moe": {
        "head_dim": {"head_dim": 10},
        "sparse-step-2": {"decoder_sparse_step": 2},
        "dense-layers": {"mlp_only_layers": [0, 2]},
        "step-and-dense-layers": {"decoder_sparse_step": 2, "mlp_only_layers": [1], "num_hidden_layers": 5},
        "bias+tied": BIAS | TIED,
    },
}  # fmt: skip
SMALL = {
    f"{kind}+{name}" if name else kind: {"model_type": kind} | BASES[kind] | changes
    for kind in BASES
    for name, changes in ({"": {}} | VARIANTS[kind]).items()
}
WINDOWS = {
    "mistral": {"sliding_window": 8},
    "mistral-null": {"sliding_window": None},
    "mistral-layer-types": {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "mixtral": {"sliding_window": 8},
    "mixtral-absent": {},
    "qwen3-off": {"sliding_window": 8, "max_window_layers": 0},
    "qwen3-on": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3-on-null": {"use_sliding_window": True, "sliding_window": None},
    "qwen3-layer-types": {
        "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "qwen3_moe-off": {"sliding_window": 8},
    "qwen3_moe-on": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},  # the last is not read
}  # fmt: skip
WINDOWS = {
    name: {"model_type": name.split("-")[0]} | BASES[name.split("-")[0]] | keys for name, keys in WINDOWS.items()
}


@pytest.fixture
def config_of(tmp_path):
    """transformers' configuration of a config.json; the file stays in tmp_path."""

    def read(values):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return transformers.AutoConfig.from_pretrained(tmp_path)

    return read


def component(name: str) -> str:
    """Where a parameter belongs, by its place in transformers' module."""
    places = {"embed_tokens": "embedding", "lm_head": "head", "gate": "router", "experts": "routed", "mlp": "shared"}
    if "norm" in name:
        return "norms"
    return next((part for place, part in places.items() if place in name.split(".")), "attention")


def test_every_architecture_of_transformers_is_tested():
    assert set(BASES) == set(VARIANTS) == READERS.keys() & set(transformers.CONFIG_MAPPING)
    assert READERS.keys() - BASES.keys() == {"hunyuan"}  # Hunyuan-Large's code is beside its weights


@pytest.mark.parametrize("values", (COMPARED | SMALL).values(), ids=COMPARED | SMALL)
def test_parameters_equal_transformers_model(values, config_of, tmp_path):
    config = config_of(values)
    with torch.device("meta"):
        net = transformers.AutoModelForCausalLM.from_config(config)
    tensors = dict(net.named_parameters())
    # transformers holds the bias of DeepSeek-V3's choice of experts as a buffer: no gradient moves it. It is trained
    # all the same (arXiv:2408.15664) and is in the released weights, so it counts as a parameter here.
    tensors |= {name: buffer for name, buffer in net.named_buffers() if name.endswith("e_score_correction_bias")}
    held, used = Counter(), Counter()
    for name, tensor in tensors.items():
        part = component(name)
        held[part] += tensor.numel()
        if part == "routed":  # (E, ...): a token visits K of the E
            topk = config.num_experts_per_tok
            topk = topk if isinstance(topk, int) else topk[int(name.split(".")[2])]
            assert len(tensor) == net.get_submodule(name.rpartition(".")[0]).num_experts > topk - 1
            tensor = tensor[:topk]
        used[part] += tensor.numel()
    counts = parameter_counts(load_shape(tmp_path))
    assert {name: count.total for name, count in counts.items() if count.total} == held
    assert {name: count.activated for name, count in counts.items() if count.activated} == used


@pytest.mark.parametrize("values", (COMPARED | SMALL).values(), ids=COMPARED | SMALL)
def test_transformers_own_config_json_reads_alike(values, config_of, tmp_path):
    """transformers 5 renames keys (num_local_experts, rope_parameters, dtype) and writes out the defaults."""
    config, released = config_of(values), load_shape(tmp_path)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) != values
    assert load_shape(tmp_path) == released


@pytest.mark.parametrize("values", WINDOWS.values(), ids=WINDOWS)
def test_windows_equal_transformers_cache(values, config_of, tmp_path):
    config, shape = config_of(values), load_shape(tmp_path)
    cache = transformers.DynamicCache(config=config)
    windows = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    windows = windows or [None] * len(shape.layers)  # a cache without windows makes its layers when they are used
    assert [layer.attention.window for layer in shape.layers] == windows
    config.save_pretrained(tmp_path)
    if config.model_type == values["model_type"]:  # Mistral with layer_types is written as ministral
        assert load_shape(tmp_path) == shape


@pytest.mark.parametrize("name", ["mistral", "mixtral", "qwen3-on", "qwen3_moe-on", "qwen3-off", "mixtral-absent"])
def test_cache_bytes_equal_transformers_cache(name, config_of, tmp_path):
    """20 tokens, one of them after the others: a window keeps 8. transformers keeps 7 and holds 8 in each step's product."""
    config = config_of(WINDOWS[name])
    net = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, experts_implementation="eager")
    cache = transformers.DynamicCache(config=config)
    with torch.no_grad():
        net(torch.zeros(2, 19, dtype=torch.long), past_key_values=cache)
        net(torch.zeros(2, 1, dtype=torch.long), past_key_values=cache)
    shape = load_shape(tmp_path)
    for layer, cached in zip(shape.layers, cache.layers, strict=True):
        held = cached.keys.nbytes + cached.values.nbytes
        less = 0 if layer.attention.window is None else held // cached.keys.shape[-2]
        assert kv_cache_bytes(shape.replace(layers=(layer,)), tokens=20, batch=2) == held + less


@pytest.mark.parametrize("values", SMALL.values(), ids=SMALL)
def test_flops_equal_torchs_counter(values, config_of, tmp_path):
    """Eager attention and the loop over the chosen experts are plain products, all of which the counter sees.

    It sees the whole square of scores too, a window's masked part included: no window here.
    """
    net = transformers.AutoModelForCausalLM.from_config(
        config_of(values), attn_implementation="eager", experts_implementation="eager"
    ).eval()
    input_ids = torch.randint(values["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(input_ids, use_cache=False)
    inclusive = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items() if name != "Global"}
    own = Counter(inclusive)  # less what the submodules compute
    for name, flops in inclusive.items():
        above = [parent for parent in inclusive if name.startswith(parent + ".")]
        if above:
            own[max(above, key=len)] -= flops
    counted = Counter()
    for name, flops in own.items():
        counted["scores" if name.endswith("self_attn") else component(name)] += flops
    expected = {part: flops * input_ids.numel() for part, flops in flops_by_component(load_shape(tmp_path), 9).items()}
    assert +counted == +Counter(expected)
