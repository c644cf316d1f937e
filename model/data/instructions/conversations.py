"""Conversations in the spellings that data sets have, each made the messages of model/tokenizer/messages.py.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}], "tools": [...]}     also "conversations"
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}            ShareGPT
    {"instruction": "...", "input": "...", "output": "...", "system": "...", "history": [[q, a]]}      alpaca
    {"prompt": "...", "completion": "..."}     also response, answer; question; and both as lists of messages

An assistant's message with "weight": 0 is no answer to learn. What cannot be read is one sentence that names the row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.data.readers import Row, listed
from model.data.sources import read_source_rows
from model.errors import DataError
from model.tokenizer.messages import checked_messages, checked_tools, checked_variables, text_of

Messages = list[dict[str, Any]]

LISTS = ("messages", "conversations", "conversation")
QUESTIONS, ANSWERS = ("prompt", "instruction", "question"), ("completion", "response", "output", "answer")
# ShareGPT's names for roles.
ROLES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "observation": "tool", "function_response": "tool", "function": "tool", "function_call": "assistant",
    "tool_call": "assistant", "tool_response": "tool",
}  # fmt: skip
CALLS = ("function_call", "tool_call")  # of those the ones whose text is a call, or a list of them


@dataclass(frozen=True)
class Chat:
    """A conversation with at least one answer of the assistant."""

    where: str  # file and line
    messages: Messages
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)  # of the chat template

    @property
    def answers(self) -> list[int]:
        """The places of the messages that can be learnt."""
        return [index for index, message in enumerate(self.messages) if _is_answer(message)]


def read_chats(source: str, encoding: str = "utf-8") -> Iterator[Chat]:
    """The conversations of a file, folder, glob or hf:NAME; DataError with the file and the line of what is wrong."""
    for row in read_source_rows(source, encoding):
        yield chat_of(row)


def chat_of(row: Row) -> Chat:
    """The conversation of one row, in whichever spelling it has."""
    record = record_of(row)
    with_lists = next((key for key in LISTS if record.get(key) is not None), None)
    if with_lists is not None:
        messages = messages_of(record[with_lists], row.name)
    elif (prompt := first_of(record, QUESTIONS)) is not None and (answer := first_of(record, ANSWERS)) is not None:
        messages = [*question_of(record, prompt, row.name), *said(record[answer], "assistant", answer, row.name)]
    else:
        keys = f"{row.name}: no conversation among its keys {listed(record)}"
        raise DataError(
            f'{keys}; give "messages", "conversations", "instruction" and "output", or "prompt" and "completion"'
        )
    chat = Chat(row.name, _checked(messages, row.name), *context_of(record, row.name))
    _check_answers(chat)
    return chat


def record_of(row: Row) -> dict[str, Any]:
    if not isinstance(row.value, dict):
        raise DataError(f'{row.name}: not a JSON object but {type(row.value).__name__}; write {{"messages": [...]}}')
    return row.value


def first_of(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of the keys that has a value."""
    return next((key for key in keys if record.get(key) is not None), None)


def question_of(record: Mapping[str, Any], key: str, where: str) -> Messages:
    """What is said before the answer: system, history, and `key` with its "input" below it."""
    prompt = record[key]
    if not isinstance(prompt, str):
        return said(prompt, "user", key, where)
    more = record.get("input") if key == "instruction" else None
    if more is not None and not isinstance(more, str):
        raise DataError(f"{where}: 'input' is {type(more).__name__}, not a string; write it as text")
    messages = []
    if system := record.get("system"):
        messages += said(system, "system", "system", where)
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise DataError(f"{where}: 'history' is no list of [question, answer]; mend or remove it")
    for question, answer in history:
        messages += said(question, "user", "history", where) + said(answer, "assistant", "history", where)
    return messages + said(f"{prompt}\n{more}" if more and more.strip() else prompt, "user", key, where)


def said(value: Any, role: str, key: str, where: str) -> Messages:
    """A text as one message of `role`; messages as they are."""
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"{where}: '{key}' is empty; fill it or leave the row out")
        return [{"role": role, "content": value}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: '{key}' is {type(value).__name__}; give a text or a list of messages")
    messages = messages_of(value, where)
    wrong = [
        message.get("role") for message in messages if (message.get("role") == "assistant") != (role == "assistant")
    ]
    if role == "assistant" and wrong:
        raise DataError(f"{where}: '{key}' has a message of the role {wrong[0]!r}; an answer is the assistant's alone")
    return messages


def messages_of(value: Any, where: str) -> Messages:
    """Messages of either spelling, {"role", "content"} or {"from", "value"}, as the former; unchecked but for that."""
    if isinstance(value, str):
        value = _parsed(value, where)
    if not isinstance(value, list):
        raise DataError(
            f'{where}: a conversation is a list of messages, not {type(value).__name__}; give [{{"role": ...}}]'
        )
    return [_message(message) for message in value]


def context_of(record: Mapping[str, Any], where: str) -> tuple[list[dict[str, Any]] | None, dict[str, Any]]:
    """The tools and the template's variables of a row; data sets often have tools as a text of JSON."""
    tools = record.get("tools")
    if isinstance(tools, str):
        tools = _parsed(tools, where) if tools.strip() else None
    try:
        return checked_tools(tools or None), checked_variables(record.get("chat_template_kwargs"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def check_messages(messages: Messages, where: str) -> Messages:
    """Known roles, contents that are text, no empty question; DataError names the row and the message."""
    checked = _checked(messages, where)
    if checked[0]["role"] == "assistant":
        raise DataError(f"{where}: message 1 is the assistant's, an answer to nothing; begin with a user's message")
    for number, message in enumerate(checked, 1):
        if message["role"] == "assistant":
            check_answer(message, f"{where}: message {number}")
        elif message["role"] == "user" and not text_of(message).strip():
            raise DataError(f"{where}: message {number} is a question without text; fill it or leave the row out")
    return checked


def check_answer(message: Mapping[str, Any], name: str) -> None:
    """Refuses an answer that says nothing and calls nothing."""
    if not text_of(message).strip() and not message.get("tool_calls"):
        raise DataError(f"{name} is an empty answer; fill it or leave the row out")
    if message.get("weight", 1) not in (0, 1):
        raise DataError(
            f"{name} has the weight {message['weight']!r}; give 1 to learn the answer, 0 to leave it unlearnt"
        )


def _check_answers(chat: Chat) -> None:
    check_messages(chat.messages, chat.where)
    if not chat.answers:
        raise DataError(f"{chat.where}: no answer of the assistant to learn; leave the row out")


def _is_answer(message: Mapping[str, Any]) -> bool:
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def _message(message: Any) -> Any:
    """ShareGPT's message as the usual one; anything else as it is."""
    if not isinstance(message, Mapping):
        return message
    found = {key: value for key, value in message.items() if value is not None}  # parquet fills rows up with null
    if "from" not in found or "role" in found:
        return found
    name, text = found.pop("from"), found.pop("value", None)
    role = ROLES.get(name, name) if isinstance(name, str) else name
    if name in CALLS and isinstance(text, str):
        try:
            calls = json.loads(text)
        except (ValueError, RecursionError):
            return {"role": role, "content": text, **found}
        calls = calls if isinstance(calls, list) else [calls]
        return {"role": role, "tool_calls": [{"type": "function", "function": call} for call in calls], **found}
    return {"role": role, "content": text, **found}


def _checked(messages: Messages, where: str) -> Messages:
    try:
        return checked_messages(messages)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: a text where a list was expected, and no JSON either; write it as a list") from error
