"""A conversation: whose turn it is, corrections of what was said, and a file to keep it in.

{"messages": [{"role": "system", "content": "..."}, {"role": "user", "content": "..."}, ...]}
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.files import read_json, write_json
from model.tokenizer.interface import whole_characters
from model.tokenizer.messages import checked_messages, text_of


@dataclass
class Conversation:
    """Messages in order: a system message or none, then the user's and the assistant's in turn."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else None
        return text_of(first) if first is not None and first["role"] == "system" else None

    def set_system(self, text: str) -> None:
        """Puts a system message first; an empty one takes it away."""
        said = self.messages[self.system is not None :]
        self.messages = ([_message("system", text)] if text else []) + said

    def ask(self, text: str) -> None:
        """The user's next message."""
        if not text.strip():
            raise DataError("there is nothing to answer: write a message")
        self.messages.append(_message("user", text))

    def answer(self, text: str) -> None:
        """The assistant's answer to it."""
        self.messages.append(_message("assistant", text))

    def undo(self) -> str:
        """Takes back the user's last message and all that came after it; returns it."""
        last = self._last_question()
        text = text_of(self.messages[last])
        del self.messages[last:]
        return text

    def edit(self, text: str) -> None:
        """Says something else in place of the user's last message; what came after it is gone."""
        if not text.strip():
            raise DataError("there is nothing to say instead: write the message after /edit")
        self.undo()
        self.ask(text)

    def _last_question(self) -> int:
        for index in reversed(range(len(self.messages))):
            if self.messages[index]["role"] == "user":
                return index
        raise DataError("nothing has been said yet: write a message first")

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        try:
            if path.is_dir():
                raise DataError(f"{path} is a folder: name a file for the conversation")
            write_json(path, {"messages": self.messages})
        except OSError as error:
            raise DataError(f"the conversation could not be saved to {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        try:
            document = read_json(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path} is not a conversation, a JSON document: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
            raise DataError(f'{path} is not a conversation: it must be {{"messages": [...]}}')
        if not document["messages"]:
            return cls()
        try:
            return cls(checked_messages(document["messages"]))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": whole_characters(text)}
