"""Samples of RULER's tasks: as long as asked, one answer, the depth that is recorded, the same again."""

import itertools
import re
from collections import Counter

import pytest

from model.errors import DataError
from model.evaluation.ruler import NAMES, TASKS, generate
from model.evaluation.ruler.aggregation import zeta_counts
from model.evaluation.ruler.generator import fill
from model.evaluation.ruler.words import ADJECTIVES, NOUNS
from model.tokenizer.bpe import train_tokenizer


class Letters:
    """A tokenizer of single characters, with one before each text."""

    def encode(self, text):
        return list(map(ord, text))

    def encode_prompt(self, text):
        return [1, *self.encode(text)]


@pytest.fixture(scope="module")
def tokenizer():
    """A small vocabulary of the texts themselves, so that the shortest lengths have room for all tasks."""
    return train_tokenizer([generate(task, Letters(), length=6000, index=7).prompt for task in TASKS], 2048)


def test_there_are_thirteen_tasks_with_the_names_of_the_scorer():
    assert len(TASKS) == 13 and tuple(TASKS) == NAMES


@pytest.mark.parametrize("length", [64, 100, 256, 777, 4096])
@pytest.mark.parametrize("task", TASKS)
def test_prompt_and_room_take_95_to_100_percent_of_the_length(task, length, tokenizer):
    sample = generate(task, tokenizer, length=length, index=3, seed=1)
    assert sample.tokens == len(tokenizer.encode_prompt(sample.prompt))
    assert 0.95 * length <= sample.tokens + sample.room <= length
    answer = len(tokenizer.encode(" " + ", ".join(sample.references)))
    assert answer < sample.room <= max(length // 8, answer + 2)


@pytest.mark.parametrize("task", TASKS)
def test_long_texts_are_as_long_and_hold_as_much_as_rulers(task):
    sample = generate(task, Letters(), length=100_000)
    assert 0.95 * 100_000 <= len(sample.prompt) + 1 + sample.room <= 100_000
    assert not sample.reduced and "terse" not in sample.items


@pytest.mark.parametrize("task", TASKS)
def test_the_work_is_in_proportion_to_the_length(task):
    """By characters encoded, for a machine may be busy."""

    def work(length):
        class Counting(Letters):
            total = 0

            def encode(self, text):
                Counting.total += len(text)
                return super().encode(text)

        generate(task, Counting(), length=length)
        return Counting.total

    assert all(work(length) < 5 * length for length in (20_000, 50_000, 200_000))


@pytest.mark.parametrize("length", [400, 3000])
@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("cwe", "fwe", "vt")])
def test_each_answer_stands_once_where_the_depth_says(task, length):
    for index in range(5):
        sample = generate(task, Letters(), length=length, index=index)
        text = sample.prompt.lower()
        assert [text.count(answer.lower()) for answer in sample.references] == [1] * len(sample.references)
        assert len(sample.depth) == (2 if task == "qa_2" else len(sample.references))
        start, end = text.find("\n") + 1, text.rfind("\n")
        places = sorted((text.find(answer.lower()) - start) / (end - start) for answer in sample.references)
        near = 160 / (end - start)  # padding, and what stands before an answer in its piece
        assert all(min(abs(place - depth) for depth in sample.depth) < near for place in places)


def test_depths_cover_the_text_evenly():
    samples = [generate("niah_single_2", Letters(), length=3000, index=index) for index in range(20)]
    tenths = Counter(int(10 * sample.depth[0]) for sample in samples)
    assert len(tenths) >= 9 and max(tenths.values()) <= 3
    four = generate("niah_multivalue", Letters(), length=6000)
    assert [round(b - a, 1) for a, b in itertools.pairwise(four.depth)] == pytest.approx([0.25] * 3, abs=0.06)


@pytest.mark.parametrize("task", ["niah_multikey_2", "niah_multikey_3"])
def test_keys_and_values_of_needles_differ(task):
    sample = generate(task, Letters(), length=5000)
    pairs = re.findall(r"The (?:number|code) of (\S+) is (\S+)\.", sample.prompt)
    words = [word for pair in pairs for word in pair]
    assert len(pairs) > 40 and len(set(words)) == len(words)


def test_a_key_of_several_is_asked_for():
    sample = generate("niah_multikey_1", Letters(), length=3000)
    needles = dict(re.findall(r"The number of (\S+) is (\d+)\.", sample.prompt))
    asked = re.search(r"What is the number of (\S+)\?", sample.prompt)
    assert len(needles) == 4 and sample.references == [needles[asked[1]]]


def test_multiquery_answers_in_the_order_of_the_question():
    sample = generate("niah_multiquery", Letters(), length=3000)
    needles = dict(re.findall(r"The number of (\S+) is (\d+)\.", sample.prompt))
    asked = re.search(r"numbers of (.*)\?", sample.prompt)[1].replace(" and ", ", ").split(", ")
    assert len(asked) == 4 and sample.references == [needles[key] for key in asked]


def test_variables_are_those_that_the_statements_say():
    sample = generate("vt", Letters(), length=3000)
    value = re.search(r"have the value (\d+)", sample.prompt)[1]
    known = {}
    for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", sample.prompt):
        known[name] = known.get(source, source)
    assert [name for name in known if known[name] == value] == sample.references
    assert len(sample.references) == 5


@pytest.mark.parametrize(("length", "often", "seldom"), [(3000, 6, 1), (40_000, 30, 3)])
def test_common_words_are_the_ten_most_frequent(length, often, seldom):
    sample = generate("cwe", Letters(), length=length)
    counts = Counter(re.findall(r"\d+\. ([a-z-]+)", sample.prompt))
    assert {word for word, _ in counts.most_common(10)} == set(sample.references)
    assert Counter(counts.values())[often] == 10 and set(counts.values()) == {often, seldom}
    assert not any(a != b and a in b for a in sample.references for b in counts)


@pytest.mark.parametrize("length", [300, 1000, 20_000])
def test_the_three_most_frequent_words_are_no_draw(length):
    sample = generate("fwe", Letters(), length=length)
    counts = Counter(sample.prompt.split("\n")[1].split())
    (dots, _), *ranked = counts.most_common()
    assert dots == "..." and [word for word, _ in ranked[:3]] == sample.references
    times = [count for _, count in ranked[:4]]
    assert times == sorted(set(times), reverse=True)


@pytest.mark.parametrize("total", [0, 1, 10, 40, 80, 5000])
def test_zeta_counts_differ_at_the_top(total):
    counts = zeta_counts(total, 3)
    assert counts == sorted(counts, reverse=True) and len(set(counts[:5])) == 5 and min(counts) >= 1
    if total == 5000:
        assert counts[:4] == [3040, 760, 338, 190]  # 5000 / zeta(2) / rank^2


@pytest.mark.parametrize("task", TASKS)
def test_the_sample_is_a_function_of_seed_task_length_and_index(task):
    samples = [
        generate(task, Letters(), length=length, index=index, seed=seed)
        for length, index, seed in ((1500, 2, 5), (1500, 2, 5), (1500, 3, 5), (1500, 2, 6), (1600, 2, 5))
    ]
    assert samples[0] == samples[1]
    assert len({sample.prompt for sample in samples}) == 4 and samples[0].id == f"{task}/1500/2"


@pytest.mark.parametrize("task", TASKS)
def test_the_length_that_a_refusal_names_does(task):
    with pytest.raises(DataError, match="does not fit into 20 tokens") as error:
        generate(task, Letters(), length=20)
    least = int(re.search(r"from ([\d,]+) on", str(error.value))[1].replace(",", ""))
    assert all(generate(task, Letters(), length=least, index=index).reduced for index in range(8))
    with pytest.raises(DataError, match="does not fit"):
        generate(task, Letters(), length=int(least / 1.4))


def test_one_index_asks_the_same_at_every_length():
    short, long = (generate("niah_multikey_1", Letters(), length=length, index=4) for length in (3000, 30_000))
    assert short.references == long.references
    assert short.depth == pytest.approx(long.depth, abs=0.03)


def test_reserved_tokens_stay_free():
    sample = generate("niah_single_2", Letters(), length=1000, reserved=100)
    assert 950 <= sample.tokens + sample.room + 100 <= 1000
    with pytest.raises(DataError, match="does not fit into 1,000 tokens"):
        generate("niah_single_2", Letters(), length=1000, reserved=950)


def test_an_unknown_task_is_a_sentence():
    with pytest.raises(DataError, match="no task 'niah'"):
        generate("niah", Letters(), length=100)


@pytest.mark.parametrize("budget", [10, 57, 1000, 123_456])
def test_filling_finds_the_largest_number_that_fits(budget):
    calls = []

    def size(count):
        calls.append(count)
        return 10 + 7 * count + count % 5

    best, found = fill(size, budget, 0)
    assert found == size(best)
    assert size(best) <= budget < size(best + 1) or size(best) == budget
    assert len(calls) < 16


def test_no_key_is_a_part_of_another():
    assert not any(a != b and b.endswith(a) for a, b in itertools.product(ADJECTIVES, repeat=2))
    assert not any(a != b and a in b for a, b in itertools.product(NOUNS, repeat=2))
    assert not set(ADJECTIVES) & set(NOUNS)
