"""Train and validation, told apart by content: the sha256 of a text alone decides its side.

So a document keeps its side when others come or go, and two copies of one text are never on both sides, nor in two
sources: there the first of them decides (corpus.py).
A source of fewer than 50 documents is first cut into pieces at line boundaries, and pieces are held back; the text
between two of them stays one document. At least one unit is held back and one kept, whatever the fraction.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from model.errors import DataError

MIN_DOCUMENTS = 50
PIECE_CHARS = 2048
SALTS = 64


def content_position(text: str, salt: int = 0) -> float:
    """A number in [0, 1), uniform over texts, that depends on nothing but the text (and the salt)."""
    digest = hashlib.sha256(bytes(salt) + text.encode()).digest()  # bytes(n): n zero bytes
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact as a float, and never rounded up to 1


def is_validation(text: str, fraction: float, salt: int = 0) -> bool:
    return content_position(text, salt) < fraction


def cut(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters that join to `text`, ending at line ends where lines are short enough."""
    piece: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        if length + len(line) > size and piece:
            yield "".join(piece)
            piece, length = [], 0
        while len(line) > size:
            yield line[:size]
            line = line[size:]
        piece.append(line)
        length += len(line)
    if length:
        yield "".join(piece)


@dataclass(frozen=True)
class Split:
    """How the documents of one source are parted: whole (piece_chars 0) or in pieces, at which position of the hash."""

    fraction: float
    piece_chars: int = 0
    salt: int = 0

    def parts(self, text: str) -> Iterator[tuple[bool, str]]:
        """(is validation, text): the document whole, or its runs of pieces of one side."""
        if not self.piece_chars:
            yield is_validation(text, self.fraction, self.salt), text
            return
        pieces = cut(text, self.piece_chars)
        for held_back, run in itertools.groupby(pieces, lambda piece: is_validation(piece, self.fraction, self.salt)):
            if held_back:
                yield from ((True, piece) for piece in run)
            else:
                yield False, "".join(run)


def plan_split(texts: Iterable[str], fraction: float, name: str) -> Split:
    """Reads every text once, keeping at most the first 49; `name` is the source, for the message."""
    first: list[str] = []
    count, lowest, highest = 0, 1.0, 0.0
    for text in texts:
        count += 1
        position = content_position(text)
        lowest, highest = min(lowest, position), max(highest, position)
        if count < MIN_DOCUMENTS:
            first.append(text)
        else:
            first.clear()
    if count < MIN_DOCUMENTS:
        return _plan_pieces(first, fraction, name)
    if lowest == highest:
        raise _too_uniform(name)
    return Split(_between(fraction, lowest, highest))


def _plan_pieces(texts: list[str], fraction: float, name: str) -> Split:
    total = sum(map(len, texts))
    # an eighth of a tiny source at most; where that gives equal pieces (one line again and again), three quarters
    for size in (min(PIECE_CHARS, max(1, total // 8)), max(1, total * 3 // 4)):
        pieces = [piece for text in texts for piece in cut(text, size)]
        for salt in range(SALTS):  # the first hash that does not hold back most of a repetitive text
            positions = [content_position(piece, salt) for piece in pieces]
            if min(positions) == max(positions):
                break
            threshold = _between(fraction, min(positions), max(positions))
            held_back = sum(
                len(piece) for piece, position in zip(pieces, positions, strict=True) if position < threshold
            )
            if held_back <= total * max(0.5, fraction):
                return Split(threshold, size, salt)
    raise _too_uniform(name)


def _between(fraction: float, lowest: float, highest: float) -> float:
    """The fraction, moved no further than needed for the lowest position to be below it and the highest not."""
    return min(max(fraction, lowest + 2**-48), highest)


def _too_uniform(name: str) -> DataError:
    return DataError(f"{name} is too short or repeats one text, so no part can be held back: give it more varied text")
