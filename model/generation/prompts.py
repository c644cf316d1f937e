"""Prompts from a file: a text each, or a conversation each.

prompts.txt      one prompt a line; empty lines are left out
prompts.jsonl    one JSON object a line: {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]},
                 with an "id" that comes back with the answer, and what goes to the chat template beside the messages:
                 "tools", and "chat_template_kwargs" such as {"enable_thinking": false}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.tokenizer.interface import whole_characters
from model.tokenizer.messages import checked_messages, checked_tools, checked_variables

Messages = Sequence[dict[str, Any]]
PROMPT_CHARS = 32  # of an opening
KEYS = ("id", "prompt", "messages", "tools", "chat_template_kwargs")


@dataclass(frozen=True)
class Prompt:
    """A text to continue, or messages to answer."""

    text: str = ""
    messages: Messages | None = None
    id: Any = None
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)  # of the chat template
    unknown: tuple[str, ...] = ()  # keys of the row that nothing is made of

    def to_dict(self) -> dict[str, Any]:
        given: dict[str, Any] = {} if self.id is None else {"id": self.id}
        given |= {"prompt": self.text} if self.messages is None else {"messages": list(self.messages)}
        given |= {} if self.tools is None else {"tools": self.tools}
        return given | ({"chat_template_kwargs": self.variables} if self.variables else {})


def opening(text: str) -> str:
    """The first words of a text, of one line, as a prompt that is easily typed; empty where no line will do."""
    for line in text.splitlines():
        line = " ".join(line.split())
        if len(line) < 2 or not line.isprintable() or line.startswith("-") or "\ufffd" in line:
            continue
        if len(line) <= PROMPT_CHARS:
            return line
        words = line[: PROMPT_CHARS + 1].rpartition(" ")[0]
        return words or line[: PROMPT_CHARS // 2]  # a script without spaces
    return ""


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
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise DataError(f"{where} has a prompt that is {type(row['prompt']).__name__}, not a string")
    try:
        if "messages" in row:
            checked_messages(row["messages"])
        return Prompt(
            row.get("prompt", ""),
            messages=row.get("messages"),
            id=row.get("id"),
            tools=checked_tools(row.get("tools")),
            variables=checked_variables(row.get("chat_template_kwargs")),
            unknown=tuple(key for key in row if key not in KEYS),
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
