"""Names of special tokens in what somebody said: masked for the tokenizer, and not for the chat template.

    masking = Masking(tokenizer.special_tokens, taken)    taken: every text at hand
    said = masking.mask("see <|eos|>")                    a str of the same length, with a stand-in for the name's first "<"
    "<|eos|>" in said, said.split("<|eos|>")              True, and two pieces, as of the text itself
    masking.unmask("<|bos|>" + said)                      the text again

A stand-in is a private-use character that is found in no text at hand. A text is masked where a name begins, and at its edges
where it could complete a name together with what stands beside it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from model.errors import DataError
from model.tokenizer.interface import special_pattern

PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Masking:
    """Stand-ins for the characters that begin or end the name of a special token."""

    def __init__(self, names: Iterable[str], texts: Iterable[str]) -> None:
        self._edges = _edges(tuple(names))
        self.names = self._edges.names
        taken = self._edges.characters.union(*texts)
        free = (chr(code) for codes in PRIVATE_USE for code in codes if chr(code) not in taken)
        self._stand_ins = dict(zip(sorted(self._edges.characters), free, strict=False))
        if len(self._stand_ins) < len(self._edges.characters):
            raise DataError("the messages use up Unicode's private-use characters: leave some of them out")
        self.back = {ord(stand_in): character for character, stand_in in self._stand_ins.items()}
        self._used = frozenset(self._stand_ins.values())

    def mask(self, value: Any) -> Any:
        """JSON data with every string masked, keys too; a string that needs no mask is the same object."""
        if isinstance(value, str):
            return self.tell(self._masked(value))
        if isinstance(value, list):
            return [self.mask(item) for item in value]
        if isinstance(value, dict):
            return {self.mask(key): self.mask(item) for key, item in value.items()}
        return value

    def unmask(self, text: str) -> str:
        return str.translate(text, self.back)

    def tell(self, value: Any) -> Any:
        """A string that holds stand-ins as one that answers as if it held none; anything else as it is."""
        if isinstance(value, str) and not value.isascii() and not self._used.isdisjoint(str.__iter__(value)):
            return _Masked(value, self.back)
        return value

    def _masked(self, text: str) -> str:
        places = {*(match.start() for match in self._edges.starts.finditer(text)), *_loose_ends(text, self._edges)}
        if not places:
            return text
        return "".join(self._stand_ins[letter] if place in places else letter for place, letter in enumerate(text))


class _Masked(str):
    """A text with stand-ins. What is asked of it is answered of the text without them, and its pieces keep theirs."""

    _back: Mapping[int, str]

    def __new__(cls, value: str, back: Mapping[int, str]) -> "_Masked":
        new = super().__new__(cls, str.__getitem__(value, slice(None)))
        new._back = back
        return new

    @property
    def _plain(self) -> str:
        return str.translate(self, self._back)

    def _piece(self, start: int, end: int) -> "_Masked":
        return _Masked(str.__getitem__(self, slice(start, end)), self._back)

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: Any) -> "_Masked":
        return _Masked(str.__getitem__(self, key), self._back)

    def __iter__(self) -> Iterator[str]:
        return (self._piece(place, place + 1) for place in range(len(self)))

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[str]:
        return self._cut(self._plain.split(_plain(sep), maxsplit), sep)

    def rsplit(self, sep: Any = None, maxsplit: Any = -1) -> list[str]:
        return self._cut(self._plain.rsplit(_plain(sep), maxsplit), sep)

    def _cut(self, pieces: list[str], sep: Any) -> list[str]:
        found: list[str] = []
        start, plain = 0, self._plain
        for piece in pieces:
            start = plain.index(piece, start)
            found.append(self._piece(start, start + len(piece)))
            start += len(piece) + len(sep or "")
        return found

    def splitlines(self, keepends: Any = False) -> list[str]:
        found: list[str] = []
        start = 0
        for line, whole in zip(self._plain.splitlines(keepends), self._plain.splitlines(True), strict=True):
            found.append(self._piece(start, start + len(line)))
            start += len(whole)
        return found

    def partition(self, sep: Any) -> tuple[str, str, str]:
        return self._parts(self._plain.partition(_plain(sep)))

    def rpartition(self, sep: Any) -> tuple[str, str, str]:
        return self._parts(self._plain.rpartition(_plain(sep)))

    def _parts(self, parts: tuple[str, str, str]) -> tuple[str, str, str]:
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        return self._piece(0, first), self._piece(first, second), self._piece(second, len(self))

    def strip(self, chars: Any = None) -> "_Masked":
        return self._piece(len(self) - len(self._plain.lstrip(_plain(chars))), len(self)).rstrip(chars)

    def lstrip(self, chars: Any = None) -> "_Masked":
        return self._piece(len(self) - len(self._plain.lstrip(_plain(chars))), len(self))

    def rstrip(self, chars: Any = None) -> "_Masked":
        return self._piece(0, len(self._plain.rstrip(_plain(chars))))

    def removeprefix(self, prefix: Any) -> "_Masked":
        return self._piece(len(self) - len(self._plain.removeprefix(_plain(prefix))), len(self))

    def removesuffix(self, suffix: Any) -> "_Masked":
        return self._piece(0, len(self._plain.removesuffix(_plain(suffix))))

    def replace(self, old: Any, new: Any, count: Any = -1) -> "_Masked":
        replaced = str.join(new, self.split(old, count)) if old else str.replace(self, old, new, count)
        return _Masked(replaced, self._back)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value._plain if isinstance(value, _Masked) else value


def _asked_of_the_text(name: str) -> Callable[..., Any]:
    method = getattr(str, name)
    return lambda self, *others: method(self._plain, *map(_plain, others))


def _written_anew(name: str) -> Callable[..., Any]:
    method = getattr(str, name)
    return lambda self: _Masked(method(self), self._back)


for _name in ("lower", "upper", "casefold", "swapcase", "title", "capitalize"):
    setattr(_Masked, _name, _written_anew(_name))
for _name in (
    *("__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count"),
    *(name for name in dir(str) if name.startswith("is")),
):
    setattr(_Masked, _name, _asked_of_the_text(_name))


class _Edges(NamedTuple):
    """The names of the special tokens, and their proper beginnings and ends, to look for in a text."""

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


def _loose_ends(text: str, edges: _Edges) -> Iterator[int]:
    """Where what comes after the text could complete a name that it begins, and what comes before it one that it ends.

    Templates trim texts as often as not, so the ends count with and without the white space around them.
    """
    for last in {len(text), len(text.rstrip())}:
        for first in range(max(0, last - edges.longest), last):
            if text[first:last] in edges.heads:
                yield first
    for first in {0, len(text) - len(text.lstrip())}:
        for last in range(first + 1, min(len(text), first + edges.longest) + 1):
            if text[first:last] in edges.tails:
                yield last - 1
