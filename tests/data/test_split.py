"""Validation is chosen by content: stable, disjoint from training, and there for the smallest file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.split import Split, cut, is_validation, plan_split
from model.errors import DataError


def sides(texts, split):
    parts = [part for text in texts for part in split.parts(text)]
    return [text for held, text in parts if not held], [text for held, text in parts if held]


def test_share_follows_the_fraction_and_the_content_alone():
    texts = [f"document {i}" for i in range(4000)]
    held = {text for text in texts if is_validation(text, 0.1)}
    assert 0.08 < len(held) / len(texts) < 0.12
    assert held == {text for text in reversed(texts) if is_validation(text, 0.1)}
    assert {text for text in texts if is_validation(text, 0.05)} < held


def test_copies_of_a_document_are_on_one_side():
    texts = [f"document {i % 60}" for i in range(600)]
    train, validation = sides(texts, plan_split(texts, 0.2, "x"))
    assert train and validation
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 600


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_both_sides_have_a_document_whatever_the_fraction(fraction):
    texts = [f"document {i}" for i in range(50)]
    train, validation = sides(texts, plan_split(texts, fraction, "x"))
    assert train and validation


@given(text=st.text(), size=st.integers(1, 20))
def test_cut_loses_nothing(text, size):
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)


def test_cut_ends_at_lines_where_it_can():
    assert list(cut("aa\nbb\ncc\n" + "d" * 9 + "\ne", 6)) == ["aa\nbb\n", "cc\n", "dddddd", "ddd\ne"]


@pytest.mark.parametrize(
    "text",
    [
        "ab",
        "abc\n",
        "one line of text without an end",
        "".join(f"line {i} of a small file\n" for i in range(30)),
        "".join(f"line {i} of a larger file\n" for i in range(5000)),
        "the same line again\n" * 200,
        "hello " * 1000,
    ],
)
def test_a_single_file_is_held_back_in_pieces(text):
    split = plan_split([text], 0.02, "x")
    train, validation = sides([text], split)
    assert train and validation
    assert not set(train) & set(validation)
    assert sum(map(len, validation)) <= len(text) / 2
    assert sum(map(len, train)) + sum(map(len, validation)) == len(text)
    if len(set(text.splitlines())) > 20:
        assert sum(map(len, validation)) <= len(text) / 4
    if len(text) > 100_000:
        assert 0.002 < sum(map(len, validation)) / len(text) < 0.06
        assert max(map(len, train)) > 4096  # pieces that are kept stay together


@pytest.mark.parametrize("texts", [["a"], ["aa"], ["copy"] * 60])
def test_what_cannot_be_parted_is_one_sentence(texts):
    with pytest.raises(DataError, match="tiny is too short or repeats one text"):
        plan_split(texts, 0.02, "tiny")


def test_whole_documents_are_not_cut():
    assert list(Split(0.5).parts("a\n" * 9000)) == [(is_validation("a\n" * 9000, 0.5), "a\n" * 9000)]
