"""`hunyuan train` and the folder of its run, beside the text or in the wrong place."""

import random
from pathlib import Path

import pytest

from hunyuan_cli import main

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"


@pytest.fixture
def train(tmp_path, monkeypatch, capfd):
    """train(...) -> (status, lines of stderr), in a folder of notes."""
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    words = "every expert learns its own part of a text".split()
    Path("notes.txt").write_text("".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(300)))

    def call(*arguments):
        status = main.run(["train", *map(str, arguments)])
        return status, capfd.readouterr().err.splitlines()

    return call


def test_runs_below_the_text_are_resumed_and_are_no_text(train):
    assert train("--config", TINY, "--data", ".", "--out", "runs/a", "--steps", 2)[0] == 0
    assert train("--out", "runs/a", "--resume", "--steps", 4)[0] == 0
    status, err = train("--config", TINY, "--data", ".", "--out", "runs/b", "--steps", 2)
    assert status == 0 and any("left out" in line and "run folders" in line for line in err), err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--data . --out .", ". is also a folder of the text: choose another one with --out"),
        ("--data notes.txt --out swept", "swept holds a sweep: choose another folder with --out"),
    ],
)
def test_a_folder_of_something_else_is_refused(train, tmp_path, options, says):
    Path("swept").mkdir()
    Path("swept/plan.toml").touch()
    before = set(tmp_path.rglob("*"))
    assert train("--config", TINY, "--steps", 2, *options.split()) == (1, [f"error: {says}"])
    assert set(tmp_path.rglob("*")) == before
