"""Runs of preferences on a tiny model: their settings, a reward that tells random answers apart, and what they leave."""

import json
import shutil

from model.posttraining import rewards
from model.posttraining.dpo_run import learn_preferences
from model.training.initial import take_over
from model.training.settings import RunSettings
from tests.posttraining.conftest import TINY

TIMING = {"tokens_per_second", "seconds", "mfu"}
TENSORS = ("model.safetensors", "optimizer.safetensors", "task.safetensors")


def lettered(row, text):
    """What an untrained model's answers differ in: how many letters they have."""
    return float(sum(letter.isalpha() for letter in text))


def ending(base, folder):
    """The same model, for which every third token ends an answer: else few random answers would come to an end."""
    shutil.copytree(base, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, *range(1, 300, 3)]}))
    return folder


def add_reward(monkeypatch, name="letters", score=lettered, key="answer"):
    monkeypatch.setitem(rewards.CHECKS, name, (score, key))


def settings_of(base, pairs, prompts, dpo=None, training=None, model=None, data=None):
    """Mixed pairs, a round every other step, micro-batches of two pairs, four pairs a step."""
    own = {
        "offline": [str(pairs)], "prompts": str(prompts), "reward": "letters", "true_reward": "letters", "online_share": 0.5,
        "online_every": 2, "samples": 3, "max_new_tokens": 6, "average": 0.9, "evaluation_prompts": 3,
    } | (dpo or {})  # fmt: skip
    batch = {"micro_batch_size": 4, "global_batch_tokens": 48 * 8, "learning_rate": 1e-2, "graph": False}
    sections = {
        "training": TINY | batch | (training or {}),
        "dpo": own,
        "model": model or {},
        "data": {"sources": [str(pairs)]} | (data or {}),
    }
    return RunSettings.from_sections(take_over(sections, base))


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.rows, self.notes, self.summary = [], [], {}

    def start(self, plan):
        self.plan = plan

    def step(self, row):
        self.rows.append(row)

    def note(self, message):
        self.notes.append(message)

    def finish(self, summary):
        self.summary = summary


def learn(folder, settings, *, stop_after=None, resume=False):
    recorder = Recorder()
    asked = iter(range(stop_after, -1, -1)) if stop_after else None
    stop = (lambda: next(asked) == 0) if asked else lambda: False
    learn_preferences(folder, settings, recorder, resume=resume, should_stop=stop)
    return recorder


def rows_of(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}"


def assert_same_run(folder, reference, step):
    """Weights, optimizer and average after `step` to the byte, the task's state, and every line up to there once."""
    assert rows_of(folder) == [row for row in rows_of(reference) if row["step"] <= step]
    here, there = checkpoint(folder, step), checkpoint(reference, step)
    for name in TENSORS:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
    states = [json.loads((path / "state.json").read_text())["task"] for path in (here, there)]
    assert states[0] == states[1]
