"""The record that every stage reads and writes: one JSON object a line.

    id           of its parents, stage, operation, seed and index: equal runs give equal ids
    parents      ids of the records that it was made from; empty in stage 1, where `source` is the beginning
    source       the span of a document: {"name", "sha256" of the document, "start", "end"} in characters
    stage        1 instructions, 2 evolved, 3 responses, 4 kept
    operation    what made it: seed, clarity, expansion, difficulty, original, response, filter
    domain       code, mathematics, prose, ...: routes it to a writer, and is balanced in stage 2
    difficulty   a number; an evolution that makes a record harder raises it
    instruction  what is asked                  response   what is answered, from stage 3 on; "" before
    answer       the part of the response that can be compared (a number, a line of output); None where there is none
    check        what recomputes the answer without the response: {"kind": ..., ...}; None where nothing can
    task         how the embedded writer made it, so that it can be made harder; None for other writers
    writer       the name of what wrote it      usage      {"prompt_tokens", "completion_tokens", "cost"} of its request
    scores       numbers that filters gave      reasons    why it was dropped: "filter: reason"; empty where it was kept

Records from elsewhere may lack all but `instruction` and `response`: filters read them as mappings.

The kinds of checks that the embedded writer gives, with their keys, and the answer that each confirms:

    arithmetic     expression                        its value; with "steps": true also every line `a + b = c` of the response
    unit           value, from, to                   the value in the other unit (units are English words, in the plural)
    date           start, days                       the day so many days later, as 2024-03-01
    weekday        date                              Monday, ...
    days_between   start, end                        a whole number
    count          text, item, unit                  how often the item stands there; unit: letter, word or line
    sort           items, order                      ", ".join; order: ascending, descending (numbers), alphabetical, length
    set            left, right, operation            sorted; operation: union, intersection, difference, symmetric_difference
    lookup         table, key, hops                  the value after so many steps from key to value
    order          original, shown                   the number of the shown sentence that comes first, second, ...: "3 1 2"
    cloze          text, blanked                     the word that makes `text` of `blanked` in the place of ____
    signature      source                            the line `def name(parameters):` of the function in source
    docstring      source                            the first line of its docstring
    python_stdout  program                           what it prints; it is only run confined
    bug            program, fixed                    the number of the line in which they differ; program fails, fixed does not
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NotRequired, TypedDict

STAGES = ("1_instructions", "2_evolved", "3_responses", "4_kept")  # the folders, in order
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
ID_DIGITS = 20  # hexadecimal, 80 bits: among 10^6 ids two are equal with a chance of 4e-13


class Source(TypedDict):
    name: str
    sha256: str
    start: int
    end: int


class Record(TypedDict):
    id: str
    parents: list[str]
    source: Source | None
    stage: int
    operation: str
    domain: str
    difficulty: float
    instruction: str
    response: str
    answer: str | None
    check: dict[str, Any] | None
    task: dict[str, Any] | None
    writer: str
    usage: dict[str, float]
    scores: dict[str, float]
    reasons: list[str]
    text: NotRequired[str]  # of stage 4, for pre-training


def record_id(parents: Iterable[str], stage: int, operation: str, seed: int, index: int) -> str:
    """The id of a record, known before it is made: a pure function of where it comes from."""
    text = "\x1f".join((*parents, str(stage), operation, str(seed), str(index)))
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def new_record(
    id: str,
    *,
    stage: int,
    operation: str,
    domain: str,
    instruction: str,
    writer: str,
    parents: Iterable[str] = (),
    source: Source | None = None,
    difficulty: float = 0.0,
    answer: str | None = None,
    check: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
) -> Record:
    """A record without a response, scores or reasons yet."""
    return Record(
        id=id, parents=list(parents), source=source, stage=stage, operation=operation, domain=domain,
        difficulty=difficulty, instruction=instruction, response="", answer=answer, check=check, task=task,
        writer=writer, usage={}, scores={}, reasons=[],
    )  # fmt: skip


def derived(parent: Record, id: str, *, stage: int, operation: str, **changes: Any) -> Record:
    """The next stage's record made from `parent`, which becomes its only parent; all that is not changed stays."""
    child: dict[str, Any] = {**parent, "id": id, "parents": [parent["id"]], "stage": stage, "operation": operation}
    child |= {"usage": {}, "scores": dict(parent["scores"]), "reasons": []} | changes
    return Record(**child)  # type: ignore[typeddict-item]


def to_line(record: Mapping[str, Any]) -> bytes:
    """One line of a shard; the order of the keys is that of the record."""
    return _ENCODER.encode(record).encode(errors="replace") + b"\n"


def config_hash(config: Mapping[str, Any]) -> str:
    """The same for equal settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
