"""A stage's folder: shards that appear whole, and a journal of what is done between them.

    part-00000.jsonl    the kept records of one shard, sorted by id: the bytes do not depend on what was done at a time
    manifest.json       written last: settings, input, counts, and rows, bytes and sha256 of every shard
    .open/              while the stage is open: its settings; of an open shard the journal, of a closed one what was dropped

A unit of work becomes one line of the journal, appended and handed to the system as soon as the unit is done. Killed at any
moment, the stage goes on: a torn last line is cut off, units in the journal are not done again. Closing a shard reads its
journal, writes the part beside its place, syncs and renames it. What the stage dropped, and labels of planted errors, go
into DIR/dropped.jsonl and DIR/labels.jsonl at its end, outside the folder that is trained on.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from model.data.synthesis.record import STAGES, Record, config_hash, to_line
from model.errors import DataError
from model.files import open_aside, read_json, sha256, write_file, write_json

SHARD_UNITS = 10_000  # units of work of one shard; their records are sorted in memory
MANIFEST, OPEN, CONFIG = "manifest.json", ".open", "config.json"
DROPPED, LABELS, PAIRS = "dropped.jsonl", "labels.jsonl", "pairs.jsonl"  # beside the stages' folders

Facts = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Judge = Callable[
    [Record], str
]  # why a record of a shard that closes is dropped, "" to keep it; asked in the order of ids


@dataclass(frozen=True)
class Done:
    """What became of one unit of work: its records, those with reasons dropped, and what only the report may read of them."""

    unit: str
    records: list[Record]
    labels: list[dict[str, Any]] = field(default_factory=list)


class StageStore:
    """The folder of one stage of a synthesis, for one process at a time."""

    def __init__(self, folder: Path, stage: int, config: Mapping[str, Any]) -> None:
        """`folder` is the synthesis's; `config` is all that the stage's bytes depend on, its input's hash included."""
        self.root, self.stage, self.config = folder, stage, json.loads(json.dumps(config))
        self.folder = folder / STAGES[stage - 1]
        self._open = self.folder / OPEN

    # --- the whole stage ----------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the stage is there as a whole, made with these settings."""
        return (self.folder / MANIFEST).exists() and self.begun_with() == self.config

    def begun_with(self) -> dict[str, Any] | None:
        """The settings that the folder was begun with; None where nothing was."""
        for path in (self.folder / MANIFEST, self._open / CONFIG):
            if path.exists():
                try:
                    content = read_json(path)
                except ValueError as error:
                    raise DataError(
                        f"{path} is damaged ({error}): remove {self.folder}, which is then made again"
                    ) from error
                return content["config"] if path.name == MANIFEST else content
        return None

    def begin(self) -> None:
        """Makes the folder, or goes on in it; other settings than it was begun with clear it, and all later stages."""
        if self.begun_with() != self.config:
            for name in STAGES[self.stage - 1 :]:
                shutil.rmtree(self.root / name, ignore_errors=True)
            for name in (DROPPED, LABELS, PAIRS):
                _merge(self.root / name, range(self.stage, len(STAGES) + 1), [])
        self._open.mkdir(parents=True, exist_ok=True)
        write_json(self._open / CONFIG, self.config)

    def manifest(self) -> dict[str, Any] | None:
        """That of the closed stage, whatever it was made with; None where it is not there as a whole."""
        path = self.folder / MANIFEST
        return read_json(path) if path.exists() else None

    def finish(self, facts: Facts = lambda manifest: {}) -> dict[str, Any]:
        """Merges what was dropped, writes the manifest, and returns it; `facts` gives more of its entries."""
        shards = [read_json(path) for path in sorted(self._open.glob("*.facts.json"))]
        for name in (DROPPED, LABELS, PAIRS):
            parts = sorted(self._open.glob(f"*.{name}"))
            _merge(self.root / name, [self.stage], parts)
        manifest: dict[str, Any] = {
            "stage": self.stage,
            "config": self.config,
            "config_sha256": config_hash(self.config),
        }
        for name in ("domains", "difficulty", "operations", "dropped", "usage"):
            total: Counter[str] = Counter()
            for shard in shards:
                total.update(shard[name])
            manifest[name] = dict(sorted(total.items()))
        manifest["rows"] = sum(shard["rows"] for shard in shards)
        manifest |= facts(manifest)
        manifest["shards"] = [{key: shard[key] for key in ("file", "rows", "bytes", "sha256")} for shard in shards]
        write_json(self.folder / MANIFEST, manifest)
        shutil.rmtree(self._open, ignore_errors=True)
        return manifest

    def manifest_sha256(self) -> str:
        """What names this stage as the input of the next."""
        return sha256(self.folder / MANIFEST)

    def records(self) -> Iterator[Record]:
        """The kept records of the closed shards, in their order."""
        return read_records(self.folder)

    def records_of(self, number: int) -> Iterator[Record]:
        return _read_part(self._part(number))

    # --- one shard ----------------------------------------------------------------------------------------------------

    def closed(self, number: int) -> bool:
        return self._part(number).exists()

    def open_shard(self, number: int) -> "Journal":
        return Journal(self._open / f"{number:05}.journal")

    def close_shard(
        self,
        number: int,
        journal: "Journal",
        judge: Judge | None = None,
        sides: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    ) -> int:
        """Writes what the journal holds as a part, without what `judge` drops, and removes it; the number of rows kept.

        `sides` are rows for files beside the stages' folders, by their names.
        """
        done = journal.units.values()
        kept: list[Record] = []
        dropped: list[Record] = []
        for record in sorted((record for item in done for record in item.records), key=lambda record: record["id"]):
            if not record["reasons"] and judge is not None and (reason := judge(record)):
                record["reasons"] = [reason]
            (dropped if record["reasons"] else kept).append(record)
        labels = sorted((label for item in done for label in item.labels), key=lambda label: label["id"])
        content = b"".join(map(to_line, kept))
        part = self._part(number)
        told = [_with_filter(record) for record in dropped]
        for name, rows in {DROPPED: told, LABELS: labels, **(sides or {})}.items():
            write_file(self._open / f"{number:05}.{name}", (to_line({**row, "stage": self.stage}) for row in rows))
        facts = {"file": part.name, "rows": len(kept), "bytes": len(content)}
        write_json(
            self._open / f"{number:05}.facts.json", facts | _counts(kept, dropped) | {"sha256": _digest(content)}
        )
        write_file(part, content)  # from here on the shard is closed
        journal.path.unlink(missing_ok=True)
        return len(kept)

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.jsonl"


class Journal:
    """The units of an open shard that are done, by their names; a context manager that appends more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units: dict[str, Done] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        found, length = _lines_of(self.path)
        self.units = {item.unit: item for item in found}
        if self.path.exists():
            os.truncate(self.path, length)
        self._file = self.path.open("ab")
        return self

    def append(self, done: Done) -> None:
        """One line, with the system before this returns: it outlives the process."""
        if self._file is None:
            raise ValueError("the journal is not open: use it in a with statement")
        self._file.write(to_line({"unit": done.unit, "records": done.records, "labels": done.labels}))
        self._file.flush()
        self.units[done.unit] = done

    def __exit__(self, *error: Any) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_records(folder: Path, parts: str = "part-*.jsonl") -> Iterator[Record]:
    """The records of a stage's folder, part by part; DataError names a line that is none."""
    for path in sorted(folder.glob(parts)):
        yield from _read_part(path)


def _read_part(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                advice = f"remove {path.parent}, which is then made again"
                raise DataError(f"{path}, line {number}: not valid JSON; {advice}") from error


def _lines_of(path: Path) -> tuple[list[Done], int]:
    """The whole lines of a journal, and the bytes up to the end of the last."""
    found: list[Done] = []
    length = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                try:
                    content = json.loads(line)
                    found.append(Done(content["unit"], content["records"], content["labels"]))
                except (ValueError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    del found[-1]
                    break
                length += len(line)
    return found, length


def _with_filter(record: Record) -> dict[str, Any]:
    """A dropped record with the filter and the reason of its first reason under keys of their own."""
    name, _, reason = record["reasons"][0].partition(": ")
    return {**record, "filter": name, "reason": reason}


def _counts(kept: Iterable[Record], dropped: Iterable[Record]) -> dict[str, Any]:
    """How many records by domain, difficulty, operation and filter, and what their requests used."""
    domains, difficulty, operations, usage, filters = (Counter[str]() for _ in range(5))
    for record in kept:
        domains[record["domain"]] += 1
        difficulty[f"{record['difficulty']:g}"] += 1
        operations[record["operation"]] += 1
        usage.update(record["usage"])
    for record in dropped:
        filters[record["reasons"][0].partition(":")[0]] += 1
        usage.update(record["usage"])
    return {"domains": domains, "difficulty": difficulty, "operations": operations, "usage": usage, "dropped": filters}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _merge(path: Path, stages: Iterable[int], parts: Iterable[Path]) -> None:
    """Puts the lines of `parts` in the place of those of these stages; no file where nothing is left."""
    stages, parts = set(stages), [part for part in parts if part.stat().st_size]
    if not parts and not path.exists():
        return
    with open_aside(path) as file:
        if path.exists():
            with path.open("rb") as before:
                file.writelines(line for line in before if json.loads(line)["stage"] not in stages)
        for part in parts:
            with part.open("rb") as added:
                shutil.copyfileobj(added, file)
    if not path.stat().st_size:
        path.unlink()
