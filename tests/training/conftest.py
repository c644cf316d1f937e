"""A small text, a tiny model (tiny.toml), and their training in this process or in one of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from three_stages import three
from tiny import TINY, write_text

from model.training import pretraining
from model.training.settings import RunSettings, override, read_sections

ROOT = Path(__file__).parents[2]
MODEL = {"moe_routing": "recycle", "expert_bias_update_rate": 0.01}  # of runs in stages


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "small.txt")


@dataclass
class Recorder:
    """A reporter that keeps what it is told."""

    plan: object = None
    rows: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)

    def start(self, plan):
        self.plan = plan

    def step(self, row):
        self.rows.append(row)

    def note(self, message):
        self.notes.append(message)

    def finish(self, summary):
        self.summary = summary


@pytest.fixture(scope="session")
def settings(text, cache):
    """settings("model.moe_topk=2", ...) -> RunSettings of the tiny model on the small text, with these changes."""

    def make(*changes: str) -> RunSettings:
        sections = read_sections(TINY) | {"data": {"sources": [str(text)], "cache_dir": str(cache)}}
        for change in changes:
            override(sections, change)
        return RunSettings.from_sections(sections)

    return make


@pytest.fixture
def pretrain(settings, tmp_path, monkeypatch):
    """pretrain("training.steps=5", ..., folder=tmp_path / "a", stop_after=3) -> Recorder; `task` stands in for Pretraining.

    `of` are whole settings in the place of changes.
    """
    monkeypatch.setattr(
        "model.training.loop.measure_peak_flops", lambda device, dtype: 1e11
    )  # a second on a busy machine

    def run(*changes, folder=tmp_path / "run", resume=False, stop_after=None, task=pretraining.Pretraining, of=None):
        recorder, chosen = Recorder(), of or settings(*changes)
        asked = iter(range(stop_after, -1, -1)) if stop_after else None  # asked before every step
        with monkeypatch.context() as patch:
            patch.setattr(pretraining, "Pretraining", task)
            stop = (lambda: next(asked) == 0) if asked else lambda: False
            pretraining.pretrain(folder, chosen, recorder, resume=resume, should_stop=stop)
        return recorder

    return run


@pytest.fixture(scope="session")
def process(text, cache):
    """process("--out", RUN, ...) -> a started `hunyuan train` with pipes; `code` runs before its main()."""
    started = []

    def start(*arguments: object, code: str = "") -> subprocess.Popen:
        program = f"import sys\n{code}\nfrom hunyuan_cli.main import main\nmain()"
        command = [sys.executable, "-c", program, "train", *map(str, arguments)]
        environment = os.environ | {"HUNYUAN_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=text.parent, env=environment))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture(scope="session")
def other_text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("other") / "other.txt", seed=1)


@pytest.fixture
def staged(text, other_text, cache):
    """staged(stages, **training) -> RunSettings of the tiny model; without stages, those of `three`."""

    def make(stages=None, **training) -> RunSettings:
        sections = read_sections(TINY) | {"data": {"sources": [str(text)], "cache_dir": str(cache)}}
        sections["model"] |= MODEL | {"max_position_embeddings": 32}
        sections["training"] |= training
        return RunSettings.from_sections(sections | {"stages": three(text, other_text) if stages is None else stages})

    return make
