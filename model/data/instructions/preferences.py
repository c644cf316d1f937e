"""Pairs of a better and a worse answer to one question, and questions alone, in the spellings that data sets have.

    {"prompt": "...", "chosen": "...", "rejected": "..."}                 also question or instruction; texts or messages
    {"chosen": [user, assistant], "rejected": [user, assistant]}          whole conversations but for the last message
    {"conversations": [...], "chosen": {...}, "rejected": {...}}          ShareGPT
    {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": ...}   transcripts

A question is {"prompt": "..."} or {"messages": [...]}; what else its row holds, such as an expected answer, stays with it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.data.instructions.conversations import (
    LISTS,
    QUESTIONS,
    Messages,
    check_messages,
    context_of,
    first_of,
    messages_of,
    question_of,
    record_of,
    said,
)
from model.data.readers import Row, listed
from model.data.sources import read_source_rows
from model.errors import DataError
from model.tokenizer.messages import Message

CHOSEN, REJECTED = ("chosen", "preferred_output"), ("rejected", "non_preferred_output")
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


@dataclass(frozen=True)
class Pair:
    """Two answers of the assistant to what was said before; chosen is the better one."""

    where: str  # file and line
    prompt: Messages
    chosen: Message
    rejected: Message
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)  # of the chat template
    margin: float = 0.0  # by how much it is better, where the row says so


@dataclass(frozen=True)
class Question:
    """What an answer is wanted to."""

    where: str
    messages: Messages
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)  # all that its row holds


def read_pairs(source: str, encoding: str = "utf-8") -> Iterator[Pair]:
    """The pairs of a file, folder, glob or hf:NAME; DataError with the file and the line of what is wrong."""
    for row in read_source_rows(source, encoding):
        yield pair_of(row)


def read_questions(source: str, encoding: str = "utf-8") -> Iterator[Question]:
    for row in read_source_rows(source, encoding):
        yield question_in(row)


def pair_of(row: Row) -> Pair:
    """The pair of one row."""
    record, where = record_of(row), row.name
    better, worse = first_of(record, CHOSEN), first_of(record, REJECTED)
    for found, key in ((better, "chosen"), (worse, "rejected")):
        if found is None:
            raise DataError(
                f"{where}: no '{key}' among its keys {listed(record)}; a pair is a prompt with both answers"
            )
    assert better is not None and worse is not None
    given = _given_question(record, where)
    chosen, rejected = _answer(record, better, where), _answer(record, worse, where)
    if given is None or chosen[0].get("role") != "assistant":
        given, chosen, rejected = _parted(chosen, rejected, where)  # whole conversations
    prompt = check_messages(given, where)
    last = []
    for key, answer in ((better, chosen), (worse, rejected)):
        if len(answer) != 1:
            raise DataError(f"{where}: '{key}' has {len(answer)} messages after the prompt; give the one answer")
        whole = check_messages([*prompt, *answer], f"{where}, '{key}'")
        if whole[-1]["role"] != "assistant":
            raise DataError(f"{where}: '{key}' is of the role {whole[-1]['role']!r}; an answer is the assistant's")
        last.append(whole[-1])
    if prompt[-1]["role"] == "assistant":
        raise DataError(f"{where}: the prompt ends with an answer; end it with what is to be answered")
    if last[0] == last[1]:
        raise DataError(f"{where}: chosen and rejected are the same, so there is nothing to prefer; leave the row out")
    tools, variables = context_of(record["input"] if isinstance(record.get("input"), Mapping) else record, where)
    return Pair(where, prompt, last[0], last[1], tools, variables, _margin(record, where))


def question_in(row: Row) -> Question:
    """The question of one row."""
    record = record_of(row)
    messages = _given_question(record, row.name)
    if messages is None:
        raise DataError(f'{row.name}: no question among its keys {listed(record)}; give "prompt" or "messages"')
    messages = check_messages(messages, row.name)
    if messages[-1]["role"] == "assistant":
        raise DataError(f"{row.name}: the question ends with an answer; end it with what is to be answered")
    return Question(row.name, messages, *context_of(record, row.name), row=record)


def _given_question(record: Mapping[str, Any], where: str) -> Messages | None:
    if isinstance(record.get("input"), Mapping):  # {"input": {"messages": [...]}, "preferred_output": [...], ...}
        record = record["input"]
    if (key := next((key for key in LISTS if record.get(key) is not None), None)) is not None:
        return messages_of(record[key], where)
    key = first_of(record, QUESTIONS)
    return None if key is None else question_of(record, key, where)


def _answer(record: Mapping[str, Any], key: str, where: str) -> Messages:
    value = record[key]
    if isinstance(value, str) and first_of(record, (*QUESTIONS, *LISTS)) is None:
        return _transcript(value, key, where)
    if isinstance(value, str):
        return said(value, "assistant", key, where)
    if isinstance(value, Mapping):
        value = [value]
    messages = messages_of(value, where)
    if not messages:
        raise DataError(f"{where}: '{key}' is empty; fill it or leave the row out")
    if not all(isinstance(message, Mapping) for message in messages):
        raise DataError(f"{where}: '{key}' is no list of messages; give a text or [{{\"role\": ...}}]")
    return messages


def _parted(chosen: Messages, rejected: Messages, where: str) -> tuple[Messages, Messages, Messages]:
    """What two conversations share before their last message, and the two ends."""
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        raise DataError(
            f"{where}: chosen and rejected are not one conversation but for its last answer; begin both with the same "
            "question, or give 'prompt'"
        )
    return chosen[:-1], chosen[-1:], rejected[-1:]


def _transcript(text: str, key: str, where: str) -> Messages:
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise DataError(
            f"{where}: '{key}' is a text and there is no 'prompt'; give it, or write Human: and Assistant: turns"
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": roles[name], "content": said_text.strip()} for name, said_text in pairs]


def _margin(record: Mapping[str, Any], where: str) -> float:
    value = record.get("margin")
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise DataError(f"{where}: 'margin' is {value!r}; give a number that is not negative, or leave it out")
    return float(value)
