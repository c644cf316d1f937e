"""What some processes saved, any number of processes goes on with, and every command reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pool import Pool
from runs import run_alone, run_on_ranks, settings_of
from safetensors.torch import load_file

from hunyuan_cli import main
from model.checkpoint.run import find_damage, newest_intact, steps_saved
from model.checkpoint.shard_files import ShardFiles, read_all
from model.errors import CheckpointError
from model.parallel.layout import Layout
from model.training.run_folder import settings_of as recorded_settings
from model.transformer import Hunyuan

LAYOUTS: dict[str, Layout | None] = {
    "1": None,
    "2": Layout(processes=2),
    "2 ep": Layout(processes=2, expert_parallel=2, shard=1),
    "4 ep 2": Layout(processes=4, expert_parallel=2),
    "4 hsdp": Layout(processes=4, shard=2),
}


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The settings of a run of the tiny model, on a text of its own."""
    folder = tmp_path_factory.mktemp("runs")
    words = "the quick brown fox jumps over the lazy dog and runs away from it as fast as it can ".split()
    (folder / "text.txt").write_text(" ".join(words[i * i % len(words)] for i in range(9000)))
    return lambda *changes: settings_of(folder / "text.txt", folder / "cache", *changes)


@pytest.fixture(scope="module")
def whole(begin: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_alone(folder, begin())
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def go(ranks: Callable[[int], Pool], layout: Layout | None, *given: Any) -> dict[str, Any]:
    """A part of a run on a layout; the summary of its first process."""
    if layout is None:
        folder, settings, *rest = given
        return run_alone(folder, settings, resume=rest[0], stop_after=rest[1])
    folder, settings, *rest = given
    summary: dict[str, Any] = ranks(layout.processes).run(run_on_ranks, folder, settings, layout, *rest)[0]
    return summary


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1", "2 ep"),
        ("2", "4 ep 2"),
        ("2 ep", "1"),
        ("4 ep 2", "2"),
        ("4 hsdp", "1"),
        ("2 ep", "2 ep"),
        ("1", "4 hsdp"),
    ],
)
def test_a_run_goes_on_in_another_layout(
    ranks: Callable[[int], Pool], begin: Callable[..., Any], whole: Path, tmp_path: Path, first: str, second: str
) -> None:
    folder = tmp_path / "run"
    summary = go(ranks, LAYOUTS[first], folder, begin(), False, 3)
    assert (summary["status"], summary["steps"], steps_saved(folder)) == ("interrupted", 3, [3])
    files = read_all(newest_intact(folder)[0], "optimizer")
    summary = go(ranks, LAYOUTS[second], folder, recorded_settings(folder), True, 0)
    assert summary["status"] == "finished"
    assert {int(count) for name, count in files.items() if name.endswith(".step")} == {3}
    for row, expected in zip(rows(folder), rows(whole), strict=True):
        for key in ("step", "tokens", "tokens_per_expert", "dropped_fraction", "recycled_fraction", "lr"):
            assert row[key] == expected[key], key
        for key in ("loss", "aux_loss", "grad_norm", *({"val_loss", "val_bits_per_byte"} & expected.keys())):
            assert row[key] == pytest.approx(expected[key], rel=2e-6), key
    one, other = (read_all(newest_intact(each)[0], "model") for each in (whole, folder))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


def test_what_ranks_saved_is_what_they_hold_bit_for_bit(
    ranks: Callable[[int], Pool], begin: Callable[..., Any], tmp_path: Path
) -> None:
    """A checkpoint of one process, resumed for no step by four and saved by them, has the same weights and moments."""
    folder, settings = tmp_path / "run", begin()
    run_alone(folder, settings, stop_after=2)
    before = {kind: read_all(newest_intact(folder)[0], kind) for kind in ("model", "optimizer")}  # type: ignore[arg-type]
    longer = begin("training.keep_checkpoints=5")
    ranks(4).run(run_on_ranks, folder, longer, LAYOUTS["4 ep 2"], True, 3)
    ranks(2).run(resaved, folder, longer, tmp_path)
    after = {kind: read_all(tmp_path / "again" / "checkpoints" / "step-00000002", kind) for kind in before}  # type: ignore[arg-type]
    for kind in before:
        assert before[kind].keys() == after[kind].keys()
        assert all(torch.equal(before[kind][name], after[kind][name]) for name in before[kind])


def resaved(rank: int, folder: Path, settings: Any, where: Path) -> None:
    """Step 2 of a run, restored to the pieces of two ranks and saved from them."""
    from model.checkpoint.sharded import restore_sharded, save_sharded
    from model.parallel.shard import shared_model
    from model.parallel.start import ranks_of

    layout = Layout(processes=2, expert_parallel=2)
    shards, optimizer = shared_model(settings.model, settings.training, ranks_of(layout, rank, torch.device("cpu")))
    state = restore_sharded(folder / "checkpoints" / "step-00000002", shards, optimizer)
    save_sharded(where / "again", state["step"], shards, optimizer, state, 2)


def test_commands_read_what_ranks_saved(
    ranks: Callable[[int], Pool], begin: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    ranks(2).run(run_on_ranks, folder, begin("model.expert_bias_update_rate=0.0"), LAYOUTS["2 ep"])
    checkpoint = newest_intact(folder)[0]
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        *("manifest.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("optimizer-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors", "shards.json", "state.json"),
    ]
    held = [load_file(checkpoint / f"model-0000{rank}-of-00002.safetensors") for rank in (1, 2)]
    name = "layers.0.mlp.experts.down"
    net = Hunyuan.from_checkpoint(folder)
    assert torch.equal(torch.cat([part[name] for part in held]), net.layers[0].mlp.experts.down)
    assert main.run(["infer", "the", "--checkpoint", str(folder), "--tokens", "4"]) == 0
    capfd.readouterr()
    assert main.run(["compare", str(folder), "--format", "json"]) == 0
    assert f'"{folder.name}"' in capfd.readouterr().out
    assert main.run(["convert", str(folder), "--to", "hunyuan", "--out", str(tmp_path / "hf")]) == 0
    assert "neither" not in capfd.readouterr().err
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(Hunyuan.from_checkpoint(tmp_path / "hf")(ids).logits, net(ids).logits)


def test_damage_to_a_shard_is_found_and_the_checkpoint_before_it_used(
    ranks: Callable[[int], Pool], begin: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ranks(2).run(run_on_ranks, folder, begin(), LAYOUTS["2"])
    last = newest_intact(folder)[0]
    shard = last / "model-00002-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert find_damage(last) == "model-00002-of-00002.safetensors does not match its checksum"
    assert newest_intact(folder)[0].name == "step-00000004"
    index = json.loads((last / "shards.json").read_text())
    del index["model"]["norm.weight"]["pieces"][0]
    (last / "shards.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"does not say where all of norm\.weight is"):
        ShardFiles(last, "model")
