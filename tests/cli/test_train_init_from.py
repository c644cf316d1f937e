"""`hunyuan train --init-from`: a new run with the weights, the model and the tokenizer of a run, a checkpoint or a folder."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hunyuan_cli import main
from model.checkpoint.convert import convert
from model.checkpoint.run import sha256
from model.tokenizer.folder import load_folder_tokenizer
from model.training.settings import RunSettings

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"


def write_text(path, seed, words):
    draw = random.Random(seed)
    path.write_text("".join(" ".join(draw.choices(words.split(), k=9)) + ".\n" for _ in range(300)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A text, another text, a run on the first of the toy-hf kind, and that run in a Hugging Face folder."""
    home = tmp_path_factory.mktemp("init")
    write_text(home / "first.txt", 0, "the router sends each token to one expert and every expert learns its own part")
    write_text(home / "second.txt", 1, "rivers carry stones from old mountains into wide valleys where towns are built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
        patch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)
        patch.setenv("HUNYUAN_CACHE", str(home / "cache"))
        options = [
            "--set",
            "model.moe_topk=2",
            "--set",
            "model.cla_share_factor=1",
            "--quiet",
            "--data",
            home / "first.txt",
        ]
        arguments = ["train", "--config", TINY, "--out", home / "source", "--steps", 4, *options]
        assert main.run([*map(str, arguments)]) == 0
    convert(home / "source", home / "hf", to="transformers")
    return home


@pytest.fixture
def train(home, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)
    monkeypatch.setenv("HUNYUAN_CACHE", str(home / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        status = main.run(["train", *map(str, arguments)])
        return status, capfd.readouterr().err.splitlines()

    return run


SHORT = [
    *("--set", "training.sequence_length=32", "--set", "training.global_batch_tokens=256"),
    *("--set", "training.micro_batch_size=4", "--set", "training.evaluation_tokens=256", "--device", "cpu"),
]


def first_loss(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def weights_of(folder, step):
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("source", ["source", "source/checkpoints/step-00000004", "hf"])
def test_a_run_begins_with_the_weights_model_and_tokenizer_of_its_source(train, home, tmp_path, source):
    """Without a rate nothing moves, so the last checkpoint has the source's weights."""
    rate = (
        "--set",
        "training.learning_rate=1e-30",
        "--set",
        "training.weight_decay=0",
        "--set",
        "training.log_every=1",
    )
    status, err = train(
        "--init-from", home / source, "--data", home / "second.txt", *SHORT, *rate, "--steps", 1, "--out", "new"
    )
    assert status == 0, err
    given = weights_of(home / "source", 4)
    for name, tensor in weights_of(tmp_path / "new", 1).items():
        torch.testing.assert_close(tensor, given[name], rtol=0, atol=1e-7, msg=name)
    found, before = (RunSettings.from_toml(folder / "run.toml") for folder in (tmp_path / "new", home / "source"))
    assert found.model.to_dict() | {"convention": "", "capacity_factor": 0} == (
        before.model.to_dict() | {"convention": "", "capacity_factor": 0}
    )
    tokenizers = [load_folder_tokenizer(folder).fingerprint for folder in (tmp_path / "new", home / "source")]
    assert tokenizers[0] == tokenizers[1]
    record = json.loads((tmp_path / "new" / "environment.json").read_text())
    weights = home / ("hf" if source == "hf" else "source/checkpoints/step-00000004")
    assert record["init_from"]["path"] == str(weights) == found.training.init_from
    assert len(record["init_from"]["fingerprint"]) == 64
    assert record["data"]["tokenizer"] == tokenizers[0]  # the other text, in this tokenizer's tokens


def test_the_same_text_goes_on_from_what_was_learnt(train, home, tmp_path):
    longer = ("--set", "training.sequence_length=64", "--set", "training.micro_batch_size=2")
    train("--init-from", home / "source", "--data", home / "first.txt", *SHORT, *longer, "--steps", 2, "--out", "new")
    last = json.loads((home / "source" / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    assert first_loss(tmp_path / "new") < last + 0.1
    assert weights_of(tmp_path / "new", 2)["embed_tokens.weight"].shape == (300, 32)


def test_settings_that_fit_may_change(train, home, tmp_path):
    changes = (
        "model.moe_routing=recycle",
        "model.expert_bias_update_rate=0.01",
        "model.rope_theta=5000.0",
        "model.moe_topk=1",
    )
    options = [word for change in changes for word in ("--set", change)]
    status, err = train(
        "--init-from", home / "source", "--data", home / "first.txt", *SHORT, *options, "--steps", 1, "--out", "n"
    )
    assert status == 0, err
    model = RunSettings.from_toml(tmp_path / "n" / "run.toml").model
    assert (model.moe_routing, model.expert_bias_update_rate, model.rope_theta, model.moe_topk) == (
        "recycle",
        0.01,
        5000.0,
        1,
    )


def test_it_resumes_without_its_source(train, home, tmp_path):
    shutil.copytree(home / "source", tmp_path / "copy")
    train("--init-from", "copy", "--data", home / "second.txt", *SHORT, "--steps", 2, "--out", "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "copy")
    status, err = train("--out", "part", "--resume", "--steps", 4)
    assert status == 0, err
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["steps"] == 4


@pytest.mark.parametrize("gone", ["changed", "the same"])
def test_one_that_ended_before_its_first_checkpoint_begins_anew_with_the_same_weights(train, home, tmp_path, gone):
    shutil.copytree(home / "source", tmp_path / "copy")
    options = ("--data", home / "second.txt", *SHORT, "--steps", 2)
    train("--init-from", "copy", *options, "--out", "run")
    expected = weights_of(tmp_path / "run", 2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    if gone == "changed":
        folder = tmp_path / "copy" / "checkpoints" / "step-00000004"
        shutil.copy(tmp_path / "copy" / "checkpoints" / "step-00000003" / "model.safetensors", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(
            json.dumps(manifest | {"model.safetensors": sha256(folder / "model.safetensors")})
        )
    status, err = train("--out", "run", "--resume", "--quiet")
    if gone == "changed":
        assert status == 1 and "with which run began, have changed: bring them back" in err[-1]
    else:
        assert status == 0, err
        torch.testing.assert_close(weights_of(tmp_path / "run", 2), expected, rtol=0, atol=0)


MISMATCHES = [
    ("--model toy", "the model is that of {source}: leave out --model"),
    (
        "--set model.hidden_size=64",
        "model.hidden_size = 64 does not fit the weights of {source}, where it is 32: leave it out",
    ),
    ("--set model.num_hidden_layers=3", "model.num_hidden_layers = 3 does not fit the weights"),
    ("--set model.cla_share_factor=2", "model.cla_share_factor = 2 does not fit the weights"),
    ("--set model.vocab_size=400", "model.vocab_size = 400 does not fit the weights"),
    ("--set model.rope_teta=1", "model.rope_teta is not a setting"),
    ("--set data.tokenizer=other.json", "the tokenizer is that of {source}: leave out data.tokenizer"),
    ("--set model.max_position_embeddings=8", "model.max_position_embeddings, is 8; lower one or raise the other"),
]


@pytest.mark.parametrize(("options", "says"), MISMATCHES, ids=[options for options, _ in MISMATCHES])
def test_what_does_not_fit_is_one_sentence(train, home, tmp_path, options, says):
    source = home / "source"
    status, err = train("--init-from", source, "--data", home / "first.txt", "--out", "new", *options.split())
    assert (status, len(err)) == (1, 1), err
    assert says.format(source=source) in err[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_one_sentence(train, home, tmp_path):
    (tmp_path / "empty").mkdir()
    status, err = train("--init-from", "empty")
    assert (status, len(err)) == (1, 1)
    assert "empty is empty: give the folder of a run" in err[0]
    status, err = train("--init-from", "absent")
    assert (status, len(err)) == (2, 1)


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5, "eos_token_id": 0}),
        ({"temperature": 0.5, "eos_token_id": [0, 3]}, {"temperature": 0.5, "eos_token_id": [0, 3]}),
        (None, {"do_sample": True, "temperature": 0.8, "top_k": 50, "eos_token_id": 0}),
    ],
)
def test_how_to_sample_goes_along_with_the_token_that_ends_a_text(train, home, tmp_path, beside, expected):
    source = shutil.copytree(home / "hf", tmp_path / "hf")
    (source / "generation_config.json").unlink(missing_ok=True)
    if beside is not None:
        (source / "generation_config.json").write_text(json.dumps(beside))
    status, err = train("--init-from", source, "--data", home / "second.txt", *SHORT, "--steps", 1, "--out", "new")
    assert status == 0, err
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text()) == expected
