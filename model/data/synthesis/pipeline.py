"""Stages 1 to 3 of a synthesis, one after the other: units of work, to a journal, to shards.

Each stage reads the closed one before it. It is named by its settings, its writers and the digest of its input: where any of
them changes, the stage is made again, and all after it. Stopped or killed, the same call goes on where it was.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TypeVar

from model.data.synthesis.author import Answer, Author, Evolution, Seed
from model.data.synthesis.config import SynthesisConfig
from model.data.synthesis.evolution import entropy, evolutions_of, expansions, judged
from model.data.synthesis.record import STAGES, Record, config_hash
from model.data.synthesis.similarity import OverlapIndex
from model.data.synthesis.spans import Span, read_spans
from model.data.synthesis.store import Done, StageStore
from model.errors import DataError
from model.files import LOCK, hold

Unit = TypeVar("Unit", Seed, Evolution, Answer)


class Watcher(Protocol):
    """Is told what happens; may draw it."""

    def begun(self, stage: int, total: int, done: int) -> None:
        """So many units of work there are (about, in stage 2, where chance decides), and so many were done before."""

    def advanced(self, done: Done) -> None: ...

    def filtered(self, name: str, count: int) -> None:
        """A filter of stage 4 has seen so many more records; "record" are those that look at each by itself."""

    def ended(self, stage: int, manifest: Mapping[str, Any], seconds: float) -> None:
        """`seconds` is the time of this session, 0 where the stage was there."""


class Synthesis:
    """A folder of four stages. `authors` are by name; `main` makes instructions, and answers what no route names."""

    def __init__(
        self,
        folder: Path,
        config: SynthesisConfig,
        authors: Mapping[str, Author],
        main: str,
        watcher: Watcher,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.config, self.authors, self.main = folder, config, authors, main
        self.watcher, self.should_stop = watcher, should_stop

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, and keeps other processes out of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = hold(self.folder / LOCK)
        if lock is None:
            raise DataError(f"another process writes to {self.folder}: wait until it is done, or choose another --out")
        with lock:
            yield

    def run(self, stages: Iterable[int]) -> bool:
        """These stages in their order; False where it was stopped before their end."""
        work = {1: self.instructions, 2: self.evolutions, 3: self.responses}
        return all(work[stage]() for stage in stages)

    # --- what there is to do ------------------------------------------------------------------------------------------

    def units(self, stage: int) -> Iterator[Seed | Evolution | Answer]:
        """The units of work of a stage whose input is there, in their order."""
        return {1: self._seeds, 2: self._evolutions, 3: self._answers}[stage]()  # type: ignore[operator]

    def author_of(self, unit: Seed | Evolution | Answer) -> str:
        """The name of the one that does it."""
        return self.config.routes.get(unit.parent["domain"], self.main) if isinstance(unit, Answer) else self.main

    def asked(self, stage: int) -> set[str]:
        """The names of all that a stage may ask."""
        return {self.main, *self.config.routes.values()} if stage == 3 else {self.main}

    def has_input(self, stage: int) -> bool:
        return stage == 1 or StageStore(self.folder, stage - 1, {}).manifest() is not None

    def expected(self, stage: int) -> int:
        """How many units a stage is expected to have."""
        if stage == 1:
            return self.config.count
        rows = (StageStore(self.folder, stage - 1, {}).manifest() or {}).get("rows")
        if stage == 2:
            return round((rows or self.config.count) * (1 + self.config.harder + self.config.expand))
        return (rows or self.expected(2)) * self.config.samples

    # --- stage 1 ------------------------------------------------------------------------------------------------------

    def instructions(self) -> bool:
        """False where it was stopped, here and below."""
        names: dict[str, str] = {}
        spans = sum(1 for _ in self._spans(names))
        author = self.authors[self.main]
        config = {**self.config.of_stage(1), "input": config_hash(names), "writer": dict(author.identity)}
        return self._stage(
            StageStore(self.folder, 1, config), self._seeds(spans), author.instructions,
            facts=lambda manifest: {"sources": list(self.config.sources), "documents": len(names), "spans": spans},
        )  # fmt: skip

    def _spans(self, names: dict[str, str] | None = None) -> Iterator[Span]:
        return read_spans(self.config.sources, self.config.text_key, self.config.encoding, names)

    def _seeds(self, spans: int = 0) -> Iterator[Seed]:
        """`count` units, spread evenly over the spans in their order; `spans` is their number, where it is known."""
        count, spans = self.config.count, spans or sum(1 for _ in self._spans())
        for number, span in enumerate(self._spans()):
            for index in range((number + 1) * count // spans - number * count // spans):
                yield Seed.of(span, self.config.seed, index)

    # --- stage 2 ------------------------------------------------------------------------------------------------------

    def evolutions(self) -> bool:
        digest, before = input_of(self.folder, 1)
        author = self.authors[self.main]
        config = {**self.config.of_stage(2), "input": digest, "writer": dict(author.identity)}

        def work(units: Iterable[Evolution]) -> Iterator[Done]:
            asked: dict[str, Evolution] = {}

            def remembered() -> Iterator[Evolution]:
                for unit in units:
                    asked[unit.id] = unit
                    yield unit

            for done in author.evolutions(remembered()):
                yield judged(asked.pop(done.unit), done)

        return self._stage(
            StageStore(self.folder, 2, config), self._evolutions(), work,
            facts=lambda made: {"entropy": {"before": entropy(before["domains"]), "after": entropy(made["domains"])}},
        )  # fmt: skip

    def _evolutions(self) -> Iterator[Evolution]:
        store = StageStore(self.folder, 1, {})
        each = expansions((store.manifest() or {})["domains"], self.config.expand)
        return evolutions_of(store.records(), self.config.seed, self.config.harder, each)

    # --- stage 3 ------------------------------------------------------------------------------------------------------

    def responses(self) -> bool:
        digest, _ = input_of(self.folder, 2)
        writers = {name: dict(self.authors[name].identity) for name in sorted(self.asked(3))}
        config = {**self.config.of_stage(3), "main": self.main, "input": digest, "writers": writers}

        def work(units: Iterable[Answer]) -> Iterator[Done]:
            by_writer: dict[str, list[Answer]] = {}
            for unit in units:
                by_writer.setdefault(self.author_of(unit), []).append(unit)
            for name, chosen in by_writer.items():
                yield from self.authors[name].responses(unit for unit in chosen if not self.should_stop())

        return self._stage(StageStore(self.folder, 3, config), self._answers(), work)

    def _answers(self) -> Iterator[Answer]:
        for parent in StageStore(self.folder, 2, {}).records():
            for sample in range(self.config.samples):
                yield Answer.of(parent, self.config.seed, sample)

    # --- what the stages share ----------------------------------------------------------------------------------------

    def _stage(
        self,
        store: StageStore,
        units: Iterable[Unit],
        work: Callable[[Iterable[Unit]], Iterator[Done]],
        facts: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda manifest: {},
    ) -> bool:
        began = monotonic()
        if store.complete:
            self.watcher.ended(store.stage, store.manifest() or {}, 0.0)
            return True
        store.begin()
        judge = OverlapJudge(self.config.overlap) if self.config.overlap and store.stage < 3 else None
        whole = self.config.samples if store.stage == 3 else 1  # the samples of one instruction share a shard
        size = max(1, self.config.shard_units // whole) * whole
        total = self.expected(store.stage)
        self.watcher.begun(store.stage, total, 0)
        for number, chunk in enumerate(_chunks(units, size)):
            if store.closed(number):
                if judge is not None:
                    judge.remember(store.records_of(number))
                self.watcher.begun(store.stage, total, min(total, (number + 1) * size))
                continue
            with store.open_shard(number) as journal:
                self.watcher.begun(store.stage, total, number * size + len(journal.units))
                before = set(journal.units)
                todo = (unit for unit in chunk if unit.id not in before and not self.should_stop())
                for done in work(todo):
                    journal.append(done)
                    self.watcher.advanced(done)
                if len(journal.units) < len(chunk):
                    return False
            store.close_shard(number, journal, judge)
        manifest = store.finish(facts)
        self.watcher.ended(store.stage, manifest, monotonic() - began)
        return True


class OverlapJudge:
    """Drops an instruction that is too much like an earlier one; those of one parent are alike by their nature."""

    def __init__(self, most: float) -> None:
        self._index = OverlapIndex(most)

    def __call__(self, record: Record) -> str:
        score = self._index.too_close(record["instruction"], _origin(record))
        if score:
            return f"overlap: ROUGE-L of {score:.2f} to an earlier instruction"
        self._index.add(record["instruction"], _origin(record))
        return ""

    def remember(self, records: Iterable[Record]) -> None:
        for record in records:
            self._index.add(record["instruction"], _origin(record))


def _origin(record: Record) -> str:
    return record["parents"][0] if record["parents"] else ""


def input_of(folder: Path, stage: int) -> tuple[str, dict[str, Any]]:
    """The digest and the manifest of a closed stage; DataError where it is not there."""
    store = StageStore(folder, stage, {})
    if (manifest := store.manifest()) is None:
        raise DataError(f"{folder} has no complete {STAGES[stage - 1]}: run stage {stage} first")
    if not manifest["rows"]:
        raise DataError(
            f"stage {stage} kept nothing: {folder}/dropped.jsonl says why; give other sources or a greater --count"
        )
    return store.manifest_sha256(), manifest


def _chunks(units: Iterable[Unit], size: int) -> Iterator[list[Unit]]:
    units = iter(units)
    while chunk := list(itertools.islice(units, size)):
        yield chunk
