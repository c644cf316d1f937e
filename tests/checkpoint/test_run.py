"""One checkpoint: complete or not there, found damaged where it is, and restored to the bit."""

import json
import os
import random

import pytest
import torch
from safetensors.torch import load_file

from model import Hunyuan, HunyuanConfig, files
from model.checkpoint import run as runs
from model.checkpoint.load import load_model
from model.checkpoint.run import (
    find_damage,
    newest_intact,
    restore,
    run_of,
    save_checkpoint,
    steps_saved,
)  # fmt: skip
from model.errors import CheckpointError
from model.training.config import TrainingConfig
from model.training.optimizer import build_optimizer

MODEL = HunyuanConfig.from_name(
    "toy", vocab_size=32, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_experts=4, head_dim=4,
    expert_bias_update_rate=0.01,
)  # fmt: skip


class Trained:
    """A model with an optimizer after a few steps on random tokens."""

    def __init__(self, seed: int = 0, steps: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.net = Hunyuan(MODEL, generator)
        self.optimizer = build_optimizer(self.net, MODEL, TrainingConfig())
        for _ in range(steps):
            ids = torch.randint(32, (2, 9), generator=generator)
            output = self.net(ids[:, :-1], ids[:, 1:])
            (output.loss + output.aux_loss).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def parts(self):
        return self.net, self.optimizer

    def save(self, run, step, keep=2, **state):
        return save_checkpoint(run, step, *self.parts(), state, keep)


@pytest.fixture(scope="module")
def trained():
    return Trained()


@pytest.fixture
def run(tmp_path, trained):
    """A run folder with checkpoints of steps 3 and 6."""
    (tmp_path / "config.json").write_text(json.dumps(MODEL.to_dict()))
    for step in (3, 6):
        trained.save(tmp_path, step)
    return tmp_path


def test_everything_comes_back_to_the_bit(run, trained):
    other = Trained(seed=1, steps=1)
    trained.save(run, 9, seconds=1.5, last_row={"loss": 2.0})
    state = restore(run / "checkpoints" / "step-00000009", *other.parts())
    assert state == {"step": 9, "seconds": 1.5, "last_row": {"loss": 2.0}}
    torch.testing.assert_close(other.net.state_dict(), trained.net.state_dict(), rtol=0, atol=0)
    for ours, theirs in zip(other.net.parameters(), trained.net.parameters(), strict=True):
        torch.testing.assert_close(other.optimizer.state[ours], trained.optimizer.state[theirs], rtol=0, atol=0)


def test_files_are_safetensors_and_json_with_their_checksums(run, trained):
    folder = trained.save(run, 9)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert all(len(digest) == 64 for digest in manifest.values())
    assert set(load_file(folder / "model.safetensors")) == set(trained.net.state_dict())
    names = {f"{n}.{key}" for n, _ in trained.net.named_parameters() for key in ("step", "exp_avg", "exp_avg_sq")}
    assert set(load_file(folder / "optimizer.safetensors")) == names


@pytest.mark.parametrize(("keep", "left"), [(1, [12]), (2, [9, 12]), (9, [3, 6, 9, 12])])
def test_the_newest_are_kept(run, trained, keep, left):
    for step in (9, 12):
        trained.save(run, step, keep=9 if step == 9 else keep)
    assert steps_saved(run) == left


def test_later_ones_which_the_run_was_taken_back_before_are_removed(run, trained):
    """They were damaged, or the run would have gone on from them; what they hold is of another future."""
    trained.save(run, 9, keep=9)
    (run / "checkpoints" / "step-00000009" / "model.safetensors").write_bytes(b"")
    trained.save(run, 4, keep=9)
    assert steps_saved(run) == [3, 4]


def test_steps_sort_by_number_and_half_written_ones_do_not_count(run, trained):
    trained.save(run, 100_000_000, keep=9)  # one digit more than the names are padded to
    (run / "checkpoints" / ".step-00000099.writing").mkdir()
    (run / "checkpoints" / "step-00000050").touch()  # a file
    assert steps_saved(run) == [3, 6, 100_000_000]


def test_the_same_step_again_replaces_it(run, trained):
    folder = trained.save(run, 6, seconds=9.0)
    assert json.loads((folder / "state.json").read_text())["seconds"] == 9.0
    assert find_damage(folder) is None


@pytest.mark.parametrize(
    ("function", "calls"),
    [("_save_tensors", 0), ("_save_tensors", 1), ("write_json", 0), ("sha256", 2), ("write_json", 1), ("sync", 3)],
)
def test_a_crash_at_any_point_of_the_writing_leaves_the_older_ones(run, trained, monkeypatch, function, calls):
    """The process dies at a call of one of the parts: simulated by an error that nothing catches."""
    home = files if function == "sync" else runs
    real, left = getattr(home, function), iter(range(calls))

    def dying(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(home, function, dying)
        with pytest.raises(KeyboardInterrupt):
            trained.save(run, 9)
    assert steps_saved(run) == [3, 6]
    assert newest_intact(run) == (run / "checkpoints" / "step-00000006", [])
    assert find_damage(trained.save(run, 9)) is None  # over the remains
    assert list((run / "checkpoints").glob(".*")) == []


def test_every_file_is_on_the_disk_before_the_rename_and_the_rename_after(run, trained, monkeypatch):
    events, real = [], files.sync
    monkeypatch.setattr(files, "sync", lambda path: (events.append((path.parent.name, path.name)), real(path)))
    folder = trained.save(run, 9)
    aside = f".step-00000009.{os.getpid()}.writing"
    inside = {(aside, path.name) for path in folder.iterdir()}
    assert set(events[:-1]) == inside | {("checkpoints", aside)}
    assert events[-1] == (run.name, "checkpoints")


@pytest.mark.parametrize(
    ("steps", "left"), [((3, 6), "the checkpoint of step 6 is intact"), ((), "there is no earlier checkpoint")]
)
def test_a_write_that_fails_is_a_sentence_and_leaves_nothing(tmp_path, trained, monkeypatch, steps, left):
    for step in steps:
        trained.save(tmp_path, step)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "write_json", full)
    with pytest.raises(CheckpointError) as caught:
        trained.save(tmp_path, 9)
    assert "the checkpoint of step 9 could not be written" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert str(caught.value).endswith(f"free some space and resume; {left}")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"step-{s:08d}" for s in steps]


def test_any_single_flipped_byte_is_found(run):
    draw = random.Random(0)
    folder = run / "checkpoints" / "step-00000006"
    assert find_damage(folder) is None
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for _ in range(5):
            place = draw.randrange(len(content))
            if path.name == "manifest.json" and content[place : place + 1].isspace():
                continue  # JSON between its words
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(7)]) + content[place + 1 :])
            assert find_damage(folder) is not None, (path.name, place)
        path.write_bytes(content)
    assert find_damage(folder) is None


def test_the_newest_intact_one_is_taken_and_each_newer_one_named(run, trained):
    trained.save(run, 9, keep=9)
    trained.save(run, 12, keep=9)
    (run / "checkpoints" / "step-00000012" / "state.json").unlink()
    (run / "checkpoints" / "step-00000009" / "model.safetensors").write_bytes(b"")
    folder, passed_over = newest_intact(run)
    assert folder.name == "step-00000006"
    assert passed_over == [
        "the checkpoint step-00000012 is damaged (state.json: No such file or directory): the one before it is used",
        "the checkpoint step-00000009 is damaged (model.safetensors does not match its checksum): the one before it is used",
    ]


def test_nothing_to_take_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="is a run that has saved no checkpoint yet"):
        newest_intact(tmp_path)


# --- as a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["run", "checkpoint"])
def test_a_model_from_a_run_or_from_one_checkpoint(run, trained, of):
    net = Hunyuan.from_checkpoint(run if of == "run" else str(run / "checkpoints" / "step-00000003"))
    assert net.config == MODEL
    assert not net.training
    ids = torch.arange(12).view(1, 12)
    trained.net.eval()
    torch.testing.assert_close(net(ids).logits, trained.net(ids).logits, rtol=0, atol=0)
    trained.net.train()


def test_a_damaged_checkpoint_named_by_the_user_is_refused_and_a_run_falls_back(run):
    newest = run / "checkpoints" / "step-00000006"
    (newest / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000006 is damaged .* use another one of"):
        load_model(newest, Hunyuan)
    assert isinstance(load_model(run, Hunyuan), Hunyuan)


@pytest.mark.parametrize(
    ("name", "says"), [("absent", "does not exist"), ("", "is empty"), ("..", "has no checkpoint")]
)
def test_a_folder_that_is_no_run(tmp_path, name, says):
    with pytest.raises(CheckpointError, match=f"{says}: give the folder of a run"):
        run_of(tmp_path / name)
