"""`hunyuan train` with a run file of [[stages]]: what it says, how it goes on, and what is made of the model it leaves."""

import json
import random
import signal
from pathlib import Path

import pytest

from analyses.training.plots import plot_training, stage_starts
from analyses.training.runs import load_run
from hunyuan_cli import main
from model.checkpoint import run as runs
from model.config.hunyuan import HunyuanConfig

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"
STAGES = """
[[stages]]
name = "pretrain"
share = 0.5

[[stages]]
name = "anneal"
share = 0.25
learning_rate = 4e-4
final_learning_rate = 4e-5

[[stages]]
name = "long"
share = 0.25
context = 128
rope_theta = 70_000.0
sources = ["{other}"]
learning_rate = 1e-4
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    words = "the router sends each token to one expert and every expert learns its own part of a text".split()
    for seed, name in enumerate(("small.txt", "other.txt")):
        draw = random.Random(seed)
        lines = (" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(400))
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def hunyuan(texts, tmp_path, monkeypatch, capfd):
    """hunyuan("train", ...) -> (status, stdout, lines of stderr), in a folder of its own with stages.toml."""
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)
    monkeypatch.setenv("HUNYUAN_CACHE", str(texts / "cache"))
    monkeypatch.chdir(tmp_path)
    data = f'[data]\nsources = ["{texts / "small.txt"}"]\n'
    stages = STAGES.format(other=texts / "other.txt")
    Path("stages.toml").write_text(TINY.read_text(encoding="utf-8") + data + stages, encoding="utf-8")

    def run(*arguments):
        capfd.readouterr()
        status = main.run([*map(str, arguments)])
        out, err = capfd.readouterr()
        return status, out, err.splitlines()

    return run


def rows_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def test_one_command_trains_all_stages_and_says_which(hunyuan):
    status, out, err = hunyuan("train", "--config", "stages.toml", "--out", "run")
    assert (status, out) == (0, "")
    lines = [line for line in err if line.startswith("stage ")]
    assert lines == [
        "stage 1 of 3, pretrain: steps 1 to 6, context 32 in micro-batches of 4, RoPE base 10,000, learning rate 0.004 to "
        "0.00147",
        "stage 2 of 3, anneal: steps 7 to 9, context 32 in micro-batches of 4, RoPE base 10,000, learning rate 0.0004 to 4e-05",
        "stage 3 of 3, long: steps 10 to 12, context 128 in micro-batches of 1, RoPE base 70,000, learning rate 0.0001 to "
        "0.0001",
    ]
    assert any(line.startswith("step 9/12 (anneal)") and "val loss" in line for line in err)
    assert sum(line.startswith("finished after 12 steps") for line in err) == 1
    assert [row["stage"] for row in rows_of("run")] == ["pretrain"] * 6 + ["anneal"] * 3 + ["long"] * 3


def test_infer_and_convert_use_the_base_of_the_last_stage(hunyuan, monkeypatch):
    assert hunyuan("train", "--config", "stages.toml", "--out", "run", "--quiet")[0] == 0
    used, model_of = [], runs.model_of

    def watched(*arguments, **options):
        net = model_of(*arguments, **options)
        used.append((net.config.rope_theta, net.config.max_position_embeddings))
        return net

    monkeypatch.setattr(runs, "model_of", watched)
    assert hunyuan("infer", "the router", "--checkpoint", "run", "--max-new-tokens", 3)[0] == 0
    assert (
        hunyuan("infer", "the router", "--checkpoint", "run/checkpoints/step-00000009", "--max-new-tokens", 3)[0] == 0
    )
    assert used == [(70_000.0, 1024), (10_000.0, 1024)]
    status, _, err = hunyuan("convert", "run", "--to", "native", "--out", "copy")
    assert status == 0, err
    assert HunyuanConfig.from_file("copy").rope_theta == 70_000.0


def test_ctrl_c_in_a_stage_is_gone_on_from(hunyuan, monkeypatch):
    assert hunyuan("train", "--config", "stages.toml", "--out", "whole", "--quiet")[0] == 0
    from model.training import loop

    train_step = loop._Session._train_step

    def interrupted(self, stop):
        if self.step == 9:  # the first step of the last stage
            signal.raise_signal(signal.SIGINT)
        return train_step(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Session, "_train_step", interrupted)
        status, _, err = hunyuan("train", "--config", "stages.toml", "--out", "run", "--quiet")
    assert status == 130
    assert err[-1] == "stopped after step 10 and saved; continue with: hunyuan train --out run --resume"
    status, _, err = hunyuan("train", "--out", "run", "--resume")
    assert status == 0
    said = [line for line in err if not line.startswith("data: ")]
    assert said[0].startswith("resuming at step 10 of run") and said[2].startswith("stage 3 of 3, long")
    last = "checkpoints/step-00000012/model.safetensors"
    assert Path("run", last).read_bytes() == Path("whole", last).read_bytes()


def test_stages_begin_with_the_weights_of_another_run(hunyuan, texts):
    begin = ("--config", TINY, "--data", texts / "small.txt", "--out", "base", "--quiet")
    assert hunyuan("train", *begin)[0] == 0
    text = Path("stages.toml").read_text()
    Path("on.toml").write_text(text[text.index("[training]") :])  # the model is that of the run
    status, _, err = hunyuan("train", "--config", "on.toml", "--init-from", "base", "--out", "on", "--quiet")
    assert status == 0, err
    assert rows_of("on")[0]["loss"] < rows_of("base")[0]["loss"]
    assert HunyuanConfig.from_file("on").rope_theta == 70_000.0


@pytest.mark.parametrize(
    ("before", "after", "options", "says"),
    [
        ("share = 0.5", "share = 0.6", (), "the shares of the stages add up to 1.1: they must add up to 1"),
        ("rope_theta", "rope_base", (), "stages.long.rope_base is not a setting: did you mean"),
        ("context = 128", "context = 100", (), "stages.long.context is 100: a step has 256 tokens"),
        ('name = "anneal"', 'name = "long"', (), "two stages are named 'long': give each a name of its own"),
        ("", "", ("--flops", "1e9"), "training.flops is given and the run has stages: give its length in steps or tokens"),
        ("[[stages]]", "[stages]", (), "is not valid TOML"),
    ],
)  # fmt: skip
def test_a_bad_run_file_is_one_sentence(hunyuan, before, after, options, says):
    path = Path("stages.toml")
    path.write_text(path.read_text().replace(before, after) if before else path.read_text())
    status, out, err = hunyuan("train", "--config", path, "--out", "run", *options)
    assert (status, out, len(err)) == (1, "", 1)
    assert says in err[0] and not Path("run").exists()


def test_the_length_of_a_run_of_stages_stays(hunyuan):
    assert hunyuan("train", "--config", "stages.toml", "--out", "run", "--quiet")[0] == 0
    status, _, err = hunyuan("train", "--out", "run", "--resume", "--steps", 24)
    assert (status, len(err)) == (1, 1)
    assert "the stages of a run, and its length with them, cannot change when it is resumed" in err[0]


def test_figures_show_where_a_stage_begins(hunyuan):
    assert hunyuan("train", "--config", "stages.toml", "--out", "run", "--quiet")[0] == 0
    run = load_run("run")
    assert stage_starts(run.metrics) == [(0.0, "pretrain"), (6 * 256.0, "anneal"), (9 * 256.0, "long")]
    panels = plot_training(run).axes
    for axes in panels:
        dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert dotted == [6 * 256.0, 9 * 256.0]
    assert [text.get_text() for text in panels[2].texts] == ["pretrain", "anneal", "long"]
    assert stage_starts(run.metrics.drop(columns="stage")) == []
