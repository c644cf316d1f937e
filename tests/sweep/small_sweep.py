"""The tiny sweep that these tests share: its plan, its text, and how its results are compared."""

import csv
import random
from pathlib import Path
from typing import Any

TIMING = ("seconds", "tokens_per_second")


def write_text(path: Path, seed: int = 0) -> Path:
    """Sentences of a few words in a random order: 7,044 tokens for training with a vocabulary of 300."""
    words = "the router sends each token to one expert and every expert learns its own part of a text".split()
    draw = random.Random(seed)
    path.write_text("".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(500)), encoding="utf-8")
    return path


def sections(folder: Path) -> dict[str, dict[str, Any]]:
    """The sections of a plan of two cells that train a second each: 36 steps of ladder-64 and 22 of ladder-96, cut down."""
    return {
        "model": {"vocab_size": 300, "intermediate_size": 32, "num_experts": 4, "moe_routing": "recycle"},
        "data": {"sources": [str(folder / "small.txt")], "cache_dir": str(folder / "cache")},
        "training": {
            "sequence_length": 32, "micro_batch_size": 4, "evaluation_tokens": 256, "checkpoint_every": 3, "device": "cpu",
        },
        "sweep": {
            "budgets": [4e9],
            "sizes": ["ladder-64", "ladder-96"],
            "learning_rate": {"value": 3e-3, "at_batch_tokens": 256},
            "batch_tokens": {"value": 256, "at_flops": 4e9},
        },
    }  # fmt: skip


def results(folder: Path, but: tuple[str, ...] = TIMING) -> list[dict[str, str]]:
    """runs.csv as text, without what the clock decides."""
    with (folder / "runs.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in but} for row in csv.DictReader(file)]
