"""The oracle of the released code (released.py) against transformers' own classes, and against itself where it must differ.

transformers has Hunyuan-A13B and the dense Hunyuans, which load the folders as they are. Of Hunyuan-Large it has no class:
its A13B class is changed into it, a submodule at a time, and the tensors are put in place one by one.
"""

import json
import os
import re

import pytest
import torch
from safetensors import safe_open

from tests.oracles.released import (
    A13B,
    A13B_SCALING,
    CASES,
    attention,
    inverse_frequencies,
    layout,
    logits,
    random_tensors,
    transformers5_keys,
    write_folder,
)

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", minversion="5.0")

LARGE = {name: config for name, config in CASES.items() if config["model_type"] == "hunyuan"}
OTHERS = {name: config for name, config in CASES.items() if name not in LARGE}
INPUT_IDS = torch.randint(61, (14,), generator=torch.Generator().manual_seed(0)).tolist()
TOLERANCE = 1e-4


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape and one.isfinite().all() and other.isfinite().all()
    return (one.double() - other.double()).abs().max().item()


class SameKeys(torch.nn.Module):
    """A follower's k_proj or v_proj: what its owner's put out last."""

    def __init__(self, owners: torch.nn.Linear):
        super().__init__()
        owners.register_forward_hook(lambda module, inputs, output: setattr(self, "output", output))

    def forward(self, x):
        return self.output


def top1(gate):
    """The router of transformers, which makes a single expert's weight 1, with the probability instead."""

    def weigh(module, inputs, outputs):
        scores, weights, experts = outputs
        return scores, torch.ones_like(weights) * scores.softmax(-1).gather(1, experts), experts

    gate.register_forward_hook(weigh)


class Nothing(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def as_hunyuan_large(config, tensors):
    """transformers' A13B with the changes that make it Hunyuan-Large, holding the tensors."""
    values = {"head_dim": config["hidden_size"] // config["num_attention_heads"]} | config
    values |= {"model_type": "hunyuan_v1_moe", "architectures": ["HunYuanMoEV1ForCausalLM"]}
    net = transformers.AutoModelForCausalLM.from_config(transformers.HunYuanMoEV1Config(**values)).eval()
    if config["rope_scaling"] is None:
        net.model.rotary_emb.inv_freq = net.model.rotary_emb.inv_freq.bfloat16().float()
    for index, layer in enumerate(net.model.layers):
        attention, owner = layer.self_attn, index - index % (config["cla_share_factor"] if config["use_cla"] else 1)
        if owner != index:
            attention.k_proj = SameKeys(net.model.layers[owner].self_attn.k_proj)
            attention.v_proj = SameKeys(net.model.layers[owner].self_attn.v_proj)
        if not config["use_qk_norm"]:
            attention.query_layernorm = attention.key_layernorm = torch.nn.Identity()
        if layer.mlp.gate.top_k == 1:
            top1(layer.mlp.gate)
        width = config["intermediate_size"] * config["num_shared_expert"]
        layer.mlp.shared_mlp = type(layer.mlp.shared_mlp)(transformers.HunYuanMoEV1Config(
            **values | {"intermediate_size": width}))  # fmt: skip
        if not config["use_mixed_mlp_moe"]:
            layer.mlp.shared_mlp = Nothing()
        if config["num_experts"] == 1:
            layer.mlp = type(net.model.layers[0].mlp.shared_mlp)(net.config) if index == 0 else layer.mlp.shared_mlp
    state = dict(tensors)
    for index in range(config["num_hidden_layers"] if config["num_experts"] > 1 else 0):
        at = f"model.layers.{index}.mlp.experts"
        gates, ups, downs = (
            torch.stack([state.pop(f"{at}.{e}.{part}_proj.weight") for e in range(config["num_experts"])])
            for part in ("gate", "up", "down")
        )
        state |= {f"{at}.gate_up_proj": torch.cat((gates, ups), dim=1), f"{at}.down_proj": downs}
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    net.load_state_dict(state)  # strict: neither lacks a tensor that the other has
    return net


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_oracle_equals_transformers(name, shards, tmp_path, record_property):
    config = OTHERS[name]
    tensors = random_tensors(config, seed=1)
    values = config if shards == 1 else transformers5_keys(config)
    folder = write_folder(tmp_path, values, tensors, shards)
    net, told = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), told
    found = difference(net(torch.tensor([INPUT_IDS])).logits[0], logits(config, tensors, INPUT_IDS))
    record_property("difference", found)
    assert found <= TOLERANCE


@pytest.mark.parametrize("name", LARGE)
@torch.no_grad()
def test_oracle_equals_transformers_changed_into_hunyuan_large(name, record_property):
    config = LARGE[name]
    tensors = random_tensors(config, seed=2)
    net = as_hunyuan_large(config, tensors)
    found = difference(net(torch.tensor([INPUT_IDS])).logits[0], logits(config, tensors, INPUT_IDS))
    record_property("difference", found)
    assert found <= TOLERANCE


@pytest.mark.parametrize("scaling", [A13B_SCALING, {"rope_scaling": None}], ids=["alpha", "no-scaling"])
@pytest.mark.parametrize("moe_topk", [2, 1])
def test_families_differ_in_frequencies_and_in_a_single_experts_weight(scaling, moe_topk, record_property):
    """Apart from CLA and shared experts, Hunyuan-Large with scaling and two experts a token is an A13B."""
    config = A13B | scaling | {"moe_topk": moe_topk}
    tensors = random_tensors(config, seed=3)
    large, a13b = (logits(config | {"model_type": kind}, tensors, INPUT_IDS) for kind in ("hunyuan", "hunyuan_v1_moe"))
    if scaling is A13B_SCALING and moe_topk == 2:
        assert torch.equal(large, a13b)
    else:
        record_property("difference", difference(large, a13b))
        assert difference(large, a13b) > 50 * TOLERANCE


def test_frequencies_by_hand():
    config = A13B | {"head_dim": 8, "rope_theta": 10_000.0}
    rounded = [1.0, 0.10009765625, 0.010009765625, 0.00099945068359375]  # 1, 0.1, 0.01 and 0.001 in 8 bits
    assert inverse_frequencies(config | {"model_type": "hunyuan"}).tolist() == rounded
    assert inverse_frequencies(config).tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001], rel=1e-6)
    for kind in ("hunyuan", "hunyuan_v1_moe"):  # alpha^(8/6) = 16, so that the base is 160,000 = 20^4
        config |= {"model_type": kind, "rope_scaling": {"type": "dynamic", "alpha": 8.0, "factor": 1.0}}
        assert inverse_frequencies(config).tolist() == pytest.approx([1.0, 1 / 20, 1 / 400, 1 / 8000], rel=1e-6)


def test_a_single_expert_keeps_its_probability():
    """A router of zeros gives each of 4 experts 1/4; equal experts, 4 times as large, make up for it."""
    config = CASES["large"] | {"use_cla": False}
    tensors = random_tensors(config, seed=4)
    for name in tensors:
        if ".gate.wg." in name:
            tensors[name] = torch.zeros_like(tensors[name])
        elif ".experts." in name:
            tensors[name] = tensors[re.sub(r"experts\.\d+", "experts.0", name)]
    renormalised = logits(config | {"model_type": "hunyuan_v1_moe", "head_dim": 6}, tensors, INPUT_IDS)
    assert difference(renormalised, logits(config, tensors, INPUT_IDS)) > 1000 * TOLERANCE
    larger = {
        name: 4 * tensor if ".experts." in name and "down" in name else tensor for name, tensor in tensors.items()
    }
    assert difference(renormalised, logits(config, larger, INPUT_IDS)) < 1e-5


def test_a_followers_key_norm_is_its_own_and_acts_on_keys_without_a_norm():
    config = CASES["large"]
    tensors = {name: tensor.double() for name, tensor in random_tensors(config, seed=5).items()}
    x = torch.randn(3, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def outputs(changed_layer):
        at = f"model.layers.{changed_layer}.self_attn.key_layernorm.weight"
        weights, keys_values = tensors | ({at: tensors[at].flip(0)} if changed_layer is not None else {}), {}
        return [attention(config, weights, layer, x[layer], keys_values) for layer in range(3)]

    before = outputs(None)
    for changed in range(3):  # 0 owns the keys of 1, and 2 its own
        differences = [difference(one, other) for one, other in zip(before, outputs(changed), strict=True)]
        assert [d > 100 * TOLERANCE for d in differences] == [layer == changed for layer in range(3)]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("large", {"rope_theta": 10_000.0}),
        ("large", {"rope_scaling": {"type": "dynamic", "alpha": 1.0, "factor": 1.0}}),
        ("large-bias", {"rms_norm_eps": 1e-5}),
        ("large", {"rms_norm_eps": 1e-5}),
        ("large-topk-list", {"moe_topk": [1, 2, 3]}),
        ("a13b-topk-list", {"moe_topk": [3, 1, 2]}),
        ("large-two-shared", {"moe_topk": 2}),
        ("dense", {"rope_scaling": None}),
    ],
)
def test_small_changes_show(name, changes, record_property):
    """Whoever reads a key wrongly is found out: its change moves the logits by far more than rounding does."""
    config = CASES[name]
    tensors = random_tensors(config, seed=6)
    assert layout(config) == layout(config | changes)
    found = difference(logits(config, tensors, INPUT_IDS), logits(config | changes, tensors, INPUT_IDS))
    record_property("difference", found)
    assert found > 20 * TOLERANCE


@pytest.mark.parametrize("name", OTHERS)
def test_transformers_writes_these_keys(name, tmp_path):
    write_folder(tmp_path, OTHERS[name], {})
    transformers.AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "5")
    written, expected = json.loads((tmp_path / "5" / "config.json").read_text()), transformers5_keys(OTHERS[name])
    assert {key: written[key] for key in expected} == expected
    assert not {"rope_theta", "rope_scaling", "torch_dtype"} & written.keys()


def test_folder_has_every_tensor_once(tmp_path):
    config = CASES["large"]
    tensors = random_tensors(config, seed=8, dtype=torch.bfloat16)
    assert {tensor.dtype for name, tensor in tensors.items() if ".gate.wg." in name} == {torch.float32}
    assert {tensor.dtype for name, tensor in tensors.items() if ".gate.wg." not in name} == {torch.bfloat16}
    write_folder(tmp_path, config, tensors, shards=3, extra_files={"generation_config.json": "{}"})
    files = [f"model-{shard:05}-of-00003.safetensors" for shard in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "generation_config.json", *files, "model.safetensors.index.json"]  # fmt: skip
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(t.numel() * t.itemsize for t in tensors.values())}
    for file in files:
        with safe_open(tmp_path / file, "pt") as shard:
            assert set(shard.keys()) == {name for name, at in index["weight_map"].items() if at == file}
            assert all(torch.equal(shard.get_tensor(name), tensors.pop(name)) for name in set(shard.keys()))
    assert not tensors
