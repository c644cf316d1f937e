"""ROUGE-L between instructions, and an index that finds an earlier one that is too much like a new one.

rouge_l(a, b) = 2 LCS / (words of a + words of b), Lin 2004; words in lower case, each Chinese character a word
"""

import re
from array import array
from collections import Counter

import numpy as np

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+", re.UNICODE)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def rouge_l(first: str, second: str) -> float:
    """The F1 measure, 0 where one has no word."""
    a, b = words_of(first), words_of(second)
    return 2 * common_length(a, b) / (len(a) + len(b)) if a and b else 0.0


def common_length(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence, a word of `a` a bit: Hyyrö's recurrence, one step a word of `b`."""
    places: dict[str, int] = {}
    for number, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << number
    whole = (1 << len(a)) - 1
    row = whole
    for word in b:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & whole
    return len(a) - row.bit_count()


class OverlapIndex:
    """The instructions that were kept so far."""

    def __init__(self, most: float) -> None:
        """`most` is the greatest ROUGE-L that two instructions may have."""
        self.most = most
        self._texts: list[list[str]] = []
        self._origins: list[str] = []
        self._lengths = array("l")
        self._having: dict[str, array[int]] = {}  # by word, the texts that have it, once for each occurrence

    def add(self, text: str, origin: str = "") -> None:
        words, number = words_of(text), len(self._texts)
        self._texts.append(words)
        self._origins.append(origin)
        self._lengths.append(len(words))
        for word in words:
            self._having.setdefault(word, array("l")).append(number)

    def too_close(self, text: str, origin: str = "") -> float:
        """The ROUGE-L to an earlier text of another origin, where it is over the limit; else 0.

        Words in common, in any order, are counted for all texts at once: their number bounds the longest common subsequence.
        """
        words = words_of(text)
        if not words or not self._texts:
            return 0.0
        shared = np.zeros(len(self._texts), dtype=np.int64)
        for word, count in Counter(words).items():
            if having := self._having.get(word):
                shared += np.minimum(np.bincount(np.frombuffer(having, dtype=np.int64), minlength=len(shared)), count)
        lengths = np.frombuffer(self._lengths, dtype=np.int64) + len(words)
        for number in np.flatnonzero(2 * shared > self.most * lengths):
            other = self._texts[number]
            score = 2 * common_length(words, other) / (len(words) + len(other))
            if score > self.most and not (origin and self._origins[number] == origin):
                return score
        return 0.0
