"""ROUGE-L by the table of dynamic programming, and an index that finds what an exhaustive search finds."""

from random import Random

import pytest

from model.data.synthesis.evolution import entropy, expansions
from model.data.synthesis.similarity import OverlapIndex, common_length, rouge_l, words_of


def common_length_by_table(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        before = row[:]
        for j, y in enumerate(b, start=1):
            row[j] = before[j - 1] + 1 if x == y else max(before[j], row[j - 1])
    return row[-1]


@pytest.mark.parametrize("seed", range(30))
def test_the_common_subsequence_is_that_of_the_table(seed):
    random = Random(seed)
    a, b = (random.choices("abcd", k=random.randint(0, 90)) for _ in range(2))
    assert common_length(a, b) == common_length_by_table(a, b)


def test_rouge_l_of_known_pairs():
    assert rouge_l("police killed the gunman", "police kill the gunman") == 0.75  # Lin 2004, section 3
    assert rouge_l("police killed the gunman", "the gunman kill police") == 0.5
    assert rouge_l("", "x") == 0.0 == rouge_l("?!", "??")
    assert rouge_l("港口很安静", "港口不安静") == 0.8


@pytest.mark.parametrize("most", [0.5, 0.7, 0.9])
def test_the_index_finds_what_an_exhaustive_search_finds(most):
    random, index, kept = Random(1), OverlapIndex(most), []
    words = "sort the list of numbers words and give it in order again then count".split()
    decisions = set()
    for _ in range(300):
        text = " ".join(random.choices(words, k=random.randint(2, 12)))
        close = [score for other in kept if (score := rouge_l(text, other)) > most]
        assert bool(index.too_close(text)) == bool(close)
        decisions.add(bool(close))
        if not close:
            kept.append(text)
            index.add(text)
    assert decisions == {True, False}


def test_texts_of_one_origin_may_be_alike():
    index = OverlapIndex(0.7)
    index.add("Explain how a lock works", "a")
    assert index.too_close("Explain how a lock works", "a") == 0.0
    assert index.too_close("Explain how a lock works", "b") == 1.0


def test_words_of_chinese_are_its_characters():
    assert words_of("Zwei 港口, x_1") == ["zwei", "港", "口", "x", "1"]


def test_expansion_is_inverse_to_frequency_and_stops_at_the_largest_domain():
    counts = {"common": 900, "rare": 90, "rarest": 10}
    each = expansions(counts, 0.25)
    added = {domain: each[domain] * counts[domain] for domain in counts}
    assert (
        added["common"] == 0
        and added["rarest"] == 40
        and added["rare"] == pytest.approx(250 * (1 / 90) / (1 / 900 + 1 / 90 + 1 / 10))
    )
    after = {domain: counts[domain] + added[domain] for domain in counts}
    assert entropy(after) > entropy(counts)
    assert entropy({"a": 5, "b": 5, "c": 0}) == 1.0 and entropy({}) == 0.0
