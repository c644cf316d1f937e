"""Byte-level BPE: text to token ids and back, without loss for any text.

The alphabet is the 256 bytes, so nothing is ever unknown, and text is first cut into words by the pattern of GPT-2
(Radford et al. 2019): with 2,048 tokens it packs 3.08 bytes of Python into each, where GPT-4's pattern packs 3.04.
One special token, `<|endoftext|>`, ends each document. It never comes from text: a document that holds those characters
literally is encoded as the ordinary bytes that they are, so text can neither forge an end nor be changed by one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.errors import DataError
from model.tokenizer.interface import whole_characters

if TYPE_CHECKING:
    import numpy as np

END_OF_TEXT = "<|endoftext|>"
EOS_NAMES = (END_OF_TEXT, "</s>", "<|eos|>", "<|end_of_text|>", "<eos>")
MIN_VOCAB_SIZE = 257  # the 256 bytes and the end of text


class Tokenizer:
    """A `tokenizers.Tokenizer` with the end-of-text id, adding nothing to the text and cutting nothing off it.

    Texts end with `eos_name`, or a usual name, or the token `eos_id`, whichever is there first.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, eos_name: str | None = None, eos_id: int | None = None
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        content = backend.to_str()
        backend.encode_special_tokens = True  # literal "<|endoftext|>" in text is text
        self._backend = backend
        ids = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(ids.values(), default=-1)  # rows an embedding needs, also where ids have gaps
        usual_eos = next((name for name in EOS_NAMES if name in ids), None)
        by_id = None if eos_id is None else backend.id_to_token(eos_id)
        eos = next((name for name in (eos_name, usual_eos, by_id) if name is not None), None)
        if eos is None:
            raise DataError(f"it has no end-of-text token: add one of {', '.join(EOS_NAMES)} to it")
        if eos not in ids:
            raise DataError(f"it has no token '{eos}' to end a text: set eos_token to one that it has")
        self.eos_id: int = ids[eos]
        self.fingerprint = hashlib.sha256((content + (eos if eos != usual_eos else "")).encode()).hexdigest()
        added = backend.get_added_tokens_decoder().items()
        self.special_tokens = {token.content: id for id, token in added if token.special}

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(whole_characters(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same as `encode` of each text, on all cores."""
        texts = [whole_characters(text) for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_special(self, text: str) -> list[int]:
        """The same as `encode`, but a name of a special token becomes that token."""
        return self._finding_special.encode(whole_characters(text), add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """The same as `encode`, with what the file's post-processor puts around a text, such as a token that begins it."""
        return self._backend.encode(whole_characters(text), add_special_tokens=True).ids

    @cached_property
    def _finding_special(self) -> tokenizers.Tokenizer:
        """A second backend: whether names are found is a setting of the whole, and another thread may be encoding."""
        return tokenizers.Tokenizer.from_str(self.to_json())

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens, and ids beyond the vocabulary, give no text; broken UTF-8 gives U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens=True)

    def byte_lengths(self) -> "np.ndarray":
        """Bytes of text that each token id stands for (vocab_size,); special tokens and gaps have none."""
        import numpy as np  # here: commands that only read settings come through this module

        lengths = np.zeros(self.vocab_size, np.int64)
        special = set(self.special_tokens.values())
        byte_level = isinstance(self._backend.decoder, decoders.ByteLevel)  # there a character stands for a byte
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            if id not in special:
                lengths[id] = len(token) if byte_level else len(self.decode([id]).encode())
        return lengths

    def stream(self) -> "TextStream":
        return TextStream(self._backend)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        return self._backend.to_str()


class TextStream:
    """Text as its tokens arrive: a piece is handed out once its last character is complete."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._decoder = decoders.DecodeStream(skip_special_tokens=True)
        self._pending: list[int] = []

    def step(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is still open."""
        self._pending.append(token_id)
        piece = self._decoder.step(self._backend, token_id)
        if piece is None:
            return ""
        self._pending.clear()
        return piece

    def finish(self) -> str:
        """What never became a whole character, as U+FFFD."""
        rest = self._backend.decode(self._pending, skip_special_tokens=True)
        self._pending.clear()
        return rest


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The same texts in the same order give the same tokenizer; few texts give fewer than `vocab_size` tokens."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise DataError(
            f"model.vocab_size is {vocab_size}: a byte-level tokenizer needs at least {MIN_VOCAB_SIZE}, "
            "the 256 bytes and the end of text"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def load_tokenizer(path: str | Path, *, eos_name: str | None = None, eos_id: int | None = None) -> Tokenizer:
    """An existing tokenizer.json, of this project or of Hugging Face; what ends its texts is as in Tokenizer."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a tokenizer.json") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a tokenizer.json: it is not UTF-8 text") from error
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises Exception itself
        raise DataError(
            f"{path} is not a tokenizer.json ({error}): give a file saved by the tokenizers library"
        ) from error
    try:
        return Tokenizer(backend, eos_name=eos_name, eos_id=eos_id)
    except DataError as error:
        raise DataError(f"{path} cannot be used: {error}") from error
