"""What every tokenizer here can do, whatever file it came from, and the two rules about text that all of them share.

`bpe.Tokenizer` (tokenizer.json) and `tiktoken_vocab.TiktokenVocab` (hy.tiktoken) are both a TextTokenizer: code that
packs, generates or chats takes one and never asks which. Names of special tokens in a text are ordinary text to
`encode`, so no document can forge the end of one; only `encode_with_special` turns them into their tokens.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


class PieceStream(Protocol):
    """Text as its tokens arrive: a piece is handed out once its last character is complete."""

    def step(self, token_id: int, /) -> str: ...

    def finish(self) -> str: ...


class TextTokenizer(Protocol):
    """Text to token ids and back."""

    vocab_size: int  # rows an embedding needs: one more than the largest id
    eos_id: int  # what ends a text
    fingerprint: str  # equal for tokenizers that give the same ids
    special_tokens: dict[str, int]

    def encode(self, text: str, /) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str], /) -> list[list[int]]: ...

    def encode_with_special(self, text: str, /) -> list[int]: ...

    def encode_prompt(self, text: str, /) -> list[int]: ...  # with what the model was trained to see around a text

    def decode(self, ids: Sequence[int], /) -> str: ...

    def byte_lengths(self) -> "np.ndarray": ...

    def stream(self) -> PieceStream: ...


def whole_characters(text: str) -> str:
    """The text with each half of a surrogate pair as "?": such text has no UTF-8 bytes, so no tokens either."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


def special_pattern(names: Collection[str]) -> re.Pattern[str]:
    """Finds the names of special tokens in a text, the longest where several begin at one place."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def encode_around_special(text: str, special: Mapping[str, int], encode: Callable[[str], list[int]]) -> list[int]:
    """The names in `text` as their ids, and each stretch of text between two names through `encode`."""
    ids: list[int] = []
    start = 0
    for match in special_pattern(special).finditer(text):
        if match.start() > start:
            ids += encode(text[start : match.start()])
        ids.append(special[match.group()])
        start = match.end()
    return ids + encode(text[start:]) if start < len(text) else ids
