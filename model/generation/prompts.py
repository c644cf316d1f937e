"""Prompts from a file: a text each, or a conversation each.

prompts.txt      one prompt a line; empty lines are left out
prompts.jsonl    one JSON object a line: {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]},
                 with an "id" that comes back with the answer where there is one
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.tokenizer.interface import whole_characters

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """A text to continue, or messages to answer."""

    text: str = ""
    messages: Messages | None = None
    id: Any = None

    def to_dict(self) -> dict[str, Any]:
        given = {"prompt": self.text} if self.messages is None else {"messages": list(self.messages)}
        return given if self.id is None else {"id": self.id} | given


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a txt or jsonl file; DataError names the line that cannot be read."""
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise DataError(f"{path} is neither .txt nor .jsonl: give a file with a prompt a line, or an object a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON may hold U+2028 as it is
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    if path.suffix.lower() == ".txt":
        prompts = [Prompt(line) for line in lines if line.strip()]
    else:
        prompts = [_prompt(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise DataError(f"{path} holds no prompt: write one a line")
    return prompts


def _prompt(line: str, where: str) -> Prompt:
    try:
        # Through JSON and back: halves of characters become "?", also in an id, and NaN is refused.
        row = json.loads(whole_characters(json.dumps(json.loads(line), ensure_ascii=False, allow_nan=False)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): write one object a line") from error
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise DataError(f'{where} is not a prompt: write {{"prompt": "..."}} or {{"messages": [...]}}')
    if "prompt" in row:
        if not isinstance(row["prompt"], str):
            raise DataError(f"{where} has a prompt that is {type(row['prompt']).__name__}, not a string")
        return Prompt(row["prompt"], id=row.get("id"))
    return Prompt(messages=check_messages(row["messages"], where), id=row.get("id"))


def check_messages(messages: Any, where: str) -> list[dict[str, str]]:
    """The messages of a conversation, as chat_template.py wants them; DataError says where they are not."""
    from model.tokenizer.chat_template import checked_messages

    try:
        return checked_messages(messages)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
