"""Conversion moves bytes: there and back they are the same, and where a layout's code computes something else it is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from model import HunyuanConfig
from model.checkpoint import convert as module
from model.checkpoint import run as runs
from model.checkpoint.convert import convert
from model.errors import CheckpointError
from tests.checkpoint.folders import INPUT_IDS, config_in, logits, tensors_in
from tests.oracles.released import CASES, random_tensors

# The layouts that each case goes into: the released code takes a top-1 expert's probability as it is, and transformers'
# classes know A13B and the dense models.
TO = {name: {"hunyuan"} for name in CASES if name.startswith("large")} | {
    "a13b": {"transformers"}, "a13b-top2": {"hunyuan", "transformers"}, "a13b-topk-list": {"transformers"},
    "a13b-alpha": {"hunyuan", "transformers"}, "a13b-bias-tied": {"transformers"},
    "dense": {"hunyuan", "transformers"}, "dense-no-scaling": {"hunyuan", "transformers"},
}  # fmt: skip
WRITTEN = [(name, to) for name in CASES for to in sorted(TO[name])]
REFUSED = [(name, to) for name in CASES for to in ("hunyuan", "transformers") if to not in TO[name]]


def assert_equal_tensors(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert {name: found[name].dtype for name in found} == {name: expected[name].dtype for name in found}


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "to"), WRITTEN)
def test_there_and_back_no_bit_changes(released_folder, tmp_path, name, to):
    source = released_folder(name)
    facts = convert(source, tmp_path / "native", to="native")
    assert facts["parameters"] == sum(tensor.numel() for tensor in random_tensors(CASES[name], 3).values())
    facts = convert(tmp_path / "native", tmp_path / "back", to=to, max_shard_bytes=20_000)
    assert facts["bytes"] == sum(tensor.nbytes for tensor in random_tensors(CASES[name], 3).values())
    assert_equal_tensors(tensors_in(tmp_path / "back"), random_tensors(CASES[name], 3))
    assert torch.equal(logits(tmp_path / "native"), logits(source))
    assert torch.equal(logits(tmp_path / "back"), logits(source))


@pytest.mark.parametrize(("name", "to"), WRITTEN)
def test_the_configuration_says_the_same(released_folder, tmp_path, name, to):
    """In words of its own, where another family's code has other conventions."""
    source = released_folder(name)
    convert(source, tmp_path / "native", to="native")
    convert(tmp_path / "native", tmp_path / "back", to=to)
    before, native_one, back = map(HunyuanConfig.from_file, (source, tmp_path / "native", tmp_path / "back"))
    assert native_one == before
    if (CASES[name]["model_type"] == "hunyuan") != (to == "hunyuan"):
        assert back.convention == "hunyuan-large"
        assert back.rope_scaling == (before.rope_scaling or {"type": "dynamic", "alpha": 1.0, "factor": 1.0})
        back = back.replace(convention=before.convention, rope_scaling=before.rope_scaling)
    assert back == before
    kind = {"hunyuan": "hunyuan"}.get(to, CASES[name]["model_type"])
    assert config_in(tmp_path / "back")["model_type"] == kind


@pytest.mark.parametrize(("name", "to"), REFUSED)
def test_what_the_layouts_code_would_not_compute_is_refused_before_the_weights_are_read(
    released_folder, tmp_path, monkeypatch, name, to
):
    source = released_folder(name)
    monkeypatch.setattr(module, "load_released", None)
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "out", to=to)
    (other,) = TO[name]
    assert str(caught.value).endswith(f", --to {other}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "to", "reason"),
    [
        ("large-cla3", "transformers", "it shares keys and values over 3 layers (CLA)"),
        ("large-mqa", "transformers", "the weight of its top-1 expert is the softmax probability, there it is 1"),
        ("large-no-scaling", "transformers", "its RoPE frequencies are rounded to bfloat16"),
        ("large-plain-qk", "transformers", "it has no norms of queries and keys"),
        ("large-two-shared", "transformers", "it has 2 shared experts, there it is 1"),
        ("large-no-shared", "transformers", "it has 0 shared experts, there it is 1"),
        ("a13b-topk-list", "hunyuan", "its experts' top-1 weight is 1, there it is the softmax probability"),
    ],
)
def test_the_refusal_says_why(released_folder, tmp_path, name, to, reason):
    with pytest.raises(CheckpointError) as caught:
        convert(released_folder(name), tmp_path / "out", to=to)
    assert reason in str(caught.value)


def test_a_model_that_no_released_code_computes_runs_here_only(run_folder, tmp_path):
    run, _ = run_folder(rope_scaling={"type": "linear", "factor": 2.0}, cla_share_factor=2)
    for to in ("hunyuan", "transformers"):
        with pytest.raises(CheckpointError, match="it runs here only"):
            convert(run, tmp_path / "out", to=to)


# --- a run's own model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"moe_topk": 2}, {"num_experts": 1}, {"moe_routing": "recycle"}], ids=str)
def test_a_run_goes_into_the_released_layout(run_folder, tmp_path, changes):
    run, net = run_folder(cla_share_factor=2, **changes)
    convert(run, tmp_path / "out", to="hunyuan")
    assert torch.equal(logits(tmp_path / "out"), net(INPUT_IDS).logits)
    config = HunyuanConfig.from_file(tmp_path / "out")
    assert config.rope_scaling == {"type": "dynamic", "alpha": 1.0, "factor": 1.0}  # frequencies stay in float32
    assert config.moe_routing == net.config.moe_routing
    convert(tmp_path / "out", tmp_path / "again", to="native")
    assert torch.equal(logits(tmp_path / "again"), net(INPUT_IDS).logits)


@pytest.mark.parametrize(
    "changes",
    [{"moe_topk": 2}, {"num_experts": 1}, {"moe_topk": 3, "rope_scaling": {"type": "linear", "factor": 2.0}}],
    ids=str,
)
def test_a_run_goes_to_transformers_which_computes_the_same(run_folder, tmp_path, changes):
    run, net = run_folder(**changes)
    facts = convert(run, tmp_path / "out", to="transformers", check=True)
    assert 0 < facts["largest_difference"] < 1e-4
    assert torch.equal(logits(tmp_path / "out"), net(INPUT_IDS).logits)


def test_one_checkpoint_of_a_run_and_a_run_whose_newest_is_damaged(run_folder, tmp_path):
    run, net = run_folder()
    first, second = (run / "checkpoints" / f"step-0000000{step}" for step in (0, 1))
    second.mkdir()
    assert convert(first, tmp_path / "first", to="hunyuan")["notes"] == []
    assert torch.equal(logits(tmp_path / "first"), net(INPUT_IDS).logits)
    (note,) = convert(run, tmp_path / "second", to="hunyuan")["notes"]
    assert note.startswith("the checkpoint step-00000001 is damaged")
    with pytest.raises(CheckpointError, match="step-00000001 is damaged"):
        convert(second, tmp_path / "third", to="hunyuan")


def test_what_a_layout_has_no_place_for_is_told(run_folder, tmp_path):
    run, _ = run_folder(expert_bias_update_rate=0.01, router_z_loss_coef=0.5, moe_topk=2)
    (run / "checkpoints" / "step-00000000" / "optimizer.safetensors").touch()
    (run / "checkpoints" / "step-00000000" / ".hidden").touch()
    manifest = run / "checkpoints" / "step-00000000" / "manifest.json"
    (manifest.parent / "generators.safetensors").touch()
    checksums = {path.name: runs.sha256(path) for path in manifest.parent.iterdir() if path != manifest}
    manifest.write_text(json.dumps(checksums))
    files = ["generators.safetensors", "optimizer.safetensors", "run.toml"]
    assert convert(run, tmp_path / "a", to="native")["left_out"] == files
    assert convert(run, tmp_path / "b", to="hunyuan")["left_out"] == [
        *files, "router_z_loss_coef 0.5", "expert_bias_update_rate 0.01", "expert_bias, which is 0"]  # fmt: skip


def test_experts_chosen_with_a_bias_stay_here(run_folder, tmp_path):
    run, net = run_folder(expert_bias_update_rate=0.01)
    net.layers[1].mlp.router.expert_bias[2] = 0.5
    (run / "checkpoints").rename(tmp_path / "old")
    runs.save_weights(run, net)
    with pytest.raises(CheckpointError, match=r"chooses its experts with a bias \(layers.1.mlp.router.expert_bias\)"):
        convert(run, tmp_path / "out", to="hunyuan")
    assert not (tmp_path / "out").exists()
    convert(run, tmp_path / "out", to="native")
    assert torch.equal(logits(tmp_path / "out"), net(INPUT_IDS).logits)


# --- precision, shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("to", ["native", "hunyuan", "transformers"])
def test_another_precision_leaves_the_routers_alone(released_folder, tmp_path, dtype, to):
    facts = convert(released_folder("a13b-top2"), tmp_path / "out", to=to, dtype=dtype)
    assert facts["dtype"] == dtype
    if to == "native":
        convert(tmp_path / "out", tmp_path / "back", to="hunyuan")
    written = tmp_path / ("back" if to == "native" else "out")
    expected = {
        name: tensor if name.endswith(".gate.wg.weight") else tensor.to(getattr(torch, dtype))
        for name, tensor in random_tensors(CASES["a13b-top2"], 3).items()
    }
    assert_equal_tensors(tensors_in(written), expected)
    assert config_in(written)["dtype" if to == "transformers" else "torch_dtype"] == dtype


def test_bfloat16_there_and_back(released_folder, tmp_path):
    """As models are released; and a float32 that was bfloat16 becomes the same bfloat16 again."""
    source = released_folder("large", dtype=torch.bfloat16)
    convert(source, tmp_path / "native", to="native")
    convert(tmp_path / "native", tmp_path / "wide", to="hunyuan", dtype="float32")
    facts = convert(tmp_path / "wide", tmp_path / "back", to="hunyuan", dtype="bfloat16")
    assert facts["dtype"] == config_in(tmp_path / "back")["torch_dtype"] == "bfloat16"
    assert_equal_tensors(tensors_in(tmp_path / "back"), random_tensors(CASES["large"], 3, torch.bfloat16))


def test_float16_is_refused_where_it_would_overflow(run_folder, tmp_path):
    run, net = run_folder()
    with torch.no_grad():
        net.layers[1].mlp.experts.down[3, 5, 7] = 70_000
    (run / "checkpoints").rename(tmp_path / "old")
    runs.save_weights(run, net)
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.experts.down holds numbers that float16 has not"):
        convert(run, tmp_path / "out", to="hunyuan", dtype="float16")


@pytest.mark.parametrize("limit", [1, 1_999, 2_000, 30_000, 10**9])
def test_shards_keep_to_their_size_and_the_index_names_all(released_folder, tmp_path, limit):
    facts = convert(released_folder("large-bias"), tmp_path / "out", to="hunyuan", max_shard_bytes=limit)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == facts["shards"]
    expected = random_tensors(CASES["large-bias"], 3)
    assert_equal_tensors(tensors_in(tmp_path / "out"), expected)
    sizes = [[tensor.nbytes for tensor in load_file(path).values()] for path in files]
    assert all(sum(each) <= limit or len(each) == 1 for each in sizes)
    assert all(sum(sizes[i]) + max(sizes[i + 1]) > limit for i in range(len(sizes) - 1))  # none is cut early
    total = sum(tensor.nbytes for tensor in expected.values())
    assert facts["bytes"] == total
    if limit == 10**9:
        assert [path.name for path in files] == ["model.safetensors"]
        assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
        return
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == total
    assert index["weight_map"] == {name: path.name for path in files for name in load_file(path)}
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
