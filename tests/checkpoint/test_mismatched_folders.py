"""Folders of intact files whose tensors and config.json are not one model: one sentence, before their size is allocated."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import Hunyuan
from model.errors import CheckpointError, ConfigError
from tests.checkpoint.folders import refusal

INDEX = "model.safetensors.index.json"
MB = 10**6


@pytest.fixture
def folder(released_folder):
    return released_folder("large-top2")


# --- the tensors -----------------------------------------------------------------------------------------------------


def edit(folder, name, change):
    """Edits the tensors of the file that holds this one, and the index after them."""
    index = json.loads((folder / INDEX).read_text())
    path = folder / index["weight_map"][name]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    others = {name: file for name, file in index["weight_map"].items() if file != path.name}
    (folder / INDEX).write_text(json.dumps({"weight_map": others | dict.fromkeys(tensors, path.name)}))


NORM, DOWN = "model.layers.1.input_layernorm.weight", "model.layers.2.mlp.experts.3.down_proj.weight"


def test_missing_unexpected_and_misshapen_tensors_are_listed_in_one_error(folder):
    edit(folder, NORM, lambda tensors: tensors.update({"model.extra.weight": tensors.pop(NORM)}))
    edit(folder, DOWN, lambda tensors: tensors.update({DOWN: tensors[DOWN].t().contiguous()}))
    edit(folder, "lm_head.weight", lambda tensors: tensors.update({"model.layers.3.x": tensors.pop("lm_head.weight")}))
    kind, sentence = refusal(folder)
    assert kind is CheckpointError
    assert sentence == (
        f"the weights in {folder} are not those of its config.json (missing: {NORM}, lm_head.weight; unexpected: "
        f"model.extra.weight, model.layers.3.x; misshapen: {DOWN} [20, 24] instead of [24, 20])"
    )


def test_a_long_list_is_cut(folder):
    def rename(tensors):
        for name in list(tensors):
            tensors[f"x.{name}"] = tensors.pop(name)

    for name in (NORM, DOWN):
        edit(folder, name, rename)
    assert refusal(folder)[1].count(" more; unexpected: ") == 1


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        (torch.float8_e4m3fn, f"holds {DOWN} as F8_E4M3: only F32, F16, BF16, F64 are read here"),
        (torch.int8, f"holds {DOWN} as I8: "),
        (torch.bfloat16, "in several precisions: layers.2.mlp.experts.down)"),  # where its fellows are float32
    ],
)
def test_a_tensor_in_a_precision_of_its_own(folder, dtype, says):
    edit(folder, DOWN, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(dtype)}))
    assert says in refusal(folder)[1]


def add_head(folder, change):
    """A tied head that is stored beside the embedding, changed."""

    def add(tensors):
        tensors["lm_head.weight"] = change(tensors["model.embed_tokens.weight"].clone())

    edit(folder, "model.embed_tokens.weight", add)


def one_bit_off(head):
    head.view(torch.int32)[60, 23] ^= 1
    return head


@pytest.mark.parametrize(
    "change", [one_bit_off, lambda head: head[:-1], lambda head: head.bfloat16()], ids=["bit", "shape", "dtype"]
)
def test_a_tied_head_of_its_own_values_is_refused(released_folder, change):
    folder = released_folder("large")
    add_head(folder, change)
    assert "lm_head.weight differs from the embedding, to which config.json ties it" in refusal(folder)[1]


def test_a_tied_head_and_frequencies_that_are_stored_as_well_are_ignored(released_folder):
    folder = released_folder("large")
    add_head(folder, lambda head: head)
    frequencies = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(3) for layer in range(3)}
    edit(folder, "model.embed_tokens.weight", lambda tensors: tensors.update(frequencies))
    Hunyuan.from_checkpoint(folder)


# --- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        ("large", {"model_type": "gguf"}, "has the model type 'gguf': this project runs hunyuan, hunyuan_v1_moe, hunyuan_v1"),
        ("large", {"model_type": "llama"}, "has the model type 'llama': this project runs hunyuan, "),
        ("large", {"model_type": ["hunyuan"]}, "has the model type ['hunyuan']"),
        ("large", {"model_type": None}, "has the model type None"),
        ("large", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "has the RoPE scaling {'factor': 4.0, 'type': 'yarn'}"),
        ("large", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "linear, and dynamic with alpha, are known here"),
        ("large", {"rope_scaling": "yarn"}, "has rope_scaling 'yarn': it must be an object, or null"),
        ("large", {"rope_scaling": {"type": "dynamic", "alpha": "x"}}, "rope_scaling has alpha 'x'"),
        ("large", {"rope_theta": "1e4"}, "has rope_theta '1e4': it must be a number"),
        ("large", {"use_mla": True}, "has use_mla True, which this project does not compute: it knows False"),
        ("large", {"hidden_act": "gelu"}, "has hidden_act 'gelu', which this project does not compute: it knows 'silu'"),
        ("large", {"moe_layer_num_skipped": 1}, "has moe_layer_num_skipped 1"),
        ("large", {"mlp_bias": True}, "has mlp_bias True"),
        ("a13b", {"use_cla": True}, "has use_cla true, which hunyuan_v1_moe does not know"),
        ("a13b-topk-list", {"moe_topk": [1, 3]}, "moe_topk is [1, 3]: it must be one whole number, or a list of 3"),
        ("large", {"moe_topk": 5}, "moe_topk is 5"),
        ("large", {"moe_topk": "2"}, "moe_topk is '2'"),
        ("large", {"hidden_size": 0}, "hidden_size is 0"),
        ("large", {"num_attention_heads": 5}, "num_attention_heads is 5"),
        ("large", {"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ("large", {"vocab_size": None}, "vocab_size is None"),
        ("large", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_computed_here(released_folder, case, change, says):
    kind, sentence = refusal(with_config(released_folder(case), change))
    assert kind is ConfigError
    assert says in sentence


def with_config(folder, change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "config.json is not a JSON document"),
        (b"", "config.json is not a JSON document"),
        (b"\xff\xfe{}", "config.json is not a JSON document"),
        (b"[" * 100_000, "config.json is not a JSON document"),
        (b'["model_type"]', "config.json holds a list, not an object of settings"),
        (b'"model_type"', "config.json holds a str, not an object of settings"),
    ],
)
def test_a_config_that_is_none(folder, content, says):
    (folder / "config.json").write_bytes(content)
    kind, sentence = refusal(folder)
    assert kind is ConfigError
    assert says in sentence


# --- nothing of a size that only a header or a config.json claims -----------------------------------------------------


def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells it there")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 10_000}, "too few for the 10,000 layers and 4 experts of its config.json"),
        ({"num_experts": 10**9}, "too few for the 3 layers and 1,000,000,000 experts of its config.json"),
        ({"hidden_size": 10**9, "intermediate_size": 10**9}, "describes tensors that are too large to be addressed"),
        ({"vocab_size": 10**9}, "misshapen: lm_head.weight [61, 24] instead of [1000000000, 24]"),
        ({"intermediate_size": 10**9}, "instead of [1000000000, 24]"),
        ({"num_experts": 200}, "missing: model.layers.0.mlp.experts.4.gate_proj.weight"),
    ],
    ids=str,
)
def test_a_size_that_is_claimed_is_not_allocated(folder, change, says):
    with_config(folder, change)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmHWM")
    assert says in refusal(folder)[1]
    assert memory("VmHWM") - before < 150 * MB
