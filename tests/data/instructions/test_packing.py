"""Rows hold whole examples, each once an epoch, in an order of the seed that does not depend on what was read before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.instructions.packing import UNLEARNT, PackedOrder, ShuffledOrder, TokenTable, make_rows, pack

S = 12


def table_of(*lengths, learnt_from=1):
    """Examples of different tokens, learnt from their second token on."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(1, starts[-1] + 1, dtype=np.int32)
    learnt = np.concatenate([np.arange(length) >= learnt_from for length in lengths])
    return TokenTable(ids, learnt, starts)


TABLE = table_of(3, 5, 12, 2, 7, 4, 4, 9, 1, 6, 3, 3)


def order_of(seed=0, table=TABLE, weights=(), groups=None):
    return PackedOrder(table, groups or [np.arange(len(table))], S, seed, pad_id=0, weights=weights)


@given(st.lists(st.integers(1, S), min_size=1, max_size=60), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_example_is_in_one_row_and_none_is_too_long(lengths, seed):
    rows = pack(np.array(lengths), S, seed)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[example] for example in row) <= S for row in rows)
    full = sorted(sum(lengths[example] for example in row) for row in rows)
    assert len(full) < 2 or full[0] + full[1] > S  # or else the two would be one


def test_a_row_is_its_examples_side_by_side():
    ids, labels, documents = make_rows(TABLE, [np.array([0, 5]), np.arange(0)], S, pad_id=77)
    pad = [UNLEARNT] * 5
    assert ids[0].tolist() == [1, 2, 3, 30, 31, 32, 33, *[77] * 5]
    assert labels[0].tolist() == [2, 3, UNLEARNT, 31, 32, 33, UNLEARNT, *pad]  # nothing leads from one to another
    assert documents[0].tolist() == [1, 1, 1, 2, 2, 2, 2, *[0] * 5]
    assert (ids[1] == 77).all() and (labels[1] == UNLEARNT).all() and (documents[1] == 0).all()


def test_only_what_is_learnt_has_a_label():
    rows = make_rows(table_of(4, learnt_from=2), [np.array([0])], 5, pad_id=0)
    assert rows.labels.tolist() == [[UNLEARNT, 3, 4, UNLEARNT, UNLEARNT]]
    assert (rows.targets, rows.tokens) == (2, 4)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_has_every_example_once_and_epochs_differ(seed):
    order = order_of(seed)
    epochs = [order.rows(turn * len(order), len(order)) for turn in range(3)]
    for rows in epochs:
        assert sorted(rows.input_ids[rows.document_ids > 0].tolist()) == TABLE.ids.tolist()
    assert any((epochs[0].input_ids != other.input_ids).any() for other in epochs[1:])
    assert 0 < order.fullness == len(TABLE.ids) / (len(order) * S) <= 1


def test_the_order_is_a_function_of_seed_and_place():
    whole = order_of().rows(0, 20).input_ids
    again = np.concatenate([order_of().rows(start, 4).input_ids for start in range(0, 20, 4)])
    assert (whole == again).all()
    assert (whole != order_of(seed=1).rows(0, 20).input_ids).any()


def test_weights_are_shares_of_the_rows():
    groups = [np.arange(6), np.arange(6, 12)]
    order = order_of(weights=[3, 1], groups=groups)
    rows = order.rows(0, 1000)
    first = rows.input_ids[:, 0] <= TABLE.starts[6]
    assert first.sum() == 750
    assert (order.rows(100, 7).input_ids == rows.input_ids[100:107]).all()
    for row, of_first in zip(rows.input_ids, first, strict=True):  # a row is of one source
        assert ((row[row > 0] <= TABLE.starts[6]) == of_first).all()


def test_shuffled_indices_come_once_an_epoch():
    order = ShuffledOrder(7, seed=3)
    epochs = [order.indices(7 * turn, 7) for turn in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    assert order.indices(5, 6) == epochs[0][5:] + epochs[1][:4]
