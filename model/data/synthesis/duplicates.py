"""Near duplicates: every text is removed that is too much like an earlier one that stays, and no other.

Alike is the share of common runs of five words (Jaccard), which is computed exactly before anything is removed. MinHash
(Broder 1997) only proposes pairs: 128 minima a text, in bands of 2, 4 or 8; two texts are compared where all minima of a
band agree. The rows of a band are chosen so that a pair at the threshold is missed with a chance below 1 in 1000.

Memory: 29 bytes a text, and 32 more while bands are sorted (61 MB for 10^6 texts); the minima, 256 bytes a text, are on
the disk, and texts are read again when they are compared.
"""

import os
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.synthesis.shingles import hashes, jaccard, runs, words
from model.errors import ConfigError

RUN = 5  # words
MINIMA = 128
MISSED = 1e-3  # the greatest chance to miss a pair at the threshold
DOUBT = 0.2  # pairs whose estimate lies further below the threshold, five standard errors, are not computed
BUFFER, BANDS_AT_A_TIME = 1024, 4  # texts whose minima are in memory, and bands that are sorted after one reading
MOST_REMEMBERED = 200_000  # pairs that were found to be too different
FEW = 32  # minima of so many texts are read one by one, which is quicker than to map the file

_random = np.random.default_rng(0)
_FACTORS = _random.integers(0, 2**63, size=(MINIMA, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, size=(MINIMA, 1), dtype=np.uint64)


def rows_of_a_band(threshold: float) -> int:
    """The most rows, and so the fewest false pairs, with which a pair at the threshold is found."""
    for rows in (8, 4, 2):
        if (1 - threshold**rows) ** (MINIMA // rows) <= MISSED:
            return rows
    raise ConfigError([f"near duplicates cannot be found from a similarity of {threshold:g} on: give 0.4 to 1"])


def minima(text: list[str]) -> NDArray[np.uint16]:
    """The signature of a text's words, (MINIMA,): the last 16 bits of the smallest value of each hash over its runs."""
    found = hashes(text, RUN)
    smallest = np.full(MINIMA, np.iinfo(np.uint64).max)
    for start in range(0, len(found), 4096):
        values = _FACTORS * found[None, start : start + 4096] + _OFFSETS
        smallest = np.minimum(smallest, values.min(axis=1))
    return (smallest & np.uint64(0xFFFF)).astype(np.uint16)


class NearDuplicates:
    """Texts are added in their order; `find` says which to remove. `folder` takes the file of minima."""

    def __init__(self, folder: Path, threshold: float) -> None:
        self.threshold, self.rows = threshold, rows_of_a_band(threshold)
        self._path = folder / "minima.u16"
        self._file = self._path.open("wb")
        self._digests = array("Q")  # of whole texts: equal ones need no bands

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, text: str) -> None:
        found = words(text)
        digest = blake2b("\0".join(found).encode("utf-8", "replace"), digest_size=8).digest()
        self._digests.append(int.from_bytes(digest, "little"))
        self._file.write(minima(found).tobytes())

    def find(
        self, text_of: Callable[[int], str], advanced: Callable[[int], None] = lambda count: None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each text the earlier one that it repeats (-1 where it stays), and how alike the two are.

        `text_of(number)` gives an added text again; `advanced` is told how many texts were gone through, once a pass.
        """
        self._file.close()
        with self._path.open("rb") as self._minima:
            found = self._find(text_of, advanced)
        self._path.unlink()
        return found

    def _find(
        self, text_of: Callable[[int], str], advanced: Callable[[int], None]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        count = len(self)
        original = np.full(count, -1, dtype=np.int64)
        alike = np.zeros(count, dtype=np.float32)

        @lru_cache(maxsize=256)
        def shingles(number: int) -> set[tuple[str, ...]]:
            return runs(words(text_of(number)), RUN)

        def exact(first: int, second: int) -> float:
            return jaccard(shingles(first), shingles(second))

        different: set[tuple[int, int]] = set()
        buckets = _buckets(np.frombuffer(self._digests, dtype=np.uint64), np.arange(count))
        removed = -1
        while True:
            for members in buckets:
                self._within(members, exact, different, original, alike)
            # A text found to repeat one that is itself removed now has to be looked at again: texts are judged by those that
            # stay. In the order of their numbers the one that is repeated is settled first.
            for number in np.flatnonzero(original >= 0):
                if original[original[number]] >= 0:
                    original[number], alike[number] = -1, 0
            advanced(count)
            if removed == (removed := int((original >= 0).sum())):
                break
            buckets = self._band_buckets(original)
        return original, alike

    def _within(
        self,
        members: NDArray[np.int64],
        exact: Callable[[int, int], float],
        different: set[tuple[int, int]],
        original: NDArray[np.int64],
        alike: NDArray[np.float32],
    ) -> None:
        """Compares each member of a bucket with the earlier ones; those that repeat one are marked and left out."""
        members = members[original[members] < 0]
        signatures = self._signatures(members)
        while len(members) > 1:
            first, rest = int(members[0]), members[1:]
            agreeing = (signatures[1:] == signatures[0]).sum(axis=1)
            likely = rest[agreeing >= (self.threshold - DOUBT) * MINIMA]
            for number in likely.tolist():
                if (first, number) in different:
                    continue
                share = exact(first, number)
                if share >= self.threshold:
                    original[number], alike[number] = first, share
                elif len(different) < MOST_REMEMBERED:
                    different.add((first, number))
            if not len(likely):
                members, signatures = rest, signatures[1:]
                continue
            stays = original[rest] < 0
            members, signatures = rest[stays], signatures[1:][stays]

    def _signatures(self, members: NDArray[np.int64]) -> NDArray[np.uint16]:
        if len(members) <= FEW:
            rows = (os.pread(self._minima.fileno(), 2 * MINIMA, int(number) * 2 * MINIMA) for number in members)
            return np.frombuffer(b"".join(rows), dtype=np.uint16).reshape(-1, MINIMA)
        everything = np.memmap(self._path, dtype=np.uint16, mode="r").reshape(-1, MINIMA)
        return np.asarray(everything[members])

    def _band_buckets(self, original: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Texts that still stay and share a band, for one band after the other."""
        bands = MINIMA // self.rows
        for first in range(0, bands, BANDS_AT_A_TIME):
            alive = np.flatnonzero(original < 0)
            keys = self._keys(alive, range(first, min(first + BANDS_AT_A_TIME, bands)))
            for key in keys:
                yield from _buckets(key, alive)

    def _keys(self, alive: NDArray[np.int64], bands: range) -> NDArray[np.uint64]:
        """(bands, texts): the minima of a band as one number."""
        keys = np.zeros((len(bands), len(alive)), dtype=np.uint64)
        for start in range(0, len(alive), BUFFER):
            some = self._signatures(alive[start : start + BUFFER])
            for place, band in enumerate(bands):
                part = some[:, band * self.rows : (band + 1) * self.rows].astype(np.uint64)
                key = part[:, 0]
                for row in range(1, self.rows):
                    key = key * np.uint64(0x9E3779B97F4A7C15 if self.rows > 4 else 1 << 16) + part[:, row]
                keys[place, start : start + len(some)] = key
        return keys


def _buckets(keys: NDArray[np.uint64], members: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The members that have a key in common, in their order."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield members[order[start:end]]
