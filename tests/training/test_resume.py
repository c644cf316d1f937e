"""Going on with a run: bit for bit as if it had never stopped, from the newest checkpoint that is intact."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import save_file
from tiny import TENSORS, TINY, assert_same_run, checkpoint, rows_of, write_text

from model.checkpoint.run import steps_saved
from model.errors import CheckpointError
from model.files import LOCK, sha256
from model.moe.place_keys import routing_key
from model.training import pretraining, run_folder
from model.training.events import Silent
from model.training.pretraining import Pretraining
from model.training.settings import RunSettings

MODELS = {
    "recycle": ("model.moe_routing=recycle", "model.expert_bias_update_rate=0.01"),
    "drop top-2": ("model.moe_routing=drop", "model.moe_topk=2", "training.evaluate_every=4"),
    "dense": ("model.num_experts=1", "model.num_shared_expert=0", "training.keep_checkpoints=1"),
}
RECYCLE = MODELS["recycle"]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("stops", [(1,), (3,), (5, 6), (4, 1, 3, 11)], ids=str)
def test_stopped_and_resumed_is_uninterrupted(pretrain, tmp_path, model, stops):
    pretrain(*model, folder=tmp_path / "whole")
    recorder = pretrain(*model, stop_after=stops[0])
    done = stops[0]
    for count in [*stops[1:], None]:
        assert recorder.summary["status"] == "interrupted"
        assert recorder.summary["steps"] == steps_saved(tmp_path / "run")[-1] == done
        recorder = pretrain(*model, resume=True, stop_after=count)
        assert recorder.plan.start_step == done
        done = min(12, done + (count or 12))
        if done == 12:
            break
    assert recorder.summary["status"] == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "whole", 12)


def test_a_request_to_stop_in_the_last_step_comes_too_late(pretrain):
    assert pretrain("training.steps=3", stop_after=3).summary["status"] == "finished"


@pytest.mark.parametrize("routing", ["dropless", "recycle"])
def test_a_run_of_an_older_version_goes_on_and_says_where_it_is_not_the_same(pretrain, tmp_path, routing):
    """Its checkpoints hold the state of a generator, from which the places of recycle routing were drawn."""
    model = (f"model.moe_routing={routing}",)
    pretrain(*model, folder=tmp_path / "whole")
    pretrain(*model, stop_after=5)
    folder = checkpoint(tmp_path / "run", 5)
    save_file({"routing": torch.Generator().manual_seed(7).get_state()}, folder / "generators.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["generators.safetensors"] = sha256(folder / "generators.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    notes = pretrain(*model, resume=True).notes
    assert_same_run(tmp_path / "run", tmp_path / "whole", 12)
    assert [note.split(", which")[0] for note in notes] == (
        ["this run began in an older version of hunyuan"] if routing == "recycle" else []
    )


def test_the_places_of_recycling_follow_from_seed_step_and_micro_batch(pretrain, tmp_path):
    """A resumed run would repeat the places of other steps, if it counted from where it went on."""
    keys = []

    class Keys(Pretraining):
        def forward(self, net, batch, routing_key):
            keys.append(int(routing_key))
            return super().forward(net, batch, routing_key)

    pretrain(*RECYCLE, "training.steps=3", task=Keys)
    assert keys == [int(routing_key(7, step, micro)) for step in range(3) for micro in range(2)]
    assert len(set(keys)) == 6


@pytest.mark.parametrize(
    ("every", "keep", "left"), [(3, 2, [9, 12]), (1, 3, [10, 11, 12]), (5, 9, [5, 10, 12]), (0, 1, [12])]
)
def test_the_last_checkpoints_are_kept(pretrain, tmp_path, every, keep, left):
    pretrain(f"training.checkpoint_every={every}", f"training.keep_checkpoints={keep}")
    assert steps_saved(tmp_path / "run") == left


def test_a_finished_run_resumes_to_its_end_and_changes_nothing(pretrain, tmp_path):
    pretrain(*RECYCLE)
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    recorder = pretrain(*RECYCLE, resume=True)
    assert (recorder.summary["status"], recorder.rows, recorder.plan.start_step) == ("finished", [], 12)
    assert_same_run(tmp_path / "run", tmp_path / "before", 12)
    assert recorder.summary == json.loads((tmp_path / "before" / "summary.json").read_text())


# --- ended before the first checkpoint ---------------------------------------------------------------------------------


KILL = "import os; from model.training import held, run_folder; die = lambda *given, **named: os.kill(os.getpid(), 9)\n"


def killed(process, text, folder, code):
    """A `hunyuan train` that is ended by SIGKILL at the place that `code` gives the function `die`."""
    settings = [word for setting in RECYCLE for word in ("--set", setting)]
    child = process("--out", folder, "--config", TINY, "--data", text, *settings, code=KILL + code)
    _, err = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, err
    assert steps_saved(folder) == []


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (
            "held.save_checkpoint",
            {
                "run.toml",
                "config.json",
                "tokenizer.json",
                "generation_config.json",
                "environment.json",
                "metrics.jsonl",
            },
        ),
        ("run_folder.write_json", {"run.toml"}),
    ],
    ids=["steps but no checkpoint", "run.toml alone"],
)
def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    process, pretrain, text, cache, tmp_path, monkeypatch, place, left
):
    folder = tmp_path / "run"
    killed(process, text, folder, f"{place} = die")
    assert {path.name for path in folder.iterdir()} - {"checkpoints", LOCK} == left
    if "metrics.jsonl" in left:
        assert [row["step"] for row in rows_of(folder)] == [1, 2, 3]
    settings = (folder / "run.toml").read_bytes()
    monkeypatch.setenv("HUNYUAN_CACHE", str(cache))
    pretraining.pretrain(folder, run_folder.settings_of(folder), Silent(), resume=True)
    pretrain(*RECYCLE, folder=tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole", 12)
    assert [row["step"] for row in rows_of(folder)] == list(range(1, 13))
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert (folder / "run.toml").read_bytes() == settings
    for name in ("config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Dying(Pretraining):
    """Ends in step 3 (from 1), after two lines of metrics."""

    def micro_batches(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return super().micro_batches(step)


@pytest.mark.parametrize("record", ["config.json", "environment.json", "tokenizer.json", "metrics.jsonl"])
def test_a_record_that_is_missing_or_cut_short_is_written_again(pretrain, tmp_path, record):
    pretrain(*RECYCLE, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(*RECYCLE, task=Dying)
    folder = tmp_path / "run"
    (folder / record).write_text('{"ste')
    (folder / "checkpoints" / ".step-00000003.writing").mkdir(parents=True)  # of a checkpoint that was begun
    recorder = pretrain(*RECYCLE, resume=True)
    assert recorder.plan.start_step == 0
    assert [row["step"] for row in recorder.rows] == list(range(1, 13))
    assert_same_run(folder, tmp_path / "whole", 12)
    for name in ("config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "fingerprint" in json.loads((folder / "environment.json").read_text())["data"]
    assert [path.name for path in folder.rglob(".*")] == [LOCK]


def test_before_the_first_checkpoint_other_text_may_be_brought(pretrain, text, tmp_path):
    """Nothing has been learnt from the old one."""
    mine = tmp_path / "mine.txt"
    shutil.copy(text, mine)
    source = f'data.sources=["{mine}"]'
    with pytest.raises(KeyboardInterrupt):
        pretrain(source, task=Dying)
    write_text(mine, seed=1)
    assert pretrain(source, resume=True).plan.start_step == 0
    pretrain(source, folder=tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole", 12)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped byte of the weights": lambda c: flip_a_byte(c / "model.safetensors"),
    "a flipped byte of the optimizer": lambda c: flip_a_byte(c / "optimizer.safetensors"),
    "a flipped byte of the state": lambda c: flip_a_byte(c / "state.json"),
    "a truncated file": lambda c: (c / "optimizer.safetensors").write_bytes(b""),
    "a missing file": lambda c: (c / "model.safetensors").unlink(),
    "no manifest": lambda c: (c / "manifest.json").unlink(),
    "a manifest that is not JSON": lambda c: (c / "manifest.json").write_text("{"),
    "a manifest of another kind": lambda c: (c / "manifest.json").write_text("[]"),
    "a manifest without a file": lambda c: (c / "manifest.json").write_text('{"state.json": ""}'),
    "an empty folder": lambda c: [path.unlink() for path in c.iterdir()],
}


@pytest.fixture
def stopped(pretrain, tmp_path):
    """A run that stopped after step 8, with checkpoints of steps 6 and 8, and the uninterrupted one beside it."""
    pretrain(*RECYCLE, folder=tmp_path / "whole")
    pretrain(*RECYCLE, stop_after=8)
    return tmp_path / "run"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_newest_checkpoint_is_passed_over_and_told(pretrain, stopped, tmp_path, damage):
    damage(checkpoint(stopped, 8))
    recorder = pretrain(*RECYCLE, resume=True)
    (note,) = recorder.notes
    assert note.startswith("the checkpoint step-00000008 is damaged (")
    assert note.endswith("): the one before it is used")
    assert recorder.plan.start_step == 6
    assert [row["step"] for row in recorder.rows] == list(range(7, 13))
    assert_same_run(stopped, tmp_path / "whole", 12)


def test_all_damaged_is_one_sentence(pretrain, stopped):
    for step in (6, 8):
        flip_a_byte(checkpoint(stopped, step) / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        pretrain(*RECYCLE, resume=True)
    assert "holds no usable checkpoint: the checkpoint step-00000006 is damaged" in str(caught.value)
    assert "start it again in another folder with --out" in str(caught.value)


def test_what_a_crash_left_of_a_checkpoint_is_neither_used_nor_in_the_way(pretrain, stopped, tmp_path):
    half = stopped / "checkpoints" / ".step-00000012.writing"  # the step that comes next will want this name
    shutil.copytree(checkpoint(stopped, 8), half)
    flip_a_byte(half / "model.safetensors")
    (half / "rubbish").write_text("x")
    assert pretrain(*RECYCLE, resume=True).plan.start_step == 8
    assert_same_run(stopped, tmp_path / "whole", 12)
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]


def test_lines_after_the_checkpoint_and_a_line_cut_short_are_written_again(pretrain, stopped, tmp_path):
    with (stopped / "metrics.jsonl").open("a") as log:
        log.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    pretrain(*RECYCLE, resume=True)
    assert_same_run(stopped, tmp_path / "whole", 12)


@pytest.mark.parametrize(
    ("written", "edited"),
    [
        ("hidden_size = 32", "hidden_size = 48"),
        ("num_experts = 4", "num_experts = 8"),
        ("num_hidden_layers = 2", "num_hidden_layers = 4"),
        ("expert_bias_update_rate = 0.01", "expert_bias_update_rate = 0.0"),  # a buffer that is no more
    ],
)
def test_a_shape_that_was_edited_in_run_toml_is_one_sentence(pretrain, stopped, written, edited):
    settings = (stopped / "run.toml").read_text()
    assert settings.count(f"\n{written}\n") == 1
    (stopped / "run.toml").write_text(settings.replace(f"\n{written}\n", f"\n{edited}\n"))
    rows = rows_of(stopped)
    with pytest.raises(CheckpointError) as caught:
        pretraining.pretrain(stopped, run_folder.settings_of(stopped), Silent(), resume=True)
    assert str(caught.value) == (
        f"{checkpoint(stopped, 8)} holds a model of another shape than run.toml says: undo the change there"
    )
    assert (rows_of(stopped), steps_saved(stopped)) == (rows, [6, 8])
    (stopped / "run.toml").write_text(settings)
    pretraining.pretrain(stopped, run_folder.settings_of(stopped), Silent(), resume=True)
    assert_same_run(stopped, stopped.with_name("whole"), 12)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_run_folder_records_the_experiment(pretrain, settings, text, tmp_path):
    pretrain(*RECYCLE)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "run.toml", "environment.json", "tokenizer.json", "metrics.jsonl", "summary.json", "checkpoints",
        "generation_config.json", LOCK,
    }  # fmt: skip
    assert RunSettings.from_toml(folder / "run.toml") == settings(*RECYCLE) == run_folder.settings_of(folder)
    assert json.loads((folder / "config.json").read_text()) == settings(*RECYCLE).model.to_dict()
    environment = json.loads((folder / "environment.json").read_text())
    assert len(environment["data"]["fingerprint"]) == 64
    assert list(environment["data"]["train_tokens"]) == [str(text)]
    assert {"started", "command", "python", "platform", "device", "packages"} <= set(environment)
    for saved in (folder / "checkpoints").iterdir():
        assert {path.name for path in saved.iterdir()} == {*TENSORS, "state.json", "manifest.json"}
    everything = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    assert {path.suffix for path in everything} <= {".safetensors", ".json", ".jsonl", ".toml"}
    assert [path.name for path in folder.rglob(".*")] == [LOCK]


@pytest.mark.parametrize("record", run_folder.RECORDS)
def test_a_folder_with_another_run_is_refused(pretrain, tmp_path, record):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / record).touch()
    with pytest.raises(
        CheckpointError, match="already holds a run: continue it with --resume, or choose another folder"
    ):
        pretrain()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [record]


def test_other_files_in_the_folder_are_left_alone(pretrain, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("mine")
    pretrain("training.steps=1")
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no run to resume: it has no run\.toml; check --out"):
        run_folder.settings_of(tmp_path)


def test_other_data_is_refused_and_the_same_text_elsewhere_is_not(pretrain, text, tmp_path):
    mine = tmp_path / "mine.txt"
    shutil.copy(text, mine)
    source = f'data.sources=["{mine}"]'
    pretrain(source, stop_after=2)
    rows = rows_of(tmp_path / "run")
    write_text(mine, seed=1)
    with pytest.raises(
        CheckpointError, match=r"the data of .* has changed since it began \(fingerprint \w{12}, now \w{12}\)"
    ):
        pretrain(source, resume=True)
    assert rows_of(tmp_path / "run") == rows
    assert pretrain(resume=True).summary["status"] == "finished"  # the shared text: other path, same words
