"""The examples of a run: read, rendered, measured and parted into training and validation.

Which side an example is on follows from its question alone, so that no question is on both. What is longer than a row is left
out whole, counted and named: half an answer would be learnt without its end.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from model.data.instructions.conversations import Chat, read_chats
from model.data.instructions.packing import TokenTable
from model.data.instructions.preferences import Pair, Question, read_pairs
from model.data.instructions.rendering import RenderedPair, Renderer, TrainOn, UnmaskableError
from model.data.split import content_position
from model.errors import DataError

Progress = Callable[[str, float], None]  # what is being done, and how much of it from 0 to 1
T = TypeVar("T", Chat, Pair)
LEFT_OUT = "left_out.jsonl"
NAMED = 3  # of what was left out, in a sentence


@dataclass
class LeftOut:
    """What no model is given, by reason: the names of the rows."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        self.rows.setdefault(reason, []).append(where)

    def sentences(self) -> list[str]:
        """One for each reason, with the first rows by name."""
        return [f"{reason}: {len(rows):,} left out, {_named(rows)}" for reason, rows in self.rows.items()]

    def files(self) -> dict[str, str]:
        """All of them by name, for the run folder; nothing where there is none."""
        lines = (json.dumps({"reason": reason, "row": row}) for reason, rows in self.rows.items() for row in rows)
        return {LEFT_OUT: "".join(f"{line}\n" for line in lines)} if self.rows else {}


@dataclass(frozen=True)
class ChatExamples:
    """Conversations as tokens, and held-out questions for samples."""

    table: TokenTable
    sources: np.ndarray  # (examples,) which source each comes from
    held_out: np.ndarray  # (examples,) bool: for validation
    questions: list[tuple[Question, str]]  # with the answer that is there
    left_out: LeftOut
    split: int  # conversations that became several examples
    fingerprint: str

    def of(self, *, held_out: bool, source: int | None = None) -> np.ndarray:
        """The examples of one side by their index, all or those of a source."""
        return np.flatnonzero((self.held_out == held_out) & ((self.sources == source) | (source is None)))


@dataclass(frozen=True)
class PairExamples:
    """Pairs as tokens, each with its margin."""

    train: list[tuple[RenderedPair, float]]
    validation: list[tuple[RenderedPair, float]]
    left_out: LeftOut
    fingerprint: str


def prepare_chats(
    sources: Sequence[str],
    renderer: Renderer,
    *,
    encoding: str = "utf-8",
    length: int,
    train_on: TrainOn,
    validation_fraction: float,
    questions: int = 0,
    progress: Progress | None = None,
) -> ChatExamples:
    """The conversations of the sources as examples of at most `length` tokens; `questions` of those held out for samples."""
    left_out, builder, split = LeftOut(), _Builder(), 0
    asked: dict[float, Chat] = {}  # by the position of their questions: those that are held out first
    for index, source in enumerate(sources):
        for chat in _read(read_chats, source, encoding, progress):
            try:
                examples = renderer.chat(chat, train_on)
            except UnmaskableError as error:
                left_out.add("conversations whose answer cannot be told from its prompt", str(error))
                continue
            split += len(examples) > 1
            if renderer.drops_tools(chat):
                left_out.add("tools that the chat template does not write", chat.where)
            position = content_position(_question_key(chat.messages[: chat.answers[0]]))
            for example in examples:
                if len(example.ids) > length:
                    left_out.add(f"examples of over {length:,} tokens", f"{chat.where} ({len(example.ids):,})")
                else:
                    builder.add(example.ids, example.learnt, index, position)
            if questions and len(examples[0].ids) <= length:
                asked.setdefault(position, chat)
                if len(asked) > questions:
                    del asked[max(asked)]
    table, positions = builder.table(), np.array(builder.positions)
    bound = validation_bound(positions, validation_fraction)
    if not len(table):
        raise DataError(_nothing_left(sources, left_out, "conversation", length))
    held_out_questions = [_asked(asked[position]) for position in sorted(asked) if position < bound]
    owners, held_out = np.array(builder.sources), positions < bound
    digest = _fingerprint([table.ids, table.learnt, table.starts, owners, held_out])
    return ChatExamples(table, owners, held_out, held_out_questions, left_out, split, digest)


def prepare_pairs(
    sources: Sequence[str],
    renderer: Renderer,
    *,
    encoding: str = "utf-8",
    length: int,
    validation_fraction: float,
    progress: Progress | None = None,
) -> PairExamples:
    """The pairs of the sources, of which both answers fit into `length` tokens."""
    left_out = LeftOut()
    found: list[tuple[float, RenderedPair, float]] = []
    for source in sources:
        for pair in _read(read_pairs, source, encoding, progress):
            try:
                rendered = renderer.pair(pair)
            except UnmaskableError as error:
                left_out.add("pairs whose answer cannot be told from its prompt", str(error))
                continue
            if renderer.drops_tools(pair):
                left_out.add("tools that the chat template does not write", pair.where)
            tokens = len(rendered.prompt_ids) + max(len(rendered.chosen_ids), len(rendered.rejected_ids))
            if tokens > length:
                left_out.add(f"pairs of over {length:,} tokens", f"{pair.where} ({tokens:,})")
            else:
                found.append((content_position(_question_key(pair.prompt)), rendered, pair.margin))
    if not found:
        raise DataError(_nothing_left(sources, left_out, "pair", length))
    bound = validation_bound(np.array([position for position, *_ in found]), validation_fraction)
    train, held_out = (
        [(pair, margin) for position, pair, margin in found if (position < bound) == aside] for aside in (False, True)
    )
    return PairExamples(train, held_out, left_out, hashlib.sha256(json.dumps([train, held_out]).encode()).hexdigest())


def validation_bound(positions: np.ndarray, fraction: float) -> float:
    """Examples whose question has a position (its hash, 0 to 1) below this are for validation: about `fraction` of them.

    Where there are two questions, at least one is held out and one is not; with 0, none is.
    """
    different = np.unique(positions)
    if not fraction or len(different) < 2:
        return 0.0
    return float(different[min(max(1, round(fraction * len(different))), len(different) - 1)])


class _Builder:
    """A TokenTable as it grows."""

    def __init__(self) -> None:
        self._ids, self._learnt, self._starts = array("i"), bytearray(), array("q", [0])
        self.sources, self.positions = array("i"), array("d")

    def add(self, ids: list[int], learnt: list[bool], source: int, position: float) -> None:
        self._ids.extend(ids)
        self._learnt.extend(learnt)
        self._starts.append(len(self._ids))
        self.sources.append(source)
        self.positions.append(position)

    def table(self) -> TokenTable:
        return TokenTable(
            np.array(self._ids, np.int32),
            np.frombuffer(bytes(self._learnt), np.bool_),
            np.array(self._starts, np.int64),
        )


def _read(
    read: Callable[[str, str], Iterable[T]], source: str, encoding: str, progress: Progress | None
) -> Iterable[T]:
    if progress is not None:
        progress(f"reading {source}", 0.0)
    yield from read(source, encoding)


def _question_key(messages: Sequence[Any]) -> str:
    """What tells one question from another, whichever file it stands in."""
    return json.dumps([[message["role"], message.get("content")] for message in messages], ensure_ascii=False)


def _asked(chat: Chat) -> tuple[Question, str]:
    last = chat.answers[-1]
    answer = chat.messages[last].get("content")
    question = Question(chat.where, chat.messages[:last], chat.tools, chat.variables)
    return question, answer if isinstance(answer, str) else json.dumps(chat.messages[last], ensure_ascii=False)


def _fingerprint(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(np.array(part)).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def _named(rows: Sequence[str]) -> str:
    more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
    return ", ".join(rows[:NAMED]) + more


def _nothing_left(sources: Sequence[str], left_out: LeftOut, what: str, length: int) -> str:
    reasons = "; ".join(left_out.sentences())
    where = ", ".join(sources)
    return (
        f"{where}: no {what} can be learnt ({reasons}): raise training.sequence_length, now {length:,}, or give others"
    )
