"""Retrieval that can be learnt: documents of any length whose answers stand earlier in the same document.

    key_value   "\\n key value" for every pair, strewn over a filler text; at the end "? key value" for some of the keys
    copy        a line of words somewhere in the filler; at the end "?" and the same words

A document is a pure function of the source's options, the tokenizer, its side and its number, so nothing is stored and every
document can be reached at once. Keys, values and words are words that the tokenizer has as one token, so lengths are exact and
the answer to a question is one token. Every key has one value and is asked for once.

Train and validation are disjoint by construction. Words have numbers; a key and its value, or the first two words of a copy,
are held out where the sum of their numbers is a multiple of m = 1 / validation_fraction, and only there: no pair and no copied
line of one side is ever one of the other. Knowing what was trained on is then no help in validation; looking back is.

L length of a document, N pairs, Q questions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.data.permutation import mix, permute
from model.data.task_source import TaskSource
from model.errors import DataError
from model.tokenizer.interface import TextTokenizer

FORMAT = 1  # of the documents: raise it where the same options would give others
FILLER = " The sky is wide and the road is long. We walk on, and then we walk back."
FEWEST_WORDS = 32  # of one token, which a tokenizer must have
PAIR_SHARE = 8  # tokens of a document for each pair, where their number is not given
COPY_SHARE = 4  # and for each word that is copied
TRAIN, VALIDATION = 0, 1
HELD_OUT = 16  # documents: thousands of answers, and few beside a text's in a validation loss


class TaskDocument(NamedTuple):
    ids: np.ndarray  # (L,) int64, the last one the end of text
    answers: np.ndarray  # (Q,) int64: places of the tokens that the document determines
    origins: np.ndarray  # (Q,) int64: places where the same token stood first


def unmasked(tokens: np.ndarray) -> np.ndarray:
    """Token ids of a shard: those that are not to be learnt are written as ~id, which is negative."""
    return np.where(tokens < 0, ~tokens, tokens)


def one_token_words(tokenizer: TextTokenizer) -> np.ndarray:
    """Ids of the tokens that are a space and two or more small letters, and are what such a word is encoded as."""
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    words = [token for token, text in enumerate(texts) if text[:1] == " " and len(text) > 2 and _small(text[1:])]
    encoded = tokenizer.encode_batch([texts[token] for token in words])
    return np.array([token for token, ids in zip(words, encoded, strict=True) if ids == [token]], np.int64)


def _small(text: str) -> bool:
    return text.isascii() and text.isalpha() and text.islower()


@dataclass(frozen=True)
class TaskMaker:
    """Documents of one source: `document(index)` for index 0, 1, ..."""

    source: TaskSource
    side: int  # TRAIN or VALIDATION
    classes: int  # m of the module's text
    words: np.ndarray  # (W,)
    filler: np.ndarray
    line: np.ndarray  # what begins a pair or the words to copy
    question: np.ndarray
    end: int

    @classmethod
    def of(cls, source: TaskSource, side: int, tokenizer: TextTokenizer, validation_fraction: float) -> "TaskMaker":
        """DataError where the tokenizer has too few words, or the length is too short."""
        words, classes = one_token_words(tokenizer), max(2, round(1 / validation_fraction))
        if len(words) < max(FEWEST_WORDS, 2 * classes):
            raise DataError(
                f"{source}: the tokenizer has {len(words)} words of one token, too few for keys and values: raise "
                "model.vocab_size, or set data.tokenizer to another"
            )
        filler, line, question = (np.array(tokenizer.encode(text), np.int64) for text in (FILLER, "\n", "?"))
        made = cls(source, side, classes, words, filler, line, question, tokenizer.eos_id)
        made._check()
        return made

    def document(self, index: int) -> TaskDocument:
        key = mix(self.source.seed, self.side, index)
        return self._key_value(key) if self.source.task == "key_value" else self._copy(key)

    @property
    def pairs(self) -> int:
        return self.source.pairs or max(
            1, self.source.questions, min(self.source.length // PAIR_SHARE, len(self.words))
        )

    @property
    def questions(self) -> int:
        return self.source.questions or self.pairs

    @property
    def copied(self) -> int:
        return self.source.words or max(2, min(self.source.length // COPY_SHARE, len(self.words)))

    def _check(self) -> None:
        if self.source.task == "key_value":
            most, used = self.pairs, self.pairs * (len(self.line) + 2) + self.questions * (len(self.question) + 2)
        else:
            most, used = self.copied, 2 * self.copied + len(self.line) + len(self.question)
        if most > len(self.words):
            what = "pairs" if self.source.task == "key_value" else "words"
            raise DataError(
                f"{self.source}: {most} different {what} of {len(self.words)} words of one token: lower {what}"
            )
        if used + 1 > self.source.length:
            raise DataError(f"{self.source} needs {used + 1} tokens: raise its length, or ask for less of it")
        if self.source.task == "copy" and most < 2:
            raise DataError(f"{self.source}: a copy has at least two words: raise words")

    def _value(self, word: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Numbers of words that go with `word` on this side, by a hash."""
        m = np.int64(self.classes)
        kind = np.zeros_like(word) if self.side == VALIDATION else 1 + (mix(key, 1) % np.uint64(m - 1)).astype(np.int64)
        first = (kind - word) % m
        choices = (len(self.words) - 1 - first) // m + 1
        return first + m * (mix(key, 2) % choices.astype(np.uint64)).astype(np.int64)

    def _key_value(self, key: np.ndarray) -> TaskDocument:
        n, q = self.pairs, self.questions
        keys = permute(np.arange(n), len(self.words), mix(key, 0))
        values = self._value(keys, mix(key, 1, np.arange(n)))
        asked = permute(np.arange(q), n, mix(key, 2))
        questions = self._lines(self.question, keys[asked], values[asked])
        pairs = self._lines(self.line, keys, values)
        room = self.source.length - 1 - questions.size - pairs.size  # tokens of filler
        gaps = np.sort(permute(np.arange(n), room + n, mix(key, 3))) - np.arange(n)  # tokens of filler before each pair
        places = gaps[:, None] + np.arange(pairs.size).reshape(pairs.shape)
        ids = self._strewn(places.ravel(), pairs.ravel(), room)
        answers = len(ids) + np.arange(1, q + 1) * questions.shape[1] - 1
        return TaskDocument(np.concatenate([ids, questions.ravel(), [self.end]]), answers, places[asked, -1])

    def _copy(self, key: np.ndarray) -> TaskDocument:
        n = self.copied
        first = permute(np.arange(1), len(self.words), mix(key, 0))
        second, turn = first, 0
        while second[0] == first[0]:
            second, turn = self._value(first, mix(key, 1, turn)), turn + 1
        rest = permute(np.arange(min(n + 2, len(self.words))), len(self.words), mix(key, 2))
        rest = rest[(rest != first[0]) & (rest != second[0])][: n - 2]
        words = self.words[np.concatenate([first, second, rest])]
        copied = np.concatenate([self.line, words])
        asked = np.concatenate([self.question, words])
        room = self.source.length - 1 - len(copied) - len(asked)
        start = int(mix(key, 3) % np.uint64(room + 1))
        ids = self._strewn(start + np.arange(len(copied)), copied, room)
        answers = len(ids) + len(self.question) + np.arange(n)
        origins = start + len(self.line) + np.arange(n)
        return TaskDocument(np.concatenate([ids, asked, [self.end]]), answers, origins)

    def _lines(self, begin: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(N, tokens of a line): what begins it, key, value."""
        words = np.stack([self.words[keys], self.words[values]], axis=1)
        return np.concatenate([np.broadcast_to(begin, (len(keys), len(begin))), words], axis=1)

    def _strewn(self, places: np.ndarray, tokens: np.ndarray, room: int) -> np.ndarray:
        """The tokens at their places, and `room` tokens of filler at the others."""
        ids, free = np.empty(room + len(tokens), np.int64), np.ones(room + len(tokens), np.bool_)
        ids[places], free[places] = tokens, False
        ids[free] = np.resize(self.filler, room) if room else 0
        return ids


class TaskTokens:
    """All documents of one side in a row, made where they are read: a slice is (n,) int64, ~id where it is not to be learnt.

    One token longer than the documents, so that the last of them has a target for its end as the others do.
    """

    def __init__(self, maker: TaskMaker, count: int) -> None:
        self.maker, self.count = maker, count

    def __len__(self) -> int:
        return self.count * self.maker.source.length + 1

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("the tokens of a task are read in a row")
        length = self.maker.source.length
        if start >= stop:
            return np.zeros(0, np.int64)
        first, last = start // length, (stop - 1) // length
        return np.concatenate([self._tokens(index) for index in range(first, last + 1)])[
            start - first * length : stop - first * length
        ]

    def _tokens(self, index: int) -> np.ndarray:
        document = self.maker.document(index)
        if self.maker.source.loss == "all":
            return document.ids
        learnt = np.zeros(len(document.ids), np.bool_)
        learnt[document.answers] = True
        return np.where(learnt, document.ids, ~document.ids)
