"""A tiny model that speaks in a run folder, conversations and pairs on a small task, and stages of post-training on them."""

import json
import random

import pytest

from tests.cli.speaking import write_run

CONTEXT = 64


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A run folder to begin with, to be read alone."""
    return write_run(tmp_path_factory.mktemp("base") / "run", max_position_embeddings=CONTEXT, initializer_range=0.05)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chats(tmp_path_factory):
    """Forty questions with an answer each; every fourth conversation has a second turn."""
    draw, rows = random.Random(0), []
    for number in range(40):
        words = draw.sample("router token expert part learns".split(), 2)
        messages = [{"role": "user", "content": f"{number} {words[0]}"}, {"role": "assistant", "content": words[1]}]
        more = [{"role": "user", "content": "x"}, {"role": "assistant", "content": words[0]}] if number % 4 == 0 else []
        rows.append({"messages": messages + more})
    return write_lines(tmp_path_factory.mktemp("chats") / "chats.jsonl", rows)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Forty questions to which "yes" is better than "no"."""
    rows = [{"prompt": f"{number} router?", "chosen": "yes", "rejected": "no"} for number in range(40)]
    return write_lines(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    monkeypatch.setattr(
        "model.training.loop.measure_peak_flops", lambda device, dtype: 1e11
    )  # a second on a busy machine


TINY = {
    "sequence_length": 48, "micro_batch_size": 2, "global_batch_tokens": 192, "log_every": 1, "evaluate_every": 3,
    "checkpoint_every": 2, "device": "cpu", "precision": "float32", "steps": 6,
}  # fmt: skip
