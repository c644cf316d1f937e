"""The run folder: the record of an experiment, and what a later command needs to go on with it.

config.json        the model's configuration        tokenizer.json   its tokenizer
run.toml           the resolved settings            environment.json machine, versions, data fingerprint
metrics.jsonl      one line per logged step         checkpoints/     model/checkpoint/run.py
summary.json       how it ended
"""

import contextlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from model.data.corpus import Corpus
from model.errors import CheckpointError
from model.files import write_file, write_json
from model.training.settings import RunSettings

RECORDS = ("config.json", "run.toml", "metrics.jsonl", "checkpoints")


def create(folder: Path, settings: RunSettings, corpus: Corpus, device: torch.device) -> None:
    """Writes the record of a new run, or again that of one that was ended before its first checkpoint.

    run.toml comes first: from it everything else can be made again, should the process end in between.
    """
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_file(folder / "run.toml", settings.to_toml())
    write_json(folder / "config.json", settings.model.to_dict())
    corpus.tokenizer.save(folder / "tokenizer.json")
    write_json(folder / "environment.json", environment(corpus, device))


def refuse_other_run(folder: Path) -> None:
    if any((folder / name).exists() for name in RECORDS):
        raise CheckpointError(
            f"{folder} already holds a run: continue it with --resume, or choose another folder with --out"
        )


def settings_of(folder: Path) -> RunSettings:
    """The settings of an existing run."""
    if not (folder / "run.toml").is_file():
        raise CheckpointError(
            f"{folder} holds no run to resume: it has no run.toml; check --out, or leave --resume out"
        )
    return RunSettings.from_toml(folder / "run.toml")


def check_same_data(folder: Path, corpus: Corpus) -> None:
    """Refuses to go on with other text than the run began with."""
    try:
        recorded = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'environment.json'} cannot be read, which says what text the run began with: bring it back"
        ) from error
    if recorded != corpus.fingerprint:
        raise CheckpointError(
            f"the data of {folder} has changed since it began (fingerprint {recorded[:12]}, now {corpus.fingerprint[:12]}): "
            "bring the same text back, or start a new run with --out"
        )


def environment(corpus: Corpus, device: torch.device) -> dict[str, Any]:
    """Machine, versions and data of a run."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": str(device),
        "accelerator": accelerator,
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in ("torch", "numpy", "tokenizers", "safetensors")},
        "data": {
            "fingerprint": corpus.fingerprint,
            "tokenizer": corpus.tokenizer.fingerprint,
            "train_tokens": {name: len(shard) for name, shard in corpus.train.items()},
            "validation_tokens": {name: len(shard) for name, shard in corpus.validation.items()},
            "bytes_per_token": corpus.bytes_per_token,
        },
    }


class MetricsLog:
    """metrics.jsonl, a line at a time, each handed to the system when `write` returns."""

    def __init__(self, folder: Path, last_step: int) -> None:
        """Continues after `last_step`: lines of later steps, which a resumed run computes again, are cut off."""
        path = folder / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= last_step]
            write_file(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write that met it
            self._file.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
