"""Records written by a model: each unit of work becomes a request, and its reply a record.

A reply that was cut off, refused for good, or is empty is dropped with its reason; whether an answer is right, the filters say.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from model.data.synthesis.author import Answer, Evolution, Seed
from model.data.synthesis.record import Record, derived, new_record
from model.data.synthesis.store import Done
from model.data.synthesis.writer import Reply, Request, Writer

VERSION = 1  # of the prompts: raise it where they change
Unit = TypeVar("Unit", Seed, Evolution, Answer)

SEED = (
    "Below is a passage of the domain {domain}. Write one instruction or question that it inspires, for someone who does not "
    "see the passage: state all that is needed to answer. Reply with the instruction alone.\n\nPassage:\n{text}"
)
EVOLVE = {
    "clarity": (
        "Write the following instruction again so that it says clearly what is given, what is wanted, in which form and in "
        "which units. Ask for the same thing. Reply with the instruction alone.\n\n{instruction}"
    ),
    "difficulty": (
        "Make the following instruction harder in one way: one more step, one more condition, or a larger input. It must stay "
        "answerable, and no more than 40 words longer. Reply with the instruction alone.\n\n{instruction}"
    ),
    "expansion": (
        "Here is an instruction of the domain {domain}. Write another one of the same domain, about something else and of the "
        "same length. State all that is needed to answer. Reply with the instruction alone.\n\n{instruction}"
    ),
}


class PromptedWriter:
    """An Author (author.py) that asks a Writer (writer.py)."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"name": self.writer.name, "prompts": VERSION, **self.writer.identity}

    def close(self) -> None:
        self.writer.close()

    def instructions(self, units: Iterable[Seed]) -> Iterator[Done]:
        return self._ask(units, self._seeded)

    def evolutions(self, units: Iterable[Evolution]) -> Iterator[Done]:
        return self._ask(units, self._evolved)

    def responses(self, units: Iterable[Answer]) -> Iterator[Done]:
        return self._ask(units, self._answered)

    def _ask(self, units: Iterable[Unit], record: Callable[[Unit, str], Record]) -> Iterator[Done]:
        """The record of each unit as its reply comes; only those under way are remembered."""
        asked: dict[str, Unit] = {}

        def requests() -> Iterator[Request]:
            for unit in units:
                asked[unit.id] = unit
                yield request_of(unit)

        for reply in self.writer.write(requests()):
            made = record(asked.pop(reply.id), reply.text.strip())
            made["usage"] = dict(reply.usage)
            made["writer"] = self.writer.name
            if reason := _refused(reply):
                made["reasons"] = [f"writer: {reason}"]
            yield Done(reply.id, [made])

    def _seeded(self, unit: Seed, text: str) -> Record:
        return new_record(
            unit.id, stage=1, operation="seed", domain=unit.span.domain, source=unit.span.source, writer="", instruction=text
        )  # fmt: skip

    def _evolved(self, unit: Evolution, text: str) -> Record:
        more = float(unit.operation == "difficulty")
        return derived(
            unit.parent, unit.id, stage=2, operation=unit.operation, instruction=text,
            difficulty=unit.parent["difficulty"] + more, answer=None, check=None, task=None,
        )  # fmt: skip

    def _answered(self, unit: Answer, text: str) -> Record:
        return derived(unit.parent, unit.id, stage=3, operation="response", response=text, answer=None, task=None)


def request_of(unit: Seed | Evolution | Answer) -> Request:
    """What a unit asks; samples, and several units of one parent or span, are told apart by the sample's number."""
    match unit:
        case Seed():
            prompt, sample = SEED.format(domain=unit.span.domain, text=unit.span.text.strip()), unit.index
        case Evolution():
            parent, sample = unit.parent, unit.index
            prompt = EVOLVE[unit.operation].format(domain=parent["domain"], instruction=parent["instruction"])
        case Answer():
            prompt, sample = unit.parent["instruction"], unit.sample
    return Request(unit.id, ({"role": "user", "content": prompt},), sample)


def _refused(reply: Reply) -> str:
    """Why a reply is no record."""
    if reply.finish == "error":
        return reply.error or "no answer"
    if reply.finish == "length":
        return "cut off at the longest answer"
    return "" if reply.text.strip() else "the answer is empty"
