"""Hunyuan's own vocabulary, the file `hy.tiktoken` of a released model, through the library tiktoken.

    IQ== 0            a token's bytes in base64, and a number that nobody reads:
    Ig== 1            the id of a token is its place in the file

Hunyuan-Large has 127,957 such tokens, about 100K of GPT-4's and 28K for Chinese. Its 209 special tokens take the ids after
them, wherever the file ends, so that a smaller file works alike; Hunyuan-A13B has one more, <|extra_204|>. Text is first
brought to Unicode's composed form (NFC), then cut into words by GPT-4's pattern with every digit on its own. Within a word
the pair of tokens that makes the earliest token of the file is merged until no pair makes one. The release's loader passes
over a token that the file repeats, without giving the repetition an id, and so does this one.
"""

import base64
import binascii
import codecs
import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import DataError, MissingExtraError
from model.tokenizer.interface import encode_around_special, whole_characters

if TYPE_CHECKING:
    import numpy as np

TIKTOKEN_FILE = "hy.tiktoken"
EOS = "<|eos|>"
RANKS = 127_957  # tokens of text in the file of Hunyuan-Large
EXTRAS, A13B_EXTRAS = 204, 205
_NAMED = ("<|endoftext|>", "<|startoftext|>", "<|bos|>", EOS, "<|pad|>")
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The matcher of tiktoken panics, not raises, where it would have to look back over a million blanks in a row.
BLANKS_AT_ONCE = 900_000
LONG_BLANKS = re.compile(rf"\s{{{BLANKS_AT_ONCE}}}")


class TiktokenVocab:
    """Tokens in the order of their ids, the special ones after them, and the id that ends a text."""

    def __init__(self, tokens: Sequence[bytes], *, eos_name: str | None = None, extras: int = EXTRAS) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise MissingExtraError("tiktoken", "tiktoken", f"reading {TIKTOKEN_FILE}") from error
        ranks = {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}
        missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
        if missing is not None:
            raise DataError(
                f"it has no token for the byte {missing:#04x} alone, so that some text has no tokens: "
                "fetch the whole file again"
            )
        names = special_names(extras)
        self.special_tokens = {name: len(ranks) + place for place, name in enumerate(names)}
        self.vocab_size = len(ranks) + len(names)
        eos_name = EOS if eos_name is None else eos_name
        if eos_name not in self.special_tokens:
            raise DataError(f"it has no special token '{eos_name}' to end a text: set eos_token to '{EOS}'")
        self.eos_id = self.special_tokens[eos_name]
        self._tokens = list(ranks)
        digest = hashlib.sha256("\n".join((SPLIT_PATTERN, *names, eos_name)).encode())
        for token in self._tokens:
            digest.update(b"\n" + base64.b64encode(token))
        self.fingerprint = digest.hexdigest()
        self._backend = tiktoken.Encoding(
            "hunyuan", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    def encode(self, text: str) -> list[int]:
        return [id for part in _parts(text) for id in self._backend.encode_ordinary(part)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same as `encode` of each text, on all cores."""
        parts = [_parts(text) for text in texts]
        flat = [part for of_one in parts for part in of_one]
        encoded = iter(self._backend.encode_ordinary_batch(flat, num_threads=os.cpu_count() or 1))
        return [[id for _ in of_one for id in next(encoded)] for of_one in parts]

    def encode_with_special(self, text: str) -> list[int]:
        """The same as `encode`, but a name of a special token becomes that token."""
        return encode_around_special(text, self.special_tokens, self.encode)

    def encode_prompt(self, text: str) -> list[int]:
        """The same as `encode`: the release's tokenizer puts nothing around a text."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens, and ids beyond the vocabulary, give no text; broken UTF-8 gives U+FFFD."""
        return b"".join(map(self._bytes_of, ids)).decode("utf-8", errors="replace")

    def byte_lengths(self) -> "np.ndarray":
        """Bytes of text that each token id stands for (vocab_size,); special tokens have none."""
        import numpy as np

        lengths = np.zeros(self.vocab_size, np.int64)
        lengths[: len(self._tokens)] = [len(token) for token in self._tokens]
        return lengths

    def stream(self) -> "ByteStream":
        return ByteStream(self)

    def _bytes_of(self, token_id: int) -> bytes:
        return self._tokens[token_id] if 0 <= token_id < len(self._tokens) else b""


class ByteStream:
    """Text as its tokens arrive: a piece is handed out once its last character is complete."""

    def __init__(self, vocab: TiktokenVocab) -> None:
        self._bytes_of = vocab._bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is still open."""
        return self._decoder.decode(self._bytes_of(token_id))

    def finish(self) -> str:
        """What never became a whole character, as U+FFFD."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def special_names(extras: int) -> tuple[str, ...]:
    """The special tokens in the order of their ids, so many <|extra_N|> at the end."""
    return (*_NAMED, *(f"<|extra_{number}|>" for number in range(extras)))


def load_tiktoken_vocab(
    path: str | Path, *, eos_name: str | None = None, model_vocab_size: int | None = None, extras: int = EXTRAS
) -> TiktokenVocab:
    """A vocabulary file; `eos_name` is the special token that ends a text, `<|eos|>` where none is given.

    A model whose vocab_size is that of the file with 205 extra tokens, as Hunyuan-A13B's, has them all.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a {TIKTOKEN_FILE}") from error
    tokens = [
        _token(line, f"{path}, line {number}") for number, line in enumerate(content.split(b"\n"), 1) if line.strip()
    ]
    if not tokens:
        raise DataError(f"{path} is empty: fetch the whole file again")
    try:
        if model_vocab_size == len(set(tokens)) + len(special_names(A13B_EXTRAS)):
            extras = A13B_EXTRAS
        return TiktokenVocab(tokens, eos_name=eos_name, extras=extras)
    except DataError as error:
        raise DataError(f"{path} cannot be used: {error}") from error


def _token(line: bytes, name: str) -> bytes:
    columns = line.split()
    if len(columns) != 2:
        raise DataError(f"{name}: {len(columns)} columns, not a token in base64 and its rank: fetch the file again")
    try:
        token = base64.b64decode(columns[0], validate=True)
    except binascii.Error as error:
        raise DataError(f"{name}: the token is not base64 ({error}): fetch the file again") from error
    if not token:
        raise DataError(f"{name}: the token has no bytes: fetch the file again")
    return token


def _parts(text: str) -> list[str]:
    """The text as it is encoded, in as few pieces as tiktoken can take; nearly always one."""
    text = unicodedata.normalize("NFC", whole_characters(text))
    if len(text) < BLANKS_AT_ONCE:
        return [text]
    cuts = [0, *(match.end() for match in LONG_BLANKS.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]
