"""The comparison with transformers: passes what is right, and finds what is not."""

import logging
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import Hunyuan
from model.checkpoint import export_check
from model.checkpoint.convert import convert
from model.checkpoint.export_check import compare_with_transformers
from model.errors import CheckpointError, MissingExtraError
from tests.oracles.released import CASES

transformers = pytest.importorskip("transformers")


@pytest.fixture
def exported(released_folder, tmp_path):
    """exported("a13b") -> the model, and the folder that was written for transformers."""

    def export(case, dtype=None):
        convert(released_folder(case), tmp_path / "out", to="transformers", dtype=dtype, max_shard_bytes=40_000)
        return Hunyuan.from_checkpoint(tmp_path / "out"), tmp_path / "out"

    return export


def change(folder, name, edit):
    """Edits the tensors of the file that holds this one."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            edit(tensors)
            save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name]["model_type"] != "hunyuan"])
def test_transformers_computes_the_same(exported, case):
    assert 0 < compare_with_transformers(*exported(case)) < 3e-5


def test_transformers_is_silent_and_then_as_before(exported, capfd):
    """This model's RoPE has a key that transformers warns of, though its class reads it."""
    level, records = transformers.utils.logging.get_verbosity(), []
    handler = logging.Handler()
    handler.emit = records.append
    net, folder = exported("dense")
    logging.getLogger("transformers").addHandler(handler)
    try:
        compare_with_transformers(net, folder)
        assert (capfd.readouterr(), records) == (("", ""), [])
        transformers.AutoConfig.from_pretrained(folder)
        assert "rope_parameters" in records[0].getMessage()
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert transformers.utils.logging.get_verbosity() == level
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_weights_are_compared_in_float32(exported, dtype):
    net, folder = exported("a13b-top2", dtype)
    assert 0 < compare_with_transformers(net, folder) < 3e-5
    assert {str(p.dtype) for name, p in net.named_parameters() if "router" not in name} == {f"torch.{dtype}"}


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.self_attn.key_layernorm.weight", "model.layers.2.mlp.gate.wg.weight",
     "model.layers.0.mlp.experts.3.down_proj.weight", "model.layers.2.mlp.shared_mlp.up_proj.weight", "lm_head.weight"],
)  # fmt: skip
def test_one_other_tensor_is_found_with_figures(exported, name):
    net, folder = exported("a13b-top2")
    change(folder, name, lambda tensors: tensors[name].mul_(1.01))
    says = r"computes other logits from what was written, by up to \d\.\d+ where the largest is \d\.\d+: write the released"
    with pytest.raises(CheckpointError, match=says):
        compare_with_transformers(net, folder)


def test_a_near_tie_of_experts_counts_for_nothing(exported, monkeypatch):
    """Whoever of two experts with nearly the same score is chosen, what follows in that sequence says nothing."""
    net, folder = exported("a13b-top2")
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(net.config.vocab_size, (export_check.SEQUENCES, export_check.LENGTH), generator=generator)
    _, settled = export_check._logits(net, input_ids)
    assert settled.float().mean() > 0.9
    scores = net.layers[1].mlp.router.register_forward_hook(lambda router, inputs, scores: near_tie(scores, at=37))
    _, settled = export_check._logits(net, input_ids)
    assert (~settled).nonzero().tolist() == [[37 // 16, position] for position in range(37 % 16, 16)]
    assert compare_with_transformers(net, folder) < 3e-5  # though another expert was chosen there
    monkeypatch.setattr(export_check, "NEAR_TIE", 0.0)
    with pytest.raises(CheckpointError, match="other logits"):
        compare_with_transformers(net, folder)
    scores.remove()


def near_tie(scores, at):
    """The scores with the second and third best of one token exchanged, and nearly the same."""
    scores = scores.clone()
    _, second, third = scores[at].topk(3).indices.tolist()
    scores[at, third] = scores[at, second] + 5e-5
    return scores


def test_a_model_of_nan_does_not_pass(exported):
    net, folder = exported("dense")
    with torch.no_grad():
        net.norm.weight.fill_(float("nan"))
    change(folder, "model.norm.weight", lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="by up to nan"):
        compare_with_transformers(net, folder)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "missing: model.norm.weight"),
        (lambda tensors: tensors.update({"model.extra.weight": torch.ones(3)}), "unexpected: model.extra.weight"),
    ],
)
def test_transformers_must_find_each_tensor_and_no_other(exported, edit, says):
    net, folder = exported("dense")
    for path in folder.glob("*.index.json"):  # without it transformers takes what the file has
        path.unlink()
    tensors = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=says):
        compare_with_transformers(net, folder)


def test_a_folder_that_transformers_cannot_load(exported):
    net, folder = exported("dense")
    (folder / "config.json").write_text('{"model_type": "unheard of"}')
    with pytest.raises(
        CheckpointError, match=r"cannot load what was written \(.*\): write the released layout"
    ) as caught:
        compare_with_transformers(net, folder)
    assert "\n" not in str(caught.value)


def test_without_transformers_the_folder_is_written_and_the_check_skipped(released_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    facts = convert(
        released_folder("dense", files={"hy.tiktoken": ""}), tmp_path / "out", to="transformers", check=True
    )
    sentence = (
        "the comparison with transformers needs the package 'transformers': install it with pip install 'hunyuan[hf]'"
    )
    assert facts["notes"] == [f"the check was skipped: {sentence}"]
    assert facts["largest_difference"] is None
    with pytest.raises(MissingExtraError, match="hunyuan"):
        compare_with_transformers(Hunyuan.from_checkpoint(tmp_path / "out"), tmp_path / "out")


def test_a_check_that_fails_leaves_nothing_behind(released_folder, tmp_path, monkeypatch):
    source = released_folder("dense")

    def differ(net, folder):
        assert (folder / "config.json").exists()
        raise CheckpointError("other logits")

    monkeypatch.setattr("model.checkpoint.convert.compare_with_transformers", differ)
    with pytest.raises(CheckpointError, match="other logits"):
        convert(source, tmp_path / "out", to="transformers", check=True)
    assert list(tmp_path.iterdir()) == [source]
    convert(source, tmp_path / "out", to="transformers", check=False)
    convert(source, tmp_path / "native", to="native", check=True)  # nothing to compare with


def test_transformers_failing_at_its_own_work_is_no_bug_of_ours(released_folder, tmp_path):
    """Its grouped product wants rows of a multiple of 16 bytes: experts 17 wide are beyond it, not beyond the layout."""
    source = released_folder("a13b-top2", intermediate_size=17, moe_intermediate_size=17)
    says = r"^transformers [\d.]+ failed at computing .*\(RuntimeError: .+\): --no-check leaves the comparison out$"
    with pytest.raises(CheckpointError, match=says):
        convert(source, tmp_path / "out", to="transformers", check=True)
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out", to="transformers", check=False)
    assert (tmp_path / "out" / "model.safetensors").exists()
