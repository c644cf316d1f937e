"""The order of training: which sequence of which source is drawn when, as a pure function of the draw's number.

    draw -> (source, cursor) by the mixture -> (epoch, index) -> sequence of the shard, by a keyed permutation

No state, so resuming at draw g is exact and costs nothing. Sequence j of a shard is tokens[j*S : j*S + S + 1]; S is the
sequence length, and the last token of one sequence is the first of the next, so every token but the first is a target.
Shuffling is a keyed permutation without a table (permutation.py), so an epoch visits each sequence once at any size.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np

from model.data.config import DataConfig
from model.data.corpus import Corpus
from model.data.permutation import mix, permute
from model.data.shards import TokenShard
from model.errors import DataError

BLOCK = 1000  # draws over which a mixture keeps its shares exactly


class Mixture:
    """Draws shared among sources: in every block of 1,000 each has its exact count, in an order shuffled by the seed.

    Counts are the shares rounded by largest remainder; a source with any weight gets at least one draw of a block.
    """

    def __init__(self, weights: np.ndarray, key: int | np.ndarray) -> None:
        self.counts = _apportion(np.asarray(weights, np.float64))  # (sources,)
        self._key = key
        self._block = lru_cache(2)(self._shuffled)  # neighbouring draws are of the same block
        self._source_of_slot = np.repeat(np.arange(len(self.counts)), self.counts)  # (BLOCK,)

    def drawn_before(self, draw: int) -> np.ndarray:
        """How many of the draws 0 .. draw - 1 fell on each source."""
        block, place = divmod(draw, BLOCK)
        return block * self.counts + np.bincount(self._block(block)[:place], minlength=len(self.counts))

    def draws(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each of `count` draws from `start` on, and how many draws that source had before it."""
        first_block, place = divmod(start, BLOCK)
        last_block = (start + count - 1) // BLOCK
        blocks = [self._block(block) for block in range(first_block, last_block + 1)]
        source = np.concatenate(blocks) if count else np.zeros(0, np.int64)
        cursor = np.empty(len(source), np.int64)
        for index, per_block in enumerate(self.counts):
            chosen = source == index
            cursor[chosen] = first_block * per_block + np.arange(chosen.sum())
        return source[place : place + count], cursor[place : place + count]

    def _shuffled(self, block: int) -> np.ndarray:
        return self._source_of_slot[permute(np.arange(BLOCK), BLOCK, mix(self._key, block))]


class Sampler:
    """The training sequences by draw number: `batch(start, count)` gives the same whatever was drawn before.

    From draw `anneal_start_draw` on the second mixture holds, and a source of both goes on where its cursor stood.
    A later stage of a run begins with `tokens_read` of each source, at the sequence after them, with a mixture of its own
    (model/training/pretraining.py says what another sequence length means).
    """

    def __init__(
        self,
        shards: Mapping[str, TokenShard],
        weights: Mapping[str, float],
        sequence_length: int,
        seed: int,
        anneal_weights: Mapping[str, float] | None = None,
        anneal_start_draw: int | None = None,
        *,
        tokens_read: np.ndarray | None = None,
        stage: int = 0,
    ) -> None:
        self._shards = list(shards.values())
        self._sequence_length = sequence_length
        self._seed = seed
        self._sequences = [(len(shard) - 1) // sequence_length for shard in self._shards]
        drawn = {name for shares in (weights, anneal_weights or {}) for name, share in shares.items() if share > 0}
        for name, shard, sequences in zip(shards, self._shards, self._sequences, strict=True):
            if sequences < 1 and name in drawn:
                raise DataError(
                    f"{name} has {len(shard)} training tokens and a sequence needs {sequence_length + 1}: "
                    "lower training.sequence_length or give more text"
                )
            if cuts(shard, sequence_length) and name in drawn:
                raise DataError(
                    f"{name} has documents of {shard.document_length:,} tokens and a sequence {sequence_length:,}, which must "
                    "be a multiple: a document that is cut has questions without an answer; set its length"
                )

        def mixture(shares: Mapping[str, float], phase: int) -> Mixture:
            return Mixture(np.array([shares.get(name, 0.0) for name in shards]), mix(seed, phase))

        self._main = mixture(weights, phase=2 * stage)
        self._anneal = mixture(weights if anneal_weights is None else anneal_weights, phase=2 * stage + 1)
        self._anneal_start = anneal_start_draw
        self._tokens_before = np.zeros(len(self._shards), np.int64) if tokens_read is None else tokens_read
        self._first_cursor = -(-self._tokens_before // sequence_length)  # (sources,)

    @classmethod
    def from_config(
        cls,
        config: DataConfig,
        corpus: Corpus,
        sequence_length: int,
        seed: int,
        anneal_start_draw: int | None = None,
        *,
        tokens_read: np.ndarray | None = None,
        stage: int = 0,
    ) -> "Sampler":
        weights, anneal_weights = config.weights_by_source({spec: len(shard) for spec, shard in corpus.train.items()})
        where = corpus.train, weights, sequence_length, seed, anneal_weights, anneal_start_draw
        return cls(*where, tokens_read=tokens_read, stage=stage)

    def tokens_after(self, draws: int) -> np.ndarray:
        """Tokens read of each source until `draws` draws were made, with those of the stages before, int64 (sources,)."""
        boundary = draws if self._anneal_start is None else min(draws, self._anneal_start)
        drawn = self._main.drawn_before(boundary) + self._anneal.drawn_before(draws - boundary)
        return np.where(drawn > 0, (self._first_cursor + drawn) * self._sequence_length, self._tokens_before)

    def batch(self, start: int, count: int) -> np.ndarray:
        """The sequences of draws start .. start + count - 1, int64 (count, sequence_length + 1).

        Tokens of a task that are not to be learnt are negative (tasks.unmasked).
        """
        source, cursor = self.draws(start, count)
        length = self._sequence_length
        sequences = np.empty((count, length + 1), np.int64)
        for index, shard in enumerate(self._shards):
            rows = np.flatnonzero(source == index)
            positions = length * self._sequence_index(index, cursor[rows])
            for row, position in zip(rows, positions, strict=True):
                sequences[row] = shard.tokens[position : position + length + 1]
        return sequences

    def draws(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The source (by position) and the cursor within it of each draw, over both phases."""
        boundary = start + count if self._anneal_start is None else self._anneal_start
        before = min(max(boundary - start, 0), count)  # draws of this call ahead of the annealing phase
        source, cursor = self._main.draws(start, before)
        cursor = cursor + self._first_cursor[source]
        if before == count:
            return source, cursor
        anneal_source, anneal_cursor = self._anneal.draws(start + before - boundary, count - before)
        first = self._first_cursor + self._main.drawn_before(boundary)
        anneal_cursor = anneal_cursor + first[anneal_source]
        return np.concatenate([source, anneal_source]), np.concatenate([cursor, anneal_cursor])

    def _sequence_index(self, source: int, cursor: np.ndarray) -> np.ndarray:
        """Which sequence of the shard a cursor stands for: every epoch has an order of its own."""
        epoch, index = np.divmod(cursor, self._sequences[source])
        return permute(index, self._sequences[source], mix(self._seed, 2 + source, epoch))


def validation_batches(
    shards: Mapping[str, TokenShard], sequence_length: int, batch_size: int, max_tokens: int
) -> Iterator[np.ndarray]:
    """Sequences spread evenly over each shard, in order, int64 (n, S + 1), the targets of a shard never twice.

    `max_tokens` is shared in proportion to the shards' sizes, at least one sequence each; a shard shorter than a
    sequence gives all it has as one. A task is left out whose documents a sequence would cut.
    """
    shards = {name: shard for name, shard in shards.items() if not cuts(shard, sequence_length)}
    total = sum(len(shard) for shard in shards.values())
    for shard in shards.values():
        length = min(sequence_length, len(shard) - 1)
        wanted = max(1, max_tokens * len(shard) // total // length)
        there = (len(shard) - 1) // length
        chosen = np.arange(min(there, wanted)) * there // min(there, wanted)
        for first in range(0, len(chosen), batch_size):
            index = chosen[first : first + batch_size] * length
            yield np.stack([shard.tokens[start : start + length + 1] for start in index]).astype(np.int64)


def cuts(shard: TokenShard, sequence_length: int) -> bool:
    """Whether sequences would cut the documents of a task, which then have questions without an answer."""
    return shard.document_length > 0 and sequence_length % shard.document_length > 0


def _apportion(weights: np.ndarray) -> np.ndarray:
    """BLOCK draws in proportion to the weights, as integers by largest remainder."""
    exact = BLOCK * weights / weights.sum()
    counts = np.floor(exact).astype(np.int64)
    remainder_order = np.argsort(counts - exact, kind="stable")
    counts[remainder_order[: BLOCK - counts.sum()]] += 1
    while (unseen := (counts == 0) & (weights > 0)).any():
        counts[np.argmax(unseen)] += 1
        counts[np.argmax(counts)] -= 1
    return counts
