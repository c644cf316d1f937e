"""Records that hold an item of an evaluation set: copied, wrapped anew, in capitals, or embedded in a longer text.

A text becomes its words, without signs, case and line breaks; a Chinese character is a word. The score of a record is the
largest share of an item's runs of eight words that stand in it. Runs that several items have, such as the sentence that
introduces every question, are no sign of any and are left out; but where an item has little else, because another set has the
same question in other words around it, a record is taken for a copy that holds VARIANT of the runs. An item too short for a run
is looked for as a whole. Not seen: a translation, traditional for simplified characters, and words written as one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.data.readers import DATA, kind_of, read_file, read_rows
from model.data.synthesis.shingles import Hashes, hashes, words
from model.errors import DataError

RUN = 8  # words
ANYWHERE = 5  # a short item of so many words is found inside other text; a shorter one only as a line of its own
FEW_ITEMS = 4  # a run in so many items may be of one question in several sets; in more, it introduces questions
VARIANT = 0.8  # least share of an item's runs where most of them are in other items, too
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,40}>")
_CUT_WORD = re.compile(r"(?<=[^\W\d_])-[ \t]*\n\s*(?=[a-z])")  # at the end of a line
QUESTIONS = (
    "question",
    "problem",
    "instruction",
    "prompt",
    "query",
    "text",
    "sentence",
    "input",
)  # keys of an item's text


class Item(NamedTuple):
    name: str
    text: str


def read_items(paths: Iterable[Path]) -> Iterator[Item]:
    """The items of evaluation sets: rows of json, jsonl or parquet files, or paragraphs of text files."""
    for path in paths:
        if kind_of(path) in DATA:
            yield from (Item(row.name, _question(row.name, row.value)) for row in read_rows(path))
        else:
            for document in read_file(path, "text", "utf-8"):
                parts = [part for part in document.text.split("\n\n") if part.strip()]
                yield from (Item(f"{path}, paragraph {number}", part) for number, part in enumerate(parts, start=1))


def _question(name: str, row: Any) -> str:
    if isinstance(row, str):
        return row
    found = [row[key] for key in QUESTIONS if isinstance(row.get(key), str)] if isinstance(row, Mapping) else []
    if not found:
        raise DataError(f"{name}: no text of an evaluation item; give it under one of the keys {', '.join(QUESTIONS)}")
    return " ".join(found[:1] if "instruction" not in row else [row["instruction"], str(row.get("input") or "")])


class Contamination:
    """Looks for items in texts: contamination(parts) -> (share of an item that was found, its name)."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._names: list[str] = []
        self._short: dict[int, dict[int, str]] = {}  # by length in words, by hash
        seen: set[tuple[str, ...]] = set()
        runs: list[Hashes] = []
        for item in items:
            found = _words(item.text)
            if not found or tuple(found) in seen:
                continue
            seen.add(tuple(found))
            if len(found) < RUN:
                self._short.setdefault(len(found), {})[int(hashes(found, RUN)[0])] = item.name
            else:
                self._names.append(item.name)
                runs.append(hashes(found, RUN))
        self._index(runs)

    def _index(self, runs: list[Hashes]) -> None:
        everything = np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint64)
        owners = np.repeat(np.arange(len(runs)), [len(part) for part in runs])
        values, first, which, counts = np.unique(everything, return_index=True, return_inverse=True, return_counts=True)
        own = counts == 1
        self._runs, self._owners = values[own], owners[first[own]]
        self._totals = np.bincount(self._owners, minlength=len(runs))
        # An item without a run of its own is a part of others: all of its runs have to be there.
        self._parts = [(number, runs[number]) for number in np.flatnonzero(self._totals == 0)]
        few = counts[which] <= FEW_ITEMS
        totals = np.bincount(owners[few], minlength=len(runs))
        few &= (2 * self._totals < totals)[owners]
        order = np.flatnonzero(few)[np.argsort(everything[few], kind="stable")]
        self._variant_runs, self._variant_owners, self._variant_totals = everything[order], owners[order], totals

    def __call__(self, parts: Sequence[str]) -> tuple[float, str]:
        """`parts` are the texts of a record, such as instruction and response: an item may stand in one or over both."""
        found = _words(" ".join(parts))
        best, name = 0.0, ""
        if len(found) >= RUN and len(self._names):
            record = hashes(found, RUN)
            if len(self._runs):
                places = np.minimum(np.searchsorted(self._runs, record), len(self._runs) - 1)
                hits = self._owners[places[self._runs[places] == record]]
                if len(hits):
                    shares = np.bincount(hits, minlength=len(self._names)) / np.maximum(self._totals, 1)
                    best, name = float(shares.max()), self._names[int(shares.argmax())]
            share, variant = self._variant(record)
            if share >= max(best, VARIANT):
                best, name = share, self._names[variant]
            for number, runs in self._parts:
                if np.isin(runs, record).all():
                    best, name = 1.0, self._names[number]
        return (1.0, short) if (short := self._short_item(parts, found)) else (best, name)

    def _variant(self, record: Hashes) -> tuple[float, int]:
        """The largest share of the runs of an item that has most of them in common with few others, and its number."""
        begins, ends = (np.searchsorted(self._variant_runs, record, side=side) for side in ("left", "right"))
        hits = [self._variant_owners[begin:end] for begin, end in zip(begins, ends, strict=True) if begin < end]
        if not hits:
            return 0.0, 0
        shares = np.bincount(np.concatenate(hits), minlength=len(self._names)) / np.maximum(self._variant_totals, 1)
        return float(shares.max()), int(shares.argmax())

    def _short_item(self, parts: Sequence[str], found: list[str]) -> str:
        for length, items in self._short.items():
            if length >= ANYWHERE and len(found) >= length:
                for value in map(int, hashes(found, length)):
                    if value in items:
                        return items[value]
        lines = [_words(line) for part in parts for line in (part, *part.splitlines())]
        for line in lines:
            if len(line) in self._short and (name := self._short[len(line)].get(int(hashes(line, RUN)[0]))):
                return name
        return ""


def _words(text: str) -> list[str]:
    """Without tags of HTML, and with the words whole that were cut at the end of a line."""
    return words(_CUT_WORD.sub("", _TAG.sub("", text)), signs=False)
