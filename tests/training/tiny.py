"""The tiny run that these tests share: its settings, its text, and what it left on the disk."""

import json
import random
from pathlib import Path

from safetensors.torch import load_file

TINY = Path(__file__).with_name("tiny.toml")
TIMING = {"tokens_per_second", "seconds", "mfu"}  # keys of a row that no two runs share
TENSORS = ("model.safetensors", "optimizer.safetensors")


def write_text(path: Path, *, seed: int = 0, lines: int = 500) -> Path:
    """Sentences of a few words in a random order."""
    words = "the router sends each token to one expert and every expert learns its own part of a text".split()
    draw = random.Random(seed)
    path.write_text("".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(lines)), encoding="utf-8")
    return path


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def weights(folder: Path, step: int):
    return load_file(checkpoint(folder, step) / "model.safetensors")


def rows_of(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def assert_same_run(folder: Path, reference: Path, step: int) -> None:
    """Weights and optimizer after `step` to the byte, and every line up to there once."""
    assert rows_of(folder) == [row for row in rows_of(reference) if row["step"] <= step]
    for name in TENSORS:
        here, there = (checkpoint(run, step) / name for run in (folder, reference))
        assert here.read_bytes() == there.read_bytes(), f"{name} of step {step} differs"
