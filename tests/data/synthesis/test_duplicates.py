"""Near duplicates against all pairs compared: none above the threshold stays, none below it goes."""

import itertools
import random

import pytest

from model.data.synthesis.duplicates import MINIMA, NearDuplicates, rows_of_a_band
from model.data.synthesis.shingles import hashes, jaccard, runs, words
from model.errors import HunyuanError


def found(texts, threshold, folder):
    index = NearDuplicates(folder, threshold)
    for text in texts:
        index.add(text)
    return index.find(texts.__getitem__)


def varied(seed: int, letters: list[str], separator: str) -> list[str]:
    """Texts, each with copies of which some words are others: the whole range of similarities."""
    draw = random.Random(seed)
    texts = []
    for _ in range(60):
        base = [draw.choice(letters) for _ in range(draw.randint(3, 120))]
        for changes in (0, *(draw.randint(0, 8) for _ in range(4))):
            copy = list(base)
            for _ in range(changes):
                copy[draw.randrange(len(copy))] = draw.choice(letters)
            texts.append(separator.join(copy))
    draw.shuffle(texts)
    return texts


ENGLISH = varied(1, [f"word{number}" for number in range(3000)], " ")
CHINESE = varied(2, [chr(0x4E00 + number) for number in range(3000)], "")


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_exactly_the_texts_above_the_threshold_are_removed(texts, threshold, tmp_path):
    originals, alike = found(texts, threshold, tmp_path)
    shingles = [runs(words(text), 5) for text in texts]
    above = missed = 0
    for second in range(len(texts)):
        near = {first for first in range(second) if jaccard(shingles[first], shingles[second]) >= threshold}
        stays = {first for first in near if originals[first] < 0}
        if originals[second] >= 0:
            assert originals[second] in stays
            assert alike[second] == pytest.approx(jaccard(shingles[originals[second]], shingles[second]))
        above += bool(stays)
        missed += bool(stays) and originals[second] < 0
    assert above > 20 and missed <= 0.01 * above
    assert not list(tmp_path.iterdir())


def test_a_chain_is_judged_by_what_stays(tmp_path):
    """Of a, b like a, and c like b but not like a, c stays when b has gone."""
    base = [f"w{number}" for number in range(60)]
    b, c = [*base[:-6], *(f"x{number}" for number in range(6))], [*(f"y{n}" for n in range(6)), *base[6:-6]]
    c += [f"x{number}" for number in range(6)]
    texts = [" ".join(each) for each in (base, b, c)]
    pairs = [jaccard(*(runs(words(text), 5) for text in pair)) for pair in itertools.combinations(texts, 2)]
    assert pairs[0] > 0.75 and pairs[2] > 0.75 > pairs[1]
    assert list(found(texts, 0.75, tmp_path)[0]) == [-1, 0, -1]


def test_numbers_and_signs_tell_short_texts_apart(tmp_path):
    texts = ["What is 3 + 4?", "What is 3 - 4?", "What is 3 + 5?", "what is  3 + 4 ?", "", "", "中", "中"]
    assert list(found(texts, 0.8, tmp_path)[0]) == [-1, -1, -1, 0, -1, 4, -1, 6]


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0])
def test_the_bands_miss_less_than_one_pair_in_a_thousand(threshold):
    rows = rows_of_a_band(threshold)
    assert (1 - threshold**rows) ** (MINIMA // rows) <= 0.001


def test_a_threshold_too_low_for_the_minima_is_refused():
    with pytest.raises(HunyuanError, match=r"0\.4 to 1"):
        rows_of_a_band(0.2)


def test_no_text_and_one_text(tmp_path):
    assert len(found([], 0.8, tmp_path)[0]) == 0
    assert list(found(["one"], 0.8, tmp_path)[0]) == [-1]


def test_words_and_their_hashes():
    assert words("The CAFÉ, 3+4\n中文x") == ["the", "café", ",", "3", "+", "4", "中", "文", "x"]
    assert words("a_b, c", signs=False) == ["a", "b", "c"]
    assert len(hashes(words("a b c d e f g"), 5)) == len(runs(words("a b c d e f g"), 5)) == 3
    assert hashes(["a", "b"], 2) != hashes(["b", "a"], 2)
    assert len(set(itertools.chain(*(hashes([str(n)], 5) for n in range(1000))))) == 1000
