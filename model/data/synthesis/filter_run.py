"""The filters over files of records: in constant memory, resumable, and the same whatever the number of threads.

    work = FilterRun(paths, config, folder)
    if work.run(): for line, verdict in work.results(): ...

Verdicts of single records are kept in a journal in `folder`, in the order of the records, so that a run that was stopped or
killed goes on where it was. What is judged over all records (votes, near duplicates) is quick and done anew. A record
takes about 25 bytes of memory, and what duplicates.py says; its text is read again where it is needed.
"""

import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import blake2b
from os import cpu_count
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from model.data.confinement import require
from model.data.synthesis.answers import majority
from model.data.synthesis.checks import needs_execution
from model.data.synthesis.decontaminate import Contamination, read_items
from model.data.synthesis.duplicates import NearDuplicates
from model.data.synthesis.filter import FILTERS, FilterConfig, RecordFilters, Verdict
from model.errors import DataError
from model.files import read_json, sha256, write_json

CHUNK = 512  # records that are judged, and written to the journal, at a time
KEPT = len(FILTERS)  # the code of a record that stays, in the table of verdicts
Advanced = Callable[[str, int], None]  # the filter at work, and how many more records it has seen


class Critique(Protocol):
    """Scores pairs: critique.py by a model's likelihoods, endpoint_critique.py by what a judge says."""

    def __call__(self, pairs: Iterable[tuple[int, str, str]]) -> Iterator[tuple[int, float | None]]:
        """A score for each (number, instruction, response), in any order; None where there is none."""

    def reason(self, score: float | None) -> str:
        """Why a record with a score that is too low, or with none, is dropped."""


class Lines:
    """The lines of files, by number; empty ones are none."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self._files: list[BinaryIO] = []
        self._starts: list[int] = []  # the number of each file's first line
        self._offsets = array("Q")
        self._numbers = array("L")  # of the lines in their file, from 1 on
        self._paths = paths
        for path in paths:
            try:
                file = self._stack.enter_context(path.open("rb"))
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error
            self._files.append(file)
            self._starts.append(len(self._offsets))
            offset = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._offsets.append(offset)
                    self._numbers.append(number)
                offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, number: int) -> bytes:
        file = self._files[np.searchsorted(self._starts, number, side="right") - 1]
        file.seek(self._offsets[number])
        return file.readline()

    def name(self, number: int) -> str:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        return f"{self._paths[which].name}, line {self._numbers[number]}"

    def close(self) -> None:
        self._stack.close()


class FilterRun:
    """One pass of the filters over `paths`; `folder` holds the work while it goes on."""

    def __init__(
        self, paths: Sequence[Path], config: FilterConfig, folder: Path, *, threads: int | None = None,
        critique: Critique | None = None, advanced: Advanced = lambda name, count: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """`critique` scores an instruction and its response; `advanced` is told of progress."""
        self.config, self._folder, self._critique = config, folder, critique
        self._threads, self._advanced, self._should_stop = threads or cpu_count() or 1, advanced, should_stop
        self.lines = Lines(paths)
        self._begin({"inputs": [sha256(path) for path in paths], "config": config.as_dict(),
                     "against": [sha256(Path(path)) for path in config.against]})  # fmt: skip
        self._code = np.full(len(self.lines), KEPT, dtype=np.uint8)  # of the filter that dropped it
        # What the filters over all records have to say of one: its votes or its score, and which record it repeats.
        self._about = np.zeros(len(self.lines), dtype=np.float32)
        self._original = np.zeros(len(self.lines), dtype=np.int64)

    def _begin(self, identity: dict[str, Any]) -> None:
        """Goes on with work on the same files with the same settings; clears other work away."""
        place = self._folder / "identity.json"
        identity = json.loads(json.dumps(identity))
        try:
            same = place.exists() and read_json(place) == identity
        except ValueError:
            same = False
        if not same:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            write_json(place, identity)

    # --- the work -----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """False where it was stopped before its end; the next run goes on."""
        if not self._judge_each():
            return False
        if self.config.vote:
            self._vote()
        if self.config.duplicates:
            self._find_duplicates()
        return self._critique is None or self._criticize(self._critique)

    def _judge_each(self) -> bool:
        contamination = Contamination(read_items(map(Path, self.config.against))) if self.config.against else None
        judge = RecordFilters(self.config, contamination)
        checked = False
        journal = self._folder / "verdicts.jsonl"
        _cut_torn_line(journal)
        done = 0
        for done, verdict in enumerate(_whole_lines(journal), start=1):
            self._code[done - 1] = FILTERS.index(verdict[0]) if verdict[0] else KEPT
        self._advanced("record", done)
        with ThreadPoolExecutor(self._threads) as threads, journal.open("ab") as file:
            while done < len(self.lines):
                if self._should_stop():
                    return False
                records = [self._parsed(number) for number in range(done, min(done + CHUNK, len(self.lines)))]
                programs = [isinstance(record, dict) and _executes(record) for record in records]
                if self.config.execute and not checked and any(programs):
                    require(allow_weaker=self.config.allow_weaker)
                    checked = True
                verdicts = threads.map(judge, records) if any(programs) else map(judge, records)
                text = b""
                for record, verdict in zip(records, verdicts, strict=True):
                    self._code[done] = FILTERS.index(verdict.filter) if verdict.filter else KEPT
                    reason = (
                        f"{self.lines.name(done)}: {verdict.reason}" if verdict.filter == "format" else verdict.reason
                    )
                    if isinstance(record, ValueError):
                        reason = f"{self.lines.name(done)}: {record}"
                    text += json.dumps([verdict.filter, reason, verdict.scores], ensure_ascii=False).encode() + b"\n"
                    done += 1
                file.write(text)
                file.flush()
                self._advanced("record", len(records))
        return True

    def _parsed(self, number: int) -> Any:
        """The record of a line; a ValueError that says what is wrong with the line."""
        try:
            return json.loads(self.lines[number])
        except (ValueError, RecursionError):
            return ValueError("it is not valid JSON; write one object a line")

    def _vote(self) -> None:
        """Drops records whose answer is not that of more than half of the records with their instruction."""
        alive = np.flatnonzero(self._code == KEPT)
        keys = np.array([_digest(self._parsed(int(number))["instruction"]) for number in alive], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        for group in np.split(alive[order], np.flatnonzero(np.diff(keys[order])) + 1):
            if len(group) < 2:
                continue
            given = [_answer(self._parsed(int(number))) for number in group]
            winner = majority(given)
            for number, answer in zip(map(int, group), given, strict=True):
                if winner is None or majority([winner, answer]) is None:
                    self._code[number] = FILTERS.index("vote")
                    self._about[number] = len(given) if winner is not None else -len(given)
            self._advanced("vote", len(group))

    def _find_duplicates(self) -> None:
        alive = np.flatnonzero(self._code == KEPT)
        found = NearDuplicates(self._folder, self.config.duplicates)
        for number in map(int, alive):
            found.add(self._text(number))
            self._advanced("duplicate", 1)
        originals, alike = found.find(lambda place: self._text(int(alive[place])))
        removed = np.flatnonzero(originals >= 0)
        self._code[alive[removed]] = FILTERS.index("duplicate")
        self._original[alive[removed]] = alive[originals[removed]]
        self._about[alive[removed]] = alike[removed]

    def _text(self, number: int) -> str:
        record = self._parsed(number)
        return f"{record['instruction']}\n{record['response']}"

    def _criticize(self, critique: Critique) -> bool:
        journal = self._folder / "critique.jsonl"
        _cut_torn_line(journal)
        scores: dict[int, float | None] = dict(_whole_lines(journal))
        alive = np.flatnonzero(self._code == KEPT)
        self._advanced("critique", len(scores))

        def pairs() -> Iterator[tuple[int, str, str]]:
            for number in map(int, alive):
                if self._should_stop():
                    return
                if number not in scores:
                    record = self._parsed(number)
                    yield number, record["instruction"], record["response"]

        with journal.open("ab") as file:
            for number, score in critique(pairs()):
                scores[number] = score
                file.write(json.dumps([number, score]).encode() + b"\n")
                file.flush()
                self._advanced("critique", 1)
        if any(number not in scores for number in map(int, alive)):
            return False
        for number in map(int, alive):
            score = scores[number]
            if score is None or score < self.config.critique_least:
                self._code[number] = FILTERS.index("critique")
            self._about[number] = np.nan if score is None else score
        return True

    # --- what came out ------------------------------------------------------------------------------------------------

    def results(self) -> Iterator[tuple[bytes, Verdict]]:
        """Every line with its verdict, in the order of the lines."""
        journal = self._folder / "verdicts.jsonl"
        for number, (_, reason, scores) in enumerate(_whole_lines(journal)):
            name = "" if self._code[number] == KEPT else FILTERS[self._code[number]]
            about = float(self._about[number])
            if name in ("vote", "duplicate"):
                reason = self._repeats(number, about) if name == "duplicate" else _outvoted(about)
                scores[name] = round(abs(about), 4)
            elif self._critique is not None and name in ("", "critique"):
                scored = not np.isnan(about)
                scores |= {"critique": round(about, 4)} if scored else {}
                reason = name and self._critique.reason(about if scored else None)
            yield self.lines[number], Verdict(name, reason, scores)

    def _repeats(self, number: int, alike: float) -> str:
        first = int(self._original[number])
        return f"{alike:.0%} like the record {self._parsed(first).get('id') or ''} ({self.lines.name(first)})"

    def counts(self) -> dict[str, int]:
        """How many each filter dropped, in their order; those that dropped none are left out."""
        found = np.bincount(self._code, minlength=KEPT + 1)
        return {name: int(found[place]) for place, name in enumerate(FILTERS) if found[place]}

    def close(self) -> None:
        """Closes the files; the work stays, to go on with."""
        self.lines.close()

    def finish(self) -> None:
        """Clears the work away, once its results are kept."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _executes(record: dict[str, Any]) -> bool:
    return isinstance(record.get("check"), dict) and needs_execution(record["check"])


def _answer(record: dict[str, Any]) -> str:
    """What a record is voted by: its answer where it has one, else its response."""
    answer = record.get("answer")
    return answer if isinstance(answer, str) and answer else record["response"]


def _outvoted(votes: float) -> str:
    return f"the majority of {votes:.0f} answers is another" if votes > 0 else f"{-votes:.0f} answers have no majority"


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _whole_lines(path: Path) -> Iterator[Any]:
    if path.exists():
        with path.open("rb") as file:
            yield from map(json.loads, file)


def _cut_torn_line(path: Path) -> None:
    """Removes what a killed process wrote of its last line."""
    if path.exists():
        with path.open("rb+") as file:
            length = sum(len(line) for line in file if line.endswith(b"\n"))
            file.truncate(length)
