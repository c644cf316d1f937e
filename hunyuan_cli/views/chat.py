"""The turns of `hunyuan chat`: a line is a message or a command, an answer is shown as it comes."""

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunyuan_cli.console import printable, stderr
from hunyuan_cli.results import json_text
from hunyuan_cli.views.generation import show_stats, standard_input, stats_of
from model.errors import DataError, HunyuanError

if TYPE_CHECKING:
    from model.generation.conversation import Conversation
    from model.generation.defaults import TokenLimit
    from model.generation.engine import Engine
    from model.generation.sampling import Sampling

HELP = """\
/edit TEXT     say TEXT in place of your last message, and have it answered
/retry         another answer to your last message
/undo          take your last message and its answer back
/system TEXT   set the system message; without TEXT take it away
/history       show the conversation
/save FILE     keep the conversation in a file          /load FILE   go on with one
/clear         begin anew                               /quit        leave (also Ctrl-D)
Ctrl-C ends an answer early."""


def refuse_taken(file: Path, own: "set[Path]") -> None:
    """DataError where a conversation cannot be kept, or would take the place of another file than its own ones."""
    if not file.absolute().parent.is_dir():
        raise DataError(f"{file} cannot be written: there is no folder {file.parent}; check the path, or make it")
    if file.is_file() and file.resolve() not in own:
        raise DataError(f"{file} is there already: load it to go on with it, or name another file")


@dataclass
class ChatSession:
    """One conversation, at the keyboard or from a pipe."""

    engine: "Engine"
    conversation: "Conversation"
    sampling: "Sampling"
    limit: "TokenLimit"
    seed: int = 0
    stop: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)  # of the chat template
    save_to: Path | None = None
    files: set[Path] = field(default_factory=set)  # that the conversation is kept in, or was loaded from
    stats: bool = False
    _answers: int = 0  # given so far: every one has a seed of its own

    def run(self) -> None:
        """Reads lines until /quit or the end of standard input."""
        if standard_input().isatty():
            stderr("write a message; /help shows the commands, /quit leaves")
        while (line := _read_line()) is not None and line.strip() != "/quit":
            before = list(self.conversation.messages)
            try:
                self._obey(line) if line.startswith("/") else self._say(line)
            except (
                HunyuanError
            ) as error:  # what cannot be done or answered changes nothing, and the conversation goes on
                self.conversation.messages[:] = before
                stderr(f"error: {error}")
            if self.conversation.messages != before:
                self._keep()

    def _obey(self, line: str) -> None:
        name, _, text = line[1:].partition(" ")
        text = text.strip()
        match name:
            case "help":
                stderr(HELP)
            case "edit":
                self.conversation.edit(text)
                self._answer()
            case "retry":
                self.conversation.ask(self.conversation.undo())
                self._answer()
            case "undo":
                stderr(f"taken back: {self.conversation.undo()}")
            case "system":
                self.conversation.set_system(text)
            case "history":
                for message in self.conversation.messages:
                    stderr(f"{message['role']}: {_shown(message)}")
            case "save":
                file = _file(text, "save")
                refuse_taken(file, self.files)
                self._save(file)
                stderr(f"saved to {text}")
            case "load":
                file = _file(text, "load")
                self.conversation = self.conversation.load(file)
                self.files.add(file.resolve())
                stderr(f"{len(self.conversation.messages)} messages loaded from {text}")
            case "clear":
                self.conversation.messages.clear()
            case _:
                raise DataError(f"/{name} is not a command: /help shows them")

    def _say(self, line: str) -> None:
        if line.strip():
            self.conversation.ask(line)
            self._answer()

    def _answer(self) -> None:
        """Shows the assistant's next message as it comes; Ctrl-C ends it early."""
        from model.generation.generate import GenerationStats, generate_batch

        request = self.engine.reply(
            self.conversation.messages,
            variables=self.variables,
            max_new_tokens=self.limit.tokens,
            fit=True,
            seed=(self.seed + self._answers) % 2**63,
            stop=self.stop,
        )
        measured, said = GenerationStats(), ""
        try:
            for _, piece in generate_batch(
                self.engine.net, [request], sampling=self.sampling, session=self.engine.session, stats=measured
            ):
                sys.stdout.write(printable(piece))
                sys.stdout.flush()
                said += piece
        except KeyboardInterrupt:
            if not request.new_tokens:
                raise DataError("stopped before the answer began: the conversation is as it was") from None
            stderr(" (stopped)")
        sys.stdout.write("\n")
        sys.stdout.flush()
        self._answers += 1
        self.conversation.answer(said.strip())
        if self.stats:
            show_stats(stats_of(self.engine, measured, self.limit))

    def _keep(self) -> None:
        if self.save_to is not None:
            try:
                self._save(self.save_to)
            except HunyuanError as error:
                stderr(f"error: {error}")

    def _save(self, file: Path) -> None:
        self.conversation.save(file)
        self.files.add(file.resolve())


def _shown(message: dict[str, Any]) -> str:
    """What a message says, and the tools that it calls."""
    from model.tokenizer.messages import text_of

    calls = [json_text(call.get("function", call)) for call in message.get("tool_calls") or []]
    return "\n".join([*filter(None, [text_of(message)]), *calls])


def _file(text: str, command: str) -> Path:
    if not text:
        raise DataError(f"/{command} needs a file: /{command} talk.json")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who is not there
        raise DataError(f"there is no home folder for {text}: write the path out") from error


def _read_line() -> str | None:
    """The next line of standard input, None at its end; on a terminal with a prompt and a line editor."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    with suppress(ImportError):
        import readline  # noqa: F401  input() edits lines and remembers them where this is loaded
    try:
        return input("> ")
    except EOFError:
        return None
