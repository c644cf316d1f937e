"""What makes the records of a stage: units of work go in, what became of each comes out, in any order.

A unit is known, with the id of its record, before it is done. The embedded writer does it by itself (embedded.py); any other
writer is asked with prompts (prompted.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from model.data.synthesis.record import Record, record_id
from model.data.synthesis.spans import Span
from model.data.synthesis.store import Done

OPERATIONS = ("clarity", "expansion", "difficulty")  # of stage 2, in the order in which a record meets them


@dataclass(frozen=True)
class Seed:
    """Stage 1: an instruction that a span of text gives; `index` tells several of one span apart."""

    id: str
    span: Span
    index: int

    @classmethod
    def of(cls, span: Span, seed: int, index: int) -> "Seed":
        place = f"{span.source['sha256']}:{span.source['start']}:{span.source['end']}"
        return cls(record_id([place], 1, "seed", seed, index), span, index)


@dataclass(frozen=True)
class Evolution:
    """Stage 2: the parent made clearer, harder, or the model of another instruction of its domain."""

    id: str
    parent: Record
    operation: str  # one of OPERATIONS
    index: int  # tells several of one operation apart
    original_id: str  # of the parent as it goes on where it cannot be made clearer

    @classmethod
    def of(cls, parent: Record, operation: str, seed: int, index: int) -> "Evolution":
        parents = [parent["id"]]
        id = record_id(parents, 2, operation, seed, index)
        return cls(id, parent, operation, index, record_id(parents, 2, "original", seed, 0))


@dataclass(frozen=True)
class Answer:
    """Stage 3: one of n responses to an instruction."""

    id: str
    parent: Record
    sample: int

    @classmethod
    def of(cls, parent: Record, seed: int, sample: int) -> "Answer":
        return cls(record_id([parent["id"]], 3, "response", seed, sample), parent, sample)


class Author(Protocol):
    """Makes records of stages 1 to 3."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its records depend on, for the manifest."""

    def instructions(self, units: Iterable[Seed]) -> Iterator[Done]: ...

    def evolutions(self, units: Iterable[Evolution]) -> Iterator[Done]: ...

    def responses(self, units: Iterable[Answer]) -> Iterator[Done]: ...

    def close(self) -> None: ...
