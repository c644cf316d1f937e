"""Texts as sets of short runs of words, by which copies are found: a Chinese character, a kana or a Hangul syllable is a word.

words(text)           the words and signs of a text, in one spelling
runs(words, n)        its runs of n words, the whole text where it is shorter
hashes(words, n)      the same as 64-bit numbers, each once
jaccard(a, b)         runs in both texts / runs in either
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHARACTERS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W_{_CHARACTERS}]+")
_WORD_OR_SIGN = re.compile(rf"{_WORD.pattern}|[^\w\s]|_")
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # soft hyphens, and characters without width
_FACTOR = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
Hashes = NDArray[np.uint64]


def words(text: str, *, signs: bool = True) -> list[str]:
    """In lower case and one form of Unicode; with `signs` also punctuation and operators, each of them a word."""
    text = unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold()
    return (_WORD_OR_SIGN if signs else _WORD).findall(text)


def runs(found: Sequence[str], n: int) -> set[tuple[str, ...]]:
    if len(found) <= n:
        return {tuple(found)}
    return set(zip(*(found[start:] for start in range(n)), strict=False))


def jaccard(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def hashes(found: Sequence[str], n: int) -> Hashes:
    """Of every run of n words, sorted; of the whole text where it is shorter."""
    codes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in found], dtype=np.uint64)
    codes = _mixed(codes + np.uint64(1))
    length = min(n, len(codes))
    total = np.zeros(len(codes) - length + 1, dtype=np.uint64)
    for place in range(length):
        total = total * np.uint64(_FACTOR) + codes[place : len(codes) - length + place + 1]
    return np.unique(_mixed(total))


def _mixed(values: Hashes) -> Hashes:
    """A permutation of the 64-bit numbers in which every bit depends on all (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
