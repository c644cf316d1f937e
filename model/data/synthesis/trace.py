"""Where a record comes from and what became of it: from the span of text to the final pair, through every stage.

trace(folder, id) -> Lineage(source, steps): the steps of stages 1 to 4 that lead to the record and on from it
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.sources import read_source
from model.data.synthesis.pipeline import input_of
from model.data.synthesis.record import STAGES, Record
from model.data.synthesis.store import DROPPED, LABELS, MANIFEST
from model.errors import DataError, HunyuanError
from model.files import read_json


@dataclass(frozen=True)
class Lineage:
    source: dict[str, Any] | None  # name, sha256, start, end, and its text where it is still there
    steps: list[Record]  # from stage 1 on; a record that was dropped has its reasons
    label: dict[str, Any] | None  # of an error that was planted in it


def trace(folder: Path, id: str) -> Lineage:
    """The lineage of the record whose id begins so; DataError where there is none, or several."""
    if not any((folder / name / MANIFEST).exists() for name in STAGES):
        raise DataError(f"{folder} has no closed stage: name a folder that hunyuan synthesize wrote")
    start = _only(folder, id)
    back = [start]
    while back[0]["parents"]:
        parent = next(_having(folder, '"id":"' + back[0]["parents"][0], stages=(back[0]["stage"] - 1,)), None)
        if parent is None:
            raise DataError(f"the parent of {back[0]['id']} is not in {folder}: an earlier stage was made again since")
        back.insert(0, parent)
    steps = list(back)
    while steps[-1]["stage"] < len(STAGES) and (child := _child(folder, steps[-1])):
        steps.append(child)
    return Lineage(_source_of(folder, steps[0]), steps, _label_of(folder, {step["id"] for step in steps}))


def _only(folder: Path, id: str) -> Record:
    found = {record["id"]: record for record in _having(folder, f'"id":"{id}')} if id else {}
    if not found:
        raise DataError(f"no record of {folder} has an id that begins with '{id}': ids are in its part-*.jsonl files")
    if len(found) > 1:
        raise DataError(
            f"{len(found)} records begin with '{id}', such as {' and '.join(list(found)[:2])}: give more of it"
        )
    return next(iter(found.values()))


def _child(folder: Path, parent: Record) -> Record | None:
    """What the next stage made of a record: kept before dropped, its first by id."""
    children = list(_having(folder, f'"parents":["{parent["id"]}"', stages=(parent["stage"] + 1,)))
    return min(children, key=lambda record: (bool(record["reasons"]), record["id"]), default=None)


def _having(folder: Path, words: str, stages: tuple[int, ...] = (1, 2, 3, 4)) -> Iterator[Record]:
    """The records of these stages, dropped ones too, whose lines have these words; a line is only parsed where it has."""
    paths = [path for stage in stages for path in sorted((folder / STAGES[stage - 1]).glob("part-*.jsonl"))]
    wanted = words.encode()
    for path in [*paths, folder / DROPPED]:
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if wanted in line and (record := json.loads(line))["stage"] in stages and _really(record, words):
                        yield record


def _really(record: Record, words: str) -> bool:
    """The words may stand in a text as well."""
    key, _, value = words.partition(":")
    own = f'"{record["id"]}' if key == '"id"' else f'["{record["parents"][0]}"' if record["parents"] else ""
    return own.startswith(value)


def _source_of(folder: Path, first: Record) -> dict[str, Any] | None:
    source = first["source"]
    if source is None:
        return None
    found: dict[str, Any] = dict(source)
    try:
        facts, settings = input_of(folder, 1)[1], read_json(folder / STAGES[0] / MANIFEST)["config"]
        for spec in facts["sources"]:
            for document in read_source(spec, settings["text_key"], settings["encoding"]):
                if document.name == source["name"]:
                    found["text"] = document.text[source["start"] : source["end"]]
                    return found
    except (HunyuanError, KeyError):
        pass  # the text has gone: its place is still known
    return found


def _label_of(folder: Path, ids: set[str]) -> dict[str, Any] | None:
    path = folder / LABELS
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                label = json.loads(line)
                if label["id"] in ids:
                    return label
    return None
