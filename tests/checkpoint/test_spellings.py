"""Folders as other programs write them give the logits of the same tensors in the usual layout, and those of transformers."""

import re

import pytest
import torch
from safetensors.torch import save_file

from model import Hunyuan
from model.checkpoint.convert import convert
from model.checkpoint.tensor_files import ambiguity
from model.errors import CheckpointError
from tests.checkpoint.folders import INPUT_IDS, logits, refusal, tensors_in

EXPERTS, LAYERS = 4, 3
GATE_WG, DOWN = "model.layers.0.mlp.gate.wg.weight", "model.layers.0.mlp.experts.0.down_proj.weight"


def without_head(tensors):
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def stacked(tensors, layers=range(LAYERS)):
    found = dict(tensors)
    for layer in layers:
        at = f"model.layers.{layer}.mlp.experts"
        gates, ups, downs = (
            [found.pop(f"{at}.{e}.{part}_proj.weight") for e in range(EXPERTS)] for part in ("gate", "up", "down")
        )
        found[f"{at}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(gates, ups, strict=True)])
        found[f"{at}.down_proj"] = torch.stack(downs)
    return found


def first_layer_stacked(tensors):
    return stacked(tensors, [0])


def head_alone(tensors):
    tensors = dict(tensors)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    return tensors


def head_as_well(tensors):
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def compiled(tensors):
    return {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}


def compiled_layers(tensors):
    return {re.sub(r"(layers\.\d+)", r"\1._orig_mod", name): tensor for name, tensor in tensors.items()}


def parallel(tensors):
    return {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}


def fully_sharded(tensors):
    return {"_fsdp_wrapped_module." + name.replace("mlp.", "mlp._checkpoint_wrapped_module.", 1): tensor
            for name, tensor in tensors.items()}  # fmt: skip


def all_at_once(tensors):
    return compiled(without_head(stacked(tensors)))


READ_BY_TRANSFORMERS = [without_head, stacked, head_alone, head_as_well]
SPELLINGS = [
    *READ_BY_TRANSFORMERS, first_layer_stacked, compiled, compiled_layers, parallel, fully_sharded, all_at_once
]  # fmt: skip


@pytest.fixture
def spelled(released_folder):
    """spelled(stacked) -> a folder of the usual layout, and the same tensors as the function respells them."""

    def write(respell, case="a13b-bias-tied", **changes):
        usual = released_folder(case, shards=1, **changes)
        other = released_folder(case, shards=1, seed=4, **changes)
        save_file(respell(tensors_in(usual)), other / "model.safetensors", metadata={"format": "pt"})
        return usual, other

    return write


@pytest.mark.parametrize("respell", SPELLINGS)
def test_the_logits_are_those_of_the_usual_names(spelled, respell):
    usual, other = spelled(respell)
    assert torch.equal(logits(other), logits(usual))


@pytest.mark.parametrize("respell", [stacked, first_layer_stacked, all_at_once])
@torch.no_grad()
def test_experts_on_disk_are_found_by_any_name(spelled, respell):
    usual, other = spelled(respell)
    net = Hunyuan.from_checkpoint(other, expert_cache_bytes=100_000)
    torch.testing.assert_close(net(INPUT_IDS).logits, logits(usual), rtol=0, atol=1e-5)


@pytest.mark.parametrize("respell", READ_BY_TRANSFORMERS)
@torch.no_grad()
def test_transformers_computes_the_same_logits(spelled, respell):
    """Top-2: its class gives a single expert the weight 1, and these experts are 20 wide, a multiple of 16 bytes."""
    transformers = pytest.importorskip("transformers")
    _, other = spelled(respell, moe_topk=2)
    net, info = transformers.AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(logits(other), net.eval()(INPUT_IDS, use_cache=False).logits, rtol=0, atol=1e-4)


def test_a_stacked_folder_converts(spelled, tmp_path):
    usual, other = spelled(stacked, moe_topk=2)
    convert(other, tmp_path / "run", to="native")
    convert(tmp_path / "run", tmp_path / "back", to="hunyuan")
    before, after = tensors_in(usual), tensors_in(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_many_experts_in_few_tensors_are_no_sign_of_a_wrong_config(spelled, monkeypatch):
    usual, other = spelled(stacked)
    monkeypatch.setattr("model.checkpoint.released.FEW_BLOCKS", 3)
    assert torch.equal(logits(other), logits(usual))


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_tensor_under_two_spellings_is_refused(spelled):
    _, other = spelled(lambda tensors: tensors | {f"module.{GATE_WG}": tensors[GATE_WG].clone()})
    kind, sentence = refusal(other)
    assert kind is CheckpointError
    assert re.search(rf"holds {GATE_WG} twice, as (module\.)?{GATE_WG} and as (module\.)?{GATE_WG}: remove", sentence)


def test_experts_both_stacked_and_alone_are_refused(spelled):
    _, other = spelled(lambda tensors: stacked(tensors) | {DOWN: tensors[DOWN]})
    assert f"unexpected: {DOWN}" in refusal(other)[1]


def test_stacked_experts_of_another_shape_are_refused(spelled):
    def fewer(tensors):
        found = stacked(tensors)
        name = "model.layers.1.mlp.experts.down_proj"
        return found | {name: found[name][:3].contiguous()}

    assert "misshapen: model.layers.1.mlp.experts.down_proj [3, 24, 20] instead of [4, 24, 20]" in refusal(
        spelled(fewer)[1]
    )[1]  # fmt: skip


# --- a single file and an index --------------------------------------------------------------------------------------


def test_of_a_single_file_and_an_index_the_file_is_read_as_transformers_does(released_folder):
    single, sharded = released_folder("a13b-top2", shards=1), released_folder("a13b-top2", seed=4)
    expected = logits(single)
    assert ambiguity(single) is None
    assert ambiguity(sharded) is None
    for path in sharded.glob("model*"):
        (single / path.name).write_bytes(path.read_bytes())
    assert torch.equal(logits(single), expected)
    assert ambiguity(single) == (
        f"{single} holds both model.safetensors and model.safetensors.index.json: model.safetensors is read, as "
        "transformers does; remove whichever is not the model's"
    )
    transformers = pytest.importorskip("transformers")
    with torch.no_grad():
        net = transformers.AutoModelForCausalLM.from_pretrained(single, dtype=torch.float32).eval()
        torch.testing.assert_close(net(INPUT_IDS, use_cache=False).logits, expected, rtol=0, atol=1e-4)


def test_an_index_of_the_single_file_leaves_no_doubt(released_folder):
    folder = released_folder("a13b-top2", shards=1)
    expected = logits(folder)
    names = ", ".join(f'"{name}": "model.safetensors"' for name in tensors_in(folder))
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{names}}}}}')
    assert ambiguity(folder) is None
    assert torch.equal(logits(folder), expected)


def test_convert_tells_of_both(released_folder, tmp_path):
    folder = released_folder("a13b-top2", shards=1)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert convert(folder, tmp_path / "run", to="native")["notes"][0].startswith(f"{folder} holds both ")
