"""Chat templates: the messages of a conversation as the one text, and the token ids, that a model was trained on.

    [{"role": "user", "content": "Hi"}]  ->  "<|startoftext|>Hi<|extra_0|>"  ->  [127958, ..., 127962]

The names of special tokens that the template writes become those tokens. The same characters in what somebody said stay
ordinary text: before rendering, the first character of each name within a content is exchanged for a private-use
character that occurs nowhere else, so that no name is found there; the text between two tokens of the template gets its
characters back and is encoded in one go. The edges of a content are treated alike where they could complete a name
together with what stands beside them. A template that pieces a name together around a content, such as
`<|{{ content }}|>`, is taken at its word.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from model.errors import DataError
from model.tokenizer.interface import TextTokenizer, encode_around_special, special_pattern, whole_characters
from model.tokenizer.template_sandbox import BoundedTemplate

ROLES = ("system", "user", "assistant", "tool")
PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))

# A transcript for a model that brings no template. Its turns are told apart by ordinary words, which a user can write too.
PLAIN = """\
{% for message in messages %}
{{ message.role | capitalize }}: {{ message.content | trim }}
{% endfor %}
{% if add_generation_prompt %}
Assistant:{% endif %}"""
PLAIN_STOP_STRINGS = ("\nUser:",)  # where a model that goes on with the transcript has finished its own turn

Message = Mapping[str, str]


class ChatTemplate:
    """A Jinja template, and the names of special tokens (`bos_token`, `eos_token`, ...) that it may use as variables.

    `stop_strings` end an answer beside the end-of-text token; `name` is how errors call the template.
    """

    def __init__(
        self,
        source: str,
        special: Mapping[str, str] | None = None,
        *,
        stop_strings: Sequence[str] = (),
        name: str = "the chat template",
    ) -> None:
        self.source = source
        self.special = dict(special or {})
        self.stop_strings = tuple(stop_strings)
        self._template = BoundedTemplate(source, name)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as text; with the generation prompt, it ends where the assistant begins to speak."""
        return self._render(checked_messages(messages), add_generation_prompt)

    def encode(
        self, messages: Sequence[Message], tokenizer: TextTokenizer, *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The token ids of the conversation, special tokens where the template put them and nowhere else."""
        checked = checked_messages(messages)
        edges = _edges(tuple(tokenizer.special_tokens))
        stand_ins = self._stand_ins(checked, edges)
        marked = self._render(
            [{key: _marked(value, edges, stand_ins) for key, value in message.items()} for message in checked],
            add_generation_prompt,
        )
        back = {ord(stand_in): character for character, stand_in in stand_ins.items()}
        text, special = marked.translate(back), tokenizer.special_tokens
        places = [match.span() for match in edges.names.finditer(marked)]
        if places == [match.span() for match in edges.names.finditer(text)]:  # no content holds a name
            ids = tokenizer.encode_with_special(text)  # with whatever else the tokenizer does beside a special token
            found = frozenset(special.values()).intersection(ids)
            if [special[text[start:end]] for start, end in places] == [id for id in ids if id in found]:
                return ids
        return encode_around_special(marked, special, lambda piece: tokenizer.encode(piece.translate(back)))

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        variables: dict[str, Any] = {"tools": None, "documents": None, **self.special}
        return self._template.render(
            variables | {"messages": messages, "add_generation_prompt": add_generation_prompt},
        )

    def _stand_ins(self, messages: Iterable[Message], edges: "_Edges") -> dict[str, str]:
        """A character of its own, found in no text at hand, for each that begins or ends a name."""
        texts = (self.source, *self.special.values(), *(value for message in messages for value in message.values()))
        taken = edges.characters.union(*texts)
        free = (chr(code) for codes in PRIVATE_USE for code in codes if chr(code) not in taken)
        stand_ins = dict(zip(sorted(edges.characters), free, strict=False))
        if len(stand_ins) < len(edges.characters):
            raise DataError("the messages use up Unicode's private-use characters: leave some of them out")
        return stand_ins


def plain_template() -> ChatTemplate:
    """The transcript for models without a template: "User: ...", "Assistant: ...", a line each."""
    return ChatTemplate(PLAIN, stop_strings=PLAIN_STOP_STRINGS)


def checked_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as plain dictionaries of strings that UTF-8 can hold."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise DataError('a conversation is a list of messages: give [{"role": "user", "content": "..."}]')
    if not messages:
        raise DataError('the conversation has no message: give at least {"role": "user", "content": "..."}')
    return [_checked_message(message, f"message {number}") for number, message in enumerate(messages, 1)]


def _checked_message(message: Any, name: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise DataError(f'{name} is {type(message).__name__}: give {{"role": "user", "content": "..."}}')
    for key in ("role", "content"):
        if key not in message:
            raise DataError(f"{name} has no '{key}': give each message a role and a content")
    for key, value in message.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise DataError(
                f"{name}: '{key}' is {type(value).__name__}, not a string: write it as text, or leave it out"
            )
    if message["role"] not in ROLES:
        raise DataError(f"{name}: the role '{message['role']}' is not known: use {', '.join(ROLES)}")
    return {key: whole_characters(value) for key, value in message.items()}


class _Edges(NamedTuple):
    """The names of the special tokens, and their proper beginnings and ends, to look for in a content."""

    names: re.Pattern[str]
    starts: re.Pattern[str]  # the places where a name begins, also within another
    heads: frozenset[str]
    tails: frozenset[str]
    longest: int
    characters: frozenset[str]  # that begin or end a name


@lru_cache(maxsize=8)
def _edges(names: tuple[str, ...]) -> _Edges:
    names = tuple(filter(None, names))
    pattern = special_pattern(names)
    return _Edges(
        names=pattern,
        starts=re.compile(f"(?={pattern.pattern})"),
        heads=frozenset(name[:size] for name in names for size in range(1, len(name))),
        tails=frozenset(name[size:] for name in names for size in range(1, len(name))),
        longest=max(map(len, names), default=0),
        characters=frozenset(name[place] for name in names for place in (0, -1)),
    )


def _marked(content: str, edges: _Edges, stand_ins: Mapping[str, str]) -> str:
    """The content, as long as before, with one character of each name and each piece of a name at its ends exchanged."""
    characters = list(content)
    for place in (*(match.start() for match in edges.starts.finditer(content)), *_loose_ends(content, edges)):
        characters[place] = stand_ins[content[place]]
    return "".join(characters)


def _loose_ends(content: str, edges: _Edges) -> Iterator[int]:
    """Where text after the content could complete a name that it begins, and text before it one that it ends.

    Templates trim contents as often as not, so the ends count with and without the white space around them.
    """
    for last in {len(content), len(content.rstrip())}:
        for first in range(max(0, last - edges.longest), last):
            if content[first:last] in edges.heads:
                yield first
    for first in {0, len(content) - len(content.lstrip())}:
        for last in range(first + 1, min(len(content), first + edges.longest) + 1):
            if content[first:last] in edges.tails:
                yield last - 1
