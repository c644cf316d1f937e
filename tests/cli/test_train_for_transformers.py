"""Whether a run can leave for transformers: said at its start, and a preset that can."""

import random

import pytest

from hunyuan_cli import main
from model.checkpoint.convert import convert
from model.config import HunyuanConfig
from model.config.presets import PRESETS
from model.config.released import reasons_against


@pytest.fixture
def train(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / "cache"))
    draw, words = random.Random(0), "the router sends each token to one expert and every expert learns".split()
    text = tmp_path / "text.txt"
    text.write_text("".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(300)))
    settings = ["training.sequence_length=64", "training.micro_batch_size=2", "training.global_batch_tokens=128"]
    settings += ["training.evaluation_tokens=128", "training.device=cpu"]

    def run(*arguments):
        options = ["--data", text, "--steps", 3, *(word for setting in settings for word in ("--set", setting))]
        status = main.run(["train", *map(str, [*options, *arguments])])
        return status, capfd.readouterr().err.splitlines()

    return run


def test_toy_hf_is_what_transformers_computes(train, tmp_path):
    status, err = train("--model", "toy-hf", "--out", tmp_path / "run")
    assert status == 0, err
    assert not [line for line in err if "transformers" in line]
    pytest.importorskip("transformers")
    facts = convert(tmp_path / "run", tmp_path / "hf", to="transformers", check=True)
    assert facts["largest_difference"] < 1e-3
    assert facts["notes"] == []


def test_the_start_of_the_default_run_says_that_transformers_cannot_run_it(train, tmp_path):
    status, err = train("--out", tmp_path / "run")
    assert status == 0, err
    (said,) = [line for line in err if "transformers" in line]
    assert said == (
        "transformers cannot run this model (it shares keys and values over 2 layers (CLA); the weight of its top-1 expert is "
        "the softmax probability, there it is 1): --model toy-hf can be converted for it"
    )
    status, err = train("--out", tmp_path / "quiet", "--quiet")
    assert (status, [line for line in err if "transformers" in line]) == (0, [])


def test_a_wrong_name_offers_what_can_be_trained(train):
    status, err = train("--model", "tiny")
    assert status == 1
    offered = err[0].split("choose one of ")[1].split(", ")
    assert {"toy", "toy-hf", "small", "ladder-256", "hunyuan-large"} <= set(PRESETS) <= set(offered)
    assert "deepseek-v3" not in offered  # it compresses keys and values, which is counted and not built
    assert all(HunyuanConfig.from_name(name) for name in offered)
    assert reasons_against(HunyuanConfig.from_name("toy-hf"), "transformers") == []
