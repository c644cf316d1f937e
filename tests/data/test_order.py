"""The order of training is a pure function of the draw: exact shares, whole epochs, no jump at the annealing phase."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.data.order import BLOCK, Mixture, Sampler, validation_batches
from model.data.permutation import mix, permute
from model.data.shards import TokenShard
from model.errors import DataError

S = 4


def shard(sequences, first=0):
    """A shard whose sequence j starts with the token first + j * S."""
    tokens = np.arange(first, first + sequences * S + 1, dtype=np.uint32)
    return TokenShard(tokens, 1, len(tokens), "")


def sampler(**options):
    shards = {"a": shard(700), "b": shard(37, first=100_000), "c": shard(5, first=200_000)}
    return Sampler(shards, **{"weights": {"a": 6, "b": 3, "c": 1}, "sequence_length": S, "seed": 1, **options})


@settings(deadline=None)
@given(
    n=st.one_of(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 97, 1000]), st.integers(1, 3000)), key=st.integers(0, 2**64 - 1)
)
def test_permute_is_a_bijection(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


def test_permute_of_single_indices_equals_the_whole_and_reaches_far():
    whole = permute(np.arange(101), 101, 5)
    assert [int(permute(np.array(i), 101, 5)) for i in range(101)] == whole.tolist()
    n = 10**12
    far = permute(np.arange(n - 1000, n), n, 5)
    assert far.min() >= 0 and far.max() < n and len(set(far.tolist())) == 1000
    assert 0.4 < far.mean() / n < 0.6


def test_permutations_of_different_keys_are_all_there_and_even():
    counts = {}
    for key in range(2400):
        order = tuple(permute(np.arange(4), 4, mix(7, key)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert min(counts.values()) > 60 and max(counts.values()) < 150


def test_keys_broadcast():
    keys = mix(3, np.array([0, 1, 2]))
    assert permute(np.full(3, 9), 50, keys).tolist() == [int(permute(np.array(9), 50, key)) for key in keys]


def test_shares_of_a_block_are_exact():
    mixture = Mixture(np.array([0.5, 0.333, 0.1665, 0.0005, 0.0]), key=1)
    assert mixture.counts.tolist() == [499, 333, 167, 1, 0]  # 166.5 and 0.5: one by remainder, one as its only draw
    source, _ = mixture.draws(2 * BLOCK, BLOCK)
    assert np.bincount(source, minlength=5).tolist() == mixture.counts.tolist()
    assert source.tolist() != sorted(source)
    assert source.tolist() != mixture.draws(3 * BLOCK, BLOCK)[0].tolist()


@given(draw=st.integers(0, 5 * BLOCK))
@settings(max_examples=20, deadline=None)
def test_drawn_before_counts_the_draws(draw):
    mixture = Mixture(np.array([5.0, 2.0, 1.0]), key=3)
    source, cursor = mixture.draws(0, 5 * BLOCK + 1)
    assert mixture.drawn_before(draw).tolist() == np.bincount(source[:draw], minlength=3).tolist()
    assert cursor[draw] == mixture.drawn_before(draw)[source[draw]]


@given(cuts=st.lists(st.integers(0, 2500), max_size=6), start=st.integers(0, 3000))
@settings(max_examples=20, deadline=None)
def test_batches_do_not_depend_on_how_they_are_cut(cuts, start):
    order = sampler(anneal_weights={"b": 1, "c": 1}, anneal_start_draw=1234)
    edges = [0, *sorted(cuts), 2500]
    pieces = [order.batch(start + low, high - low) for low, high in itertools.pairwise(edges)]
    assert np.array_equal(
        np.concatenate(pieces), sampler(anneal_weights={"b": 1, "c": 1}, anneal_start_draw=1234).batch(start, 2500)
    )


def test_batch_holds_whole_sequences():
    batch = sampler().batch(0, 10)
    assert batch.dtype == np.int64 and batch.shape == (10, S + 1)
    assert np.array_equal(batch, batch[:, :1] + np.arange(S + 1))
    assert not np.any(batch[:, 0] % S)


def test_every_epoch_visits_each_sequence_once_in_an_order_of_its_own():
    first_tokens = sampler().batch(0, 4000)[:, 0]
    for low, sequences in ((0, 700), (100_000, 37), (200_000, 5)):
        visits = first_tokens[(first_tokens >= low) & (first_tokens < low + 100_000)]
        epochs = [visits[i : i + sequences] for i in range(0, len(visits) - sequences + 1, sequences)]
        assert len(epochs) >= 2
        everything = low + S * np.arange(sequences)
        assert all(np.array_equal(np.sort(epoch), everything) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
        assert not np.array_equal(epochs[0], everything) or sequences < 6


def test_seeds_give_different_orders():
    assert not np.array_equal(sampler(seed=1).batch(0, 50), sampler(seed=2).batch(0, 50))
    assert not np.array_equal(sampler(seed=1).draws(0, 50)[0], sampler(seed=2).draws(0, 50)[0])
    assert np.array_equal(sampler(seed=-1).batch(0, 50), sampler(seed=-1).batch(0, 50))


def test_annealing_changes_the_mixture_and_goes_on_at_the_cursor():
    order = sampler(anneal_weights={"b": 1, "c": 3}, anneal_start_draw=1300)
    source, cursor = order.draws(0, 3300)
    plain_source, plain_cursor = sampler().draws(0, 1300)
    assert np.array_equal(source[:1300], plain_source) and np.array_equal(cursor[:1300], plain_cursor)
    assert np.bincount(source[1300:2300], minlength=3).tolist() == [0, 250, 750]
    for index in range(3):
        visits = cursor[source == index]
        assert np.array_equal(visits, np.arange(len(visits)))  # no gap and no repetition at draw 1300


def test_annealing_from_the_first_draw():
    source, _ = sampler(anneal_weights={"c": 1}, anneal_start_draw=0).draws(0, 50)
    assert set(source.tolist()) == {2}


def test_a_shard_shorter_than_a_sequence_is_one_sentence():
    message = r"^b has 5 training tokens and a sequence needs 9: lower training\.sequence_length or give more text$"
    with pytest.raises(DataError, match=message):
        Sampler({"a": shard(9), "b": shard(1)}, {"a": 1, "b": 1}, sequence_length=8, seed=0)


def test_validation_is_in_order_without_overlap():
    batches = list(validation_batches({"a": shard(7)}, S, batch_size=3, max_tokens=10**9))
    assert [batch.shape for batch in batches] == [(3, S + 1), (3, S + 1), (1, S + 1)]
    assert np.array_equal(np.concatenate(batches)[:, 1:].ravel(), np.arange(1, 7 * S + 1))
    assert batches[0].dtype == np.int64


def test_validation_budget_is_shared_and_short_shards_give_one_sequence():
    shards = {"a": shard(90), "b": shard(10, first=1000), "c": TokenShard(np.array([7, 8, 9], np.uint16), 1, 2, "")}
    batches = list(validation_batches(shards, S, batch_size=100, max_tokens=40 * S))
    assert [batch.shape for batch in batches] == [(35, S + 1), (4, S + 1), (1, 3)]
    assert batches[2].tolist() == [[7, 8, 9]]
    assert [len(batch) for batch in validation_batches(shards, S, batch_size=100, max_tokens=1)] == [1, 1, 1]


def test_sampler_of_a_run_draws_in_proportion_to_tokens(tmp_path):
    for name, lines in (("a", 600), ("b", 200)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i} {i * i}\n" for i in range(lines)))
    config = DataConfig(sources=(str(tmp_path / "a.txt"), str(tmp_path / "b.txt")), cache_dir=str(tmp_path / "cache"))
    corpus = prepare_corpus(config, 300)
    sizes = [len(shard) for shard in corpus.train.values()]
    source, _ = Sampler.from_config(config, corpus, sequence_length=16, seed=0).draws(0, BLOCK)
    assert np.mean(source == 0) == pytest.approx(sizes[0] / sum(sizes), abs=1e-3)


def test_validation_sequences_are_spread_over_the_whole_shard():
    (batch,) = validation_batches({"a": shard(90)}, S, batch_size=100, max_tokens=9 * S)
    assert (batch[:, 0] // S).tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_a_later_stage_goes_on_at_the_same_length_and_at_another_reads_again_what_share_was_read():
    """What model.training.pretraining.samplers says of text that several stages read."""
    shards = {"a": shard(2400)}
    first = Sampler(shards, {"a": 1.0}, S, 7)
    read = set(first.batch(0, 1200)[:, :-1].flat)
    assert len(read) == 1200 * S

    def later(length):
        return Sampler(shards, {"a": 1.0}, length, 7, tokens_read=first.tokens_after(1200), stage=1)

    assert not read.intersection(later(S).batch(0, 1200)[:, :-1].flat)
    again = later(4 * S).batch(0, 300)[:, :-1]
    assert len(set(again.flat)) == again.size
    assert sum(token in read for token in again.flat) / again.size == pytest.approx(0.5, abs=0.05)
