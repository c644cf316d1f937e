"""Examples in rows of one length, and the order in which a run reads them: functions of the seed and the place.

Rows are made once. Examples come in an order shuffled by the seed and go, a block of them at a time and the longest first, into
the fullest row that still has room; a row holds whole examples, of one source. Each has a document id of its own, so that no
example sees another (model/layers/documents.py). Every epoch reads all rows in an order of its own.

S sequence length; N tokens of all examples.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.data.order import Mixture
from model.data.permutation import mix, permute

BLOCK = 4096  # examples that are packed together: enough to fill rows, few enough for rows to be random
UNLEARNT = -100  # the label of a token that is not learnt


@dataclass(frozen=True)
class TokenTable:
    """Examples of token ids, one behind the other."""

    ids: np.ndarray  # (N,) int32
    learnt: np.ndarray  # (N,) bool
    starts: np.ndarray  # (examples + 1,) int64: where each begins, and the end of the last

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


class Rows(NamedTuple):
    """B rows of tokens: padding at the end, in a document of its own."""

    input_ids: np.ndarray  # (B, S) int64
    labels: np.ndarray  # (B, S) int64: the token that follows, or UNLEARNT
    document_ids: np.ndarray  # (B, S) int64, counting from 1; padding has 0

    @property
    def targets(self) -> int:
        return int((self.labels >= 0).sum())

    @property
    def tokens(self) -> int:
        return int((self.document_ids > 0).sum())


def pack(lengths: np.ndarray, capacity: int, seed: int) -> list[np.ndarray]:
    """The examples of each row, by their index; their lengths are at most `capacity`."""
    order = permute(np.arange(len(lengths)), len(lengths), mix(seed)) if len(lengths) else np.arange(0)
    rows: list[list[int]] = []
    for first in range(0, len(order), BLOCK):
        block = order[first : first + BLOCK]
        rows += _best_fit(block[np.argsort(-lengths[block], kind="stable")].tolist(), lengths, capacity)
    return [np.array(row) for row in rows]


def _best_fit(block: Sequence[int], lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Each example into the row with the least room that is enough for it (best-fit decreasing)."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for example in block:
        length = int(lengths[example])
        place = bisect.bisect_left(room, (length, -1))
        if place == len(room):
            rows.append([example])
            left, row = capacity - length, len(rows) - 1
        else:
            left, row = room.pop(place)
            rows[row].append(example)
            left -= length
        bisect.insort(room, (left, row))
    return rows


class PackedOrder:
    """Rows by their number in the run: `rows(start, count)` gives the same whatever was read before."""

    def __init__(
        self,
        table: TokenTable,
        groups: Sequence[np.ndarray],
        length: int,
        seed: int,
        pad_id: int,
        weights: Sequence[float] = (),
    ) -> None:
        """`groups` are examples by their index, `weights` the groups' shares of the rows; one group needs none."""
        assert len(groups) == max(1, len(weights)), "a weight for each group"
        self._table, self._length, self.pad_id, self._seed = table, length, pad_id, seed
        self._groups = [
            [members[row] for row in pack(table.lengths[members], length, int(mix(seed, 1, index)))]
            for index, members in enumerate(groups)
        ]
        self._mixture = Mixture(np.array(weights), mix(seed, 0)) if weights else None

    def __len__(self) -> int:
        """The rows of an epoch."""
        return sum(map(len, self._groups))

    @property
    def rows_by_source(self) -> list[int]:
        return [len(group) for group in self._groups]

    @property
    def fullness(self) -> float:
        """Share of the places in all rows that hold a token."""
        lengths = self._table.lengths
        return sum(int(lengths[row].sum()) for group in self._groups for row in group) / (len(self) * self._length)

    def rows(self, start: int, count: int) -> Rows:
        """The rows start .. start + count - 1 of the run."""
        members = [self._groups[source][row] for source, row in self._places(start, count)]
        return make_rows(self._table, members, self._length, self.pad_id)

    def _places(self, start: int, count: int) -> list[tuple[int, int]]:
        if self._mixture is None:
            source, cursor = np.zeros(count, np.int64), np.arange(start, start + count)
        else:
            source, cursor = self._mixture.draws(start, count)
        sizes = np.array(self.rows_by_source)[source]
        epoch, index = np.divmod(cursor, sizes)
        return [
            (int(group), int(permute(np.array(place), int(size), mix(self._seed, 2 + int(group), int(turn)))))
            for group, place, size, turn in zip(source, index, sizes, epoch, strict=True)
        ]


def make_rows(table: TokenTable, rows: Sequence[np.ndarray], length: int, pad_id: int) -> Rows:
    """The examples of each row side by side, (rows, length)."""
    shape = len(rows), length
    ids, labels, documents = np.full(shape, pad_id), np.full(shape, UNLEARNT), np.zeros(shape, np.int64)
    for row, members in enumerate(rows):
        end = 0
        for number, example in enumerate(members, start=1):
            begin, span = end, slice(int(table.starts[example]), int(table.starts[example + 1]))
            end += span.stop - span.start
            ids[row, begin:end] = table.ids[span]
            documents[row, begin:end] = number
            followers = np.where(table.learnt[span], table.ids[span], UNLEARNT)[1:]  # the first follows nothing
            labels[row, begin : end - 1] = followers
    return Rows(ids, labels, documents)


class ShuffledOrder:
    """The indices of n examples, each once an epoch, in an order of the seed."""

    def __init__(self, n: int, seed: int) -> None:
        self._n, self._seed = n, seed

    def indices(self, start: int, count: int) -> list[int]:
        """Those of the places start .. start + count - 1 of the run."""
        epoch, index = np.divmod(np.arange(start, start + count), self._n)
        return permute(index, self._n, mix(self._seed, epoch)).tolist()
