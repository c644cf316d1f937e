"""The run folder: the record of an experiment, and what a later command needs to go on with it.

config.json        the model's configuration        tokenizer.json   its tokenizer
run.toml           the resolved settings            environment.json machine, versions, data fingerprint
metrics.jsonl      one line per logged step         checkpoints/     model/checkpoint/run.py
summary.json       how it ended
"""

import contextlib
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from model.config.hunyuan import HunyuanConfig
from model.data.corpus import Corpus
from model.data.tasks import unmasked
from model.device import compute_dtype, dtype_name
from model.errors import CheckpointError
from model.files import LOCK, hold, read_json, write_file, write_json
from model.generation.defaults import FILE_NAME as GENERATION_CONFIG
from model.generation.defaults import run_defaults
from model.generation.prompts import opening
from model.parallel.layout import Layout
from model.tokenizer.bpe import Tokenizer
from model.tokenizer.folder import TOKENIZER_FILES, TOKENIZER_JSON, end_ids
from model.tokenizer.interface import TextTokenizer
from model.training.config import begun_in
from model.training.initial import weights_fingerprint
from model.training.settings import RunSettings

PROMPT_TOKENS = 400  # looked through for a prompt
RECORDS = ("config.json", "run.toml", "metrics.jsonl", "checkpoints")


@dataclass(frozen=True)
class DataRecord:
    """What a run's folder keeps of its data."""

    tokenizer: TextTokenizer
    fingerprint: str  # of all that is learnt from: a run goes on with the same
    counts: dict[str, Any]  # for environment.json
    prompt: str  # to begin with, of the run's own kind of text

    @classmethod
    def of(cls, corpus: Corpus, lengths: dict[str, dict[str, Any]]) -> "DataRecord":
        """`lengths` of model/data/lengths.py."""
        counts = {
            "train_tokens": {name: len(shard) for name, shard in corpus.train.items()},
            "validation_tokens": {name: len(shard) for name, shard in corpus.validation.items()},
            "bytes_per_token": corpus.bytes_per_token,
            "document_lengths": lengths,
        }
        return cls(corpus.tokenizer, corpus.fingerprint, counts, _first_prompt(corpus))


def create(
    folder: Path, settings: RunSettings, data: DataRecord, device: torch.device, layout: Layout | None = None
) -> None:
    """Writes the record of a new run, or again that of one that was ended before its first checkpoint.

    run.toml comes first: from it everything else can be made again, should the process end in between.
    """
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_file(folder / "run.toml", settings.to_toml())
    write_json(folder / "config.json", settings.model.to_dict())
    given = Path(settings.data.tokenizer or "-")
    if given.is_dir():  # with its chat template and what else belongs to it
        for name in TOKENIZER_FILES:
            if (given / name).is_file():
                write_file(folder / name, (given / name).read_bytes())
    else:
        assert isinstance(data.tokenizer, Tokenizer), "other tokenizers come from folders"
        write_file(folder / TOKENIZER_JSON, data.tokenizer.to_json())
    eos_id = data.tokenizer.eos_id
    if not (folder / GENERATION_CONFIG).exists():
        write_json(folder / GENERATION_CONFIG, run_defaults(eos_id))
    elif not end_ids(folder):  # they were in the config.json of a Hugging Face folder
        write_json(folder / GENERATION_CONFIG, read_json(folder / GENERATION_CONFIG) | {"eos_token_id": eos_id})
    record = environment(data, device)
    record["precision"] = dtype_name(compute_dtype(settings.training.precision, device))
    record["prompt"] = data.prompt
    if layout is not None:
        record["layout"] = dataclasses.asdict(layout)
    if source := settings.training.init_from:
        record["init_from"] = {"path": source, "fingerprint": weights_fingerprint(Path(source))}
    write_json(folder / "environment.json", record)


def own_precision(folder: Path, settings: RunSettings) -> RunSettings:
    """The settings of a run that goes on, with the precision that it began in instead of auto, whatever its device is now."""
    if settings.training.precision != "auto":
        return settings
    try:
        precision = begun_in(read_json(folder / "environment.json"))
    except (OSError, ValueError, AttributeError):
        return settings  # which is refused where the text is compared
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, precision=precision))


def first_prompt(folder: Path) -> str:
    """A prompt to begin with, of the run's own kind of text; empty, which begins a text, where an older version trained it."""
    try:
        prompt = read_json(folder / "environment.json").get("prompt", "")
    except (OSError, ValueError):
        return ""
    return prompt if isinstance(prompt, str) else ""


def _first_prompt(corpus: Corpus) -> str:
    """The opening of the first validation text of a source that has one to use."""
    texts = (
        corpus.tokenizer.decode(unmasked(shard.tokens[:PROMPT_TOKENS]).tolist()) for shard in corpus.validation.values()
    )
    return next(filter(None, map(opening, texts)), "")


def check_same_weights(folder: Path) -> None:
    """Refuses to begin a run anew, which was ended before its first checkpoint, with other weights than it was given."""
    try:
        begun = read_json(folder / "environment.json").get("init_from")
    except (OSError, ValueError):
        return  # it was ended before that was written
    if begun and weights_fingerprint(Path(begun["path"])) != begun["fingerprint"]:
        raise CheckpointError(
            f"the weights in {begun['path']}, with which {folder} began, have changed: bring them back"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder / LOCK)
    if lock is None:
        raise CheckpointError(f"{folder} is being trained by another process: wait until it is done, or stop it first")
    with lock:
        yield


def own_tokenizer(folder: Path, settings: RunSettings) -> RunSettings:
    """The settings of a run that was given a tokenizer, with the copy in its folder instead: the other may have gone."""
    if not settings.data.tokenizer or not (folder / "environment.json").is_file():
        return settings
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, tokenizer=str(folder.absolute())))


def record_changes(folder: Path, settings: RunSettings, step: int) -> None:
    """Has run.toml say what the run goes on with, and environment.json what changed at which step."""
    before = settings_of(folder)
    changes: dict[str, Any] = {
        f"{section}.{key}": [value, after]
        for section, values in before.to_sections().items()
        for key, value in values.items()
        if value != (after := getattr(getattr(settings, section), key))
    }
    if not changes:
        return
    _record_change(folder, step, {"settings": changes})
    write_file(folder / "run.toml", settings.to_toml())


def record_layout(folder: Path, model: HunyuanConfig, layout: Layout | None, step: int) -> str:
    """Has environment.json say over which processes a run goes on, where they are others; a sentence where it matters."""
    record, here = read_json(folder / "environment.json"), layout or Layout()
    known = [record.get("layout"), *(change.get("layout") for change in record.get("changes", []))]
    before = Layout(**next(filter(None, reversed(known)), {}))
    if before == here:
        return ""
    _record_change(folder, step, {"layout": dataclasses.asdict(here)})
    names = [f"model.{name}" for name in ("capacity_scope", "balance_scope") if getattr(model, name) == "global"]
    turns = before.data_parallel, here.data_parallel
    if not names or turns[0] == turns[1]:
        return ""
    return (
        f"micro-batches that are routed as one: {turns[1]} from here on, {turns[0]} before, because what is global "
        f"({', '.join(names)}) goes by the processes; the run goes on, with other numbers than it would have had with as many"
    )


def _record_change(folder: Path, step: int, change: dict[str, Any]) -> None:
    record = read_json(folder / "environment.json")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record["changes"] = [*record.get("changes", []), {"step": step, "time": now, **change}]
    write_json(folder / "environment.json", record)


def is_begun(folder: Path) -> bool:
    """Whether the folder holds a run, if one without a checkpoint."""
    return (folder / "run.toml").is_file()


def refuse_other_run(folder: Path) -> None:
    if any((folder / name).exists() for name in RECORDS):
        raise CheckpointError(
            f"{folder} already holds a run: continue it with --resume, or choose another folder with --out"
        )


def settings_of(folder: Path) -> RunSettings:
    """The settings of an existing run."""
    if not is_begun(folder):
        raise CheckpointError(
            f"{folder} holds no run to resume: it has no run.toml; check --out, or leave --resume out"
        )
    return RunSettings.from_toml(folder / "run.toml")


def check_same_data(folder: Path, fingerprint: str) -> None:
    """Refuses to go on with other text than the run began with."""
    try:
        recorded = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'environment.json'} cannot be read, which says what text the run began with: bring it back"
        ) from error
    if recorded != fingerprint:
        raise CheckpointError(
            f"the data of {folder} has changed since it began (fingerprint {recorded[:12]}, now {fingerprint[:12]}): "
            "bring the same text back, or start a new run with --out"
        )


def environment(data: DataRecord, device: torch.device) -> dict[str, Any]:
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
        "data": {"fingerprint": data.fingerprint, "tokenizer": data.tokenizer.fingerprint} | data.counts,
    }


class MetricsLog:
    """metrics.jsonl, a line at a time, each handed to the system when `write` returns."""

    def __init__(self, folder: Path, last_step: int, *, writes: bool = True) -> None:
        """Continues after `last_step`: lines of later steps, which a resumed run computes again, are cut off.

        Of several processes one `writes`.
        """
        path = folder / "metrics.jsonl" if writes else Path(os.devnull)
        if writes and path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= last_step]
            write_file(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        if self._file.name != os.devnull:  # which cannot be synced
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write that met it
            self._file.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
