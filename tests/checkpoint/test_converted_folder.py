"""A converted folder: the tokenizer and the ids of its tokens go along, and it is there whole or not at all."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from model.checkpoint import convert as module
from model.checkpoint import run as runs
from model.checkpoint.convert import convert
from model.errors import CheckpointError, ConfigError
from tests.checkpoint.folders import INPUT_IDS, config_in, logits

# --- tokenizer and token ids -----------------------------------------------------------------------------------------

IDS = {"bos_token_id": 1, "eos_token_id": [0, 7], "pad_token_id": 2, "eod_token_id": 3, "im_start_id": 4}


def test_tokenizer_files_go_along_as_they_are_and_programs_stay(released_folder, tokenizer, tmp_path):
    files = {"tokenizer.json": tokenizer.to_json(), "tokenizer_config.json": '{"eos_token": "<|endoftext|>",  "x": 1}',
             "hy.tiktoken": "IQ== 0\n", "chat_template.jinja": "{{ messages }}\n",
             "special_tokens_map.json": "{}"}  # fmt: skip
    others = {"modeling_hunyuan.py": "raise SystemExit", "README.md": "", ".gitattributes": ""}
    source = released_folder("large", files=files | others)
    facts = convert(source, tmp_path / "native", to="native")
    assert facts["left_out"] == ["README.md", "modeling_hunyuan.py"]
    convert(tmp_path / "native", tmp_path / "back", to="hunyuan")
    for folder in (tmp_path / "native", tmp_path / "back"):
        assert {name: (folder / name).read_text() for name in files} == files
        assert not any((folder / name).exists() for name in others)


@pytest.mark.parametrize("generation", [None, {"do_sample": True, "top_p": 0.8, "eos_token_id": [0, 7]}])
def test_token_ids_come_back_by_way_of_a_run(released_folder, tmp_path, generation):
    files = {} if generation is None else {"generation_config.json": json.dumps(generation)}
    source = released_folder("large", files=files, **IDS, flag_id=True, name_id="x")
    convert(source, tmp_path / "native", to="native")
    kept = json.loads((tmp_path / "native" / "generation_config.json").read_text())
    assert kept == IDS | (generation or {})
    convert(tmp_path / "native", tmp_path / "back", to="hunyuan")
    convert(source, tmp_path / "straight", to="hunyuan")
    for folder in (tmp_path / "back", tmp_path / "straight"):
        found = config_in(folder)
        assert {key: value for key, value in found.items() if key.endswith("_id")} == IDS
    assert (tmp_path / "straight" / "generation_config.json").exists() == (generation is not None)


@pytest.mark.parametrize("to", ["native", "hunyuan"])
def test_a_generation_config_that_is_broken_is_refused(released_folder, tmp_path, to):
    source = released_folder("large", files={"generation_config.json": "{"})
    with pytest.raises(ConfigError, match=r"generation_config.json is not a JSON document"):
        convert(source, tmp_path / "out", to=to)


@pytest.mark.parametrize("to", ["hunyuan", "transformers"])
def test_transformers_reads_the_tokenizer_of_a_run(run_folder, tokenizer, tmp_path, to):
    transformers = pytest.importorskip("transformers")
    run, _ = run_folder(moe_topk=2)
    convert(run, tmp_path / "out", to=to)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("the router sends each token", " é漢\n\t  \U0001f600 ,", ""):
        assert found(text)["input_ids"] == tokenizer.encode(text)
        assert found.decode(tokenizer.encode(text)) == text
    assert found.eos_token == "<|endoftext|>"
    assert found.eos_token_id == tokenizer.eos_id
    assert found.model_max_length == 1024
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.eos_token_id, generation.bos_token_id) == (tokenizer.eos_id, None)
    ids = {key: value for key, value in config_in(tmp_path / "out").items() if key.endswith("_id")}
    assert ids == {"bos_token_id": None, "eos_token_id": tokenizer.eos_id, "pad_token_id": None}


@pytest.mark.parametrize("to", ["native", "hunyuan"])
def test_a_source_without_a_tokenizer_converts_too_and_that_is_said(run_folder, tmp_path, to):
    run, net = run_folder(with_tokenizer=False)
    facts = convert(run, tmp_path / "out", to=to)
    assert facts["tokenizer_files"] == []
    assert facts["notes"] == [
        f"{run} has no tokenizer: copy the one that the model was trained with into {tmp_path / 'out'}"
    ]
    assert torch.equal(logits(tmp_path / "out"), net(INPUT_IDS).logits)


# --- whole or not at all ---------------------------------------------------------------------------------------------


def failing(error, calls):
    """save_file, until `calls` calls were made."""
    real, left = runs.save_file, iter(range(calls))

    def save(tensors, path, **options):
        if next(left, None) is None:
            path.write_bytes(b"half")
            raise error
        real(tensors, path, **options)

    return save


@pytest.mark.parametrize(("to", "calls"), [("native", 0), ("hunyuan", 0), ("hunyuan", 2)])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_nothing_behind(released_folder, tmp_path, monkeypatch, to, calls, there):
    source = released_folder("large")
    if there:
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(runs, "save_file", failing(error, calls))
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "out", to=to, max_shard_bytes=10_000)
    assert str(caught.value) == (
        f"{tmp_path / 'out'} could not be written (No space left on device): free some space or name another folder"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interruption_leaves_nothing_behind(released_folder, tmp_path, monkeypatch):
    source = released_folder("large")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(runs, "save_file", failing(KeyboardInterrupt, 1))
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", to="hunyuan", max_shard_bytes=10_000)
    assert sorted(tmp_path.rglob("*")) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from model.checkpoint import released
from model.checkpoint.convert import convert

def die(tensors, path, *, original=released.write_tensors, **options):
    original(tensors, path, **options)
    os.kill(os.getpid(), signal.SIGKILL)

released.write_tensors = die
convert(Path(sys.argv[1]), Path(sys.argv[2]), to="hunyuan", max_shard_bytes=10_000)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(released_folder, tmp_path):
    source, target = released_folder("large"), tmp_path / "out [1]"
    before = set(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", KILLED, source, target], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = set(tmp_path.iterdir()) - before
    assert re.fullmatch(r"\.out \[1\]\.\d+\.writing", left.name) and any(left.glob("*.safetensors"))
    # Of a process that is at work, and of another place.
    alive, other = tmp_path / f".out [1].{os.getppid()}.writing", tmp_path / left.name.replace("[1]", "[2]")
    alive.mkdir()
    other.mkdir()
    convert(source, target, to="hunyuan")
    assert set(tmp_path.iterdir()) - before == {target, alive, other}
    assert torch.equal(logits(target), logits(source))


def test_files_may_be_read_by_whom_other_files_may(released_folder, tmp_path):
    convert(released_folder("large"), tmp_path / "native", to="native")
    convert(tmp_path / "native", tmp_path / "out", to="hunyuan", max_shard_bytes=30_000)
    (tmp_path / "other").touch()
    for path in [*(tmp_path / "native").rglob("*.*"), *(tmp_path / "out").rglob("*.*")]:
        assert stat.filemode(path.stat().st_mode) == stat.filemode((tmp_path / "other").stat().st_mode), path


@pytest.mark.parametrize("what", ["file", "folder", "source", "under a file"])
def test_a_target_that_is_taken_is_refused_before_anything_is_read(released_folder, tmp_path, monkeypatch, what):
    source = released_folder("large")
    target = {"source": source, "under a file": tmp_path / "file" / "x"}.get(what, tmp_path / what)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(module, "load_released", None)
    says = "cannot be made" if what == "under a file" else "is already there: name another folder, or remove it first"
    with pytest.raises(CheckpointError, match=says):
        convert(source, target, to="native")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_the_current_one_and_a_link_to_one_are_filled(released_folder, tmp_path, monkeypatch):
    source = released_folder("large")
    for name in ("empty", "here", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "linked")
    monkeypatch.chdir(tmp_path / "here")
    for target in (tmp_path / "empty", ".", tmp_path / "link"):
        convert(source, target, to="native")
    for name in ("empty", "here", "linked"):
        assert torch.equal(logits(tmp_path / name), logits(source))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": "gguf"}, "there is no layout 'gguf': choose one of native, hunyuan, transformers"),
        ({"to": "native", "dtype": "float8"}, "there is no dtype 'float8': choose one of float32, bfloat16, float16"),
        ({"to": "hunyuan", "max_shard_bytes": 0}, "a shard of at most 0 bytes holds nothing: give a larger size"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, says):
    with pytest.raises(ConfigError) as caught:
        convert(tmp_path / "source", tmp_path / "out", **options)
    assert str(caught.value) == says


def test_the_stages_add_up(released_folder, tmp_path):
    stages = []

    @contextmanager
    def stage(name, total):
        done = []
        stages.append((name, total, done))
        yield done.append

    source = released_folder("large")
    facts = convert(source, tmp_path / "out", to="hunyuan", max_shard_bytes=30_000, stage=stage)
    (read, size, was_read), (write, total, was_written) = stages
    assert (read, write) == (f"reading {source}", f"writing {tmp_path / 'out'}")
    assert sum(was_read) == sum(was_written) == total == facts["bytes"]
    assert len(was_written) == facts["shards"] > 1
    assert 0 < size - total < 10_000  # headers
