"""Generated tasks: what a document holds, that it follows from its number, and that no held-out answer is ever trained on."""

import random

import numpy as np
import pytest

from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.data.order import Sampler, validation_batches
from model.data.task_source import TaskSource
from model.data.tasks import TRAIN, VALIDATION, TaskMaker, TaskTokens, one_token_words, unmasked
from model.errors import ConfigError, DataError
from model.evaluation.ruler.words import NOUNS
from model.tokenizer.bpe import train_tokenizer

WORDS = NOUNS[:120]


@pytest.fixture(scope="module")
def tokenizer():
    draw = random.Random(0)
    return train_tokenizer([" ".join(draw.choices(WORDS, k=50)) for _ in range(300)], 900)


def maker(tokenizer, spec, side=TRAIN, fraction=0.1):
    return TaskMaker.of(TaskSource.parse(f"tasks:{spec}"), side, tokenizer, fraction)


def facts(tokenizer, document):
    """The pairs of a key_value document, and its questions with their answers, read off its text."""
    text = tokenizer.decode(document.ids[:-1])
    body, *questions = text.split("?")
    pairs = dict(line.split(" ")[1:3] for line in body.split("\n")[1:])
    return pairs, [tuple(question.split()) for question in questions]


def test_words_are_single_tokens_with_a_space(tokenizer):
    words = one_token_words(tokenizer)
    texts = [tokenizer.decode([word]) for word in words.tolist()]
    assert len(set(texts)) == len(texts) > 80
    assert all(
        text[0] == " " and text[1:].islower() and tokenizer.encode(text) == [word]
        for word, text in zip(words, texts, strict=True)
    )


def test_a_key_value_document_asks_for_its_own_pairs(tokenizer):
    made = maker(tokenizer, "key_value:length=300,pairs=12,questions=9")
    for index in range(20):
        document = made.document(index)
        ids, answers, origins = document
        assert len(ids) == 300 and ids[-1] == tokenizer.eos_id and (ids[:-1] != tokenizer.eos_id).all()
        pairs, questions = facts(tokenizer, document)
        assert len(pairs) == 12 and len({key for key, _ in questions}) == 9
        assert all(pairs[key].startswith(value) for key, value in questions)  # filler may stick to the word in the text
        assert (ids[answers] == ids[origins]).all() and (ids[answers - 1] == ids[origins - 1]).all()
        assert (origins < answers.min() - 2).all() and answers.tolist() == sorted(answers.tolist())


def test_a_copy_is_of_distinct_words(tokenizer):
    made = maker(tokenizer, "copy:length=200,words=30")
    starts = set()
    for index in range(20):
        ids, answers, origins = made.document(index)
        assert len(ids) == 200 and (ids[answers] == ids[origins]).all()
        assert len(set(ids[answers].tolist())) == len(answers) == 30
        assert (np.diff(origins) == 1).all() and answers[-1] == 198
        starts.add(int(origins[0]))
    assert len(starts) > 10
    everything = maker(tokenizer, f"copy:length=2K,words={len(made.words)}").document(0)
    assert set(everything.ids[everything.answers]) == set(made.words.tolist())


def test_depths_cover_the_document(tokenizer):
    made = maker(tokenizer, "key_value:length=1K,pairs=4")
    depths = np.concatenate([made.document(index).origins for index in range(300)]) / (1024 - 12)
    counts, _ = np.histogram(depths, bins=10, range=(0, 1))
    assert counts.sum() == 1200 and counts.min() > 80 and counts.max() < 160


@pytest.mark.parametrize("spec", ["key_value:length=64,pairs=5", "copy:length=64,words=9,loss=answer"])
def test_any_slice_is_a_part_of_the_whole_and_the_seed_counts(tokenizer, spec):
    made = maker(tokenizer, spec)
    tokens = TaskTokens(made, 7)
    whole = tokens[:]
    assert len(whole) == len(tokens) == 7 * 64 + 1
    assert np.array_equal(unmasked(whole[:-1]), np.concatenate([made.document(index).ids for index in range(7)]))
    for start, stop in ((0, 1), (63, 65), (64, 128), (10, 400), (448, 449), (449, 449)):
        assert np.array_equal(tokens[start:stop], whole[start:stop])
    assert not np.array_equal(whole, TaskTokens(maker(tokenizer, spec + ",seed=1"), 7)[:])
    assert len({made.document(index).ids.tobytes() for index in range(200)}) == 200


def test_with_loss_answer_only_answers_are_labels(tokenizer):
    made = maker(tokenizer, "key_value:length=100,pairs=6,questions=2,loss=answer")
    tokens, document = TaskTokens(made, 3)[:100], made.document(0)
    assert np.flatnonzero(tokens >= 0).tolist() == document.answers.tolist()
    assert np.array_equal(unmasked(tokens), document.ids)


def test_no_pair_of_one_side_is_one_of_the_other(tokenizer):
    sides = {TRAIN: set(), VALIDATION: set()}
    for side, found in sides.items():
        made = maker(tokenizer, "key_value:length=300,pairs=30", side)
        number = {word: place for place, word in enumerate(made.words.tolist())}
        for index in range(300):
            ids, answers, _ = made.document(index)
            found |= {(number[key], number[value]) for key, value in zip(ids[answers - 1], ids[answers], strict=True)}
    assert len(sides[TRAIN]) > 5000 and len(sides[VALIDATION]) > 700
    assert {(key + value) % 10 == 0 for key, value in sides[VALIDATION]} == {True}
    assert {(key + value) % 10 == 0 for key, value in sides[TRAIN]} == {False}
    for side in (TRAIN, VALIDATION):
        made = maker(tokenizer, "copy:length=64,words=9", side)
        number = {word: place for place, word in enumerate(made.words.tolist())}
        starts = [made.document(index).ids[made.document(index).answers[:2]].tolist() for index in range(100)]
        assert {sum(number[word] for word in start) % 10 == 0 for start in starts} == {side == VALIDATION}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tasks:sorting", "there is no task 'sorting'"),
        ("tasks:copy:pairs=3", "'pairs=3' is no option of copy"),
        ("tasks:key_value:length=2k", "length is '2k'"),
        ("tasks:key_value:count=0", "count is '0'"),
        ("tasks:key_value:length=2K,length=4K", "gives length twice"),
        ("tasks:key_value:loss=some", "choose all or answer"),
        ("tasks:key_value:pairs=3,questions=4", "4 questions of 3 pairs"),
    ],
)
def test_a_mistake_in_a_source_is_told_before_anything_is_read(spec, said):
    with pytest.raises(ConfigError, match=said) as caught:
        DataConfig(sources=(spec,))
    assert str(caught.value).startswith("data.sources: ") and len(caught.value.problems) == 1


def test_options_have_units_and_paths_stay():
    source = TaskSource.parse("tasks:key_value:length=8K,count=3,pairs=64,questions=16,seed=0,loss=answer")
    assert (source.length, source.count, source.pairs, source.questions, source.loss) == (8192, 3, 64, 16, "answer")
    assert TaskSource.parse(str(source).replace("words=0,", "").replace(",seed=0", "")) == source
    assert DataConfig(sources=("tasks:copy",)).absolute().sources == ("tasks:copy",)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("key_value:length=64,pairs=12", "needs 73 tokens"),
        ("key_value:length=8K,pairs=1000", "1000 different pairs"),
        ("copy:length=16,words=8", "needs 19 tokens"),
        ("copy:words=1", "at least two words"),
    ],
)
def test_what_does_not_fit_is_refused(tokenizer, spec, said):
    with pytest.raises(DataError, match=said):
        maker(tokenizer, spec)


def test_a_corpus_of_text_and_tasks(tmp_path):
    text = tmp_path / "text.txt"
    draw = random.Random(1)
    text.write_text("\n".join(" ".join(draw.choices(WORDS, k=12)) for _ in range(900)), encoding="utf-8")
    task = "tasks:key_value:length=32,count=50,pairs=3"
    config = DataConfig(sources=(task, str(text)), validation_fraction=0.1, cache_dir=str(tmp_path / "cache"))
    corpus = prepare_corpus(config, 900)
    assert list(corpus.train) == [task, str(text)] and len(corpus.train[task]) == 50 * 32 + 1
    sampler = Sampler(corpus.train, {task: 1, str(text): 3}, 64, seed=0)
    source, _ = sampler.draws(0, 1000)
    assert (source == 0).sum() == 250
    rows = sampler.batch(0, 40)[source[:40] == 0]
    assert (rows[:, [31, 63]] == corpus.tokenizer.eos_id).all(), "rows begin where documents do"
    assert (
        len(list(validation_batches({task: corpus.validation[task]}, 64, 4, 10_000))) == 2
    )  # 16 documents of half a row
    assert list(validation_batches({task: corpus.validation[task]}, 48, 4, 10_000)) == []
    with pytest.raises(DataError, match="which must be a multiple"):
        Sampler(corpus.train, {task: 1, str(text): 3}, 48, seed=0)
    Sampler(corpus.train, {task: 0, str(text): 3}, 48, seed=0)  # of another stage
    other = DataConfig(
        sources=(task + ",seed=2", str(text)), validation_fraction=0.1, cache_dir=str(tmp_path / "cache")
    )
    assert prepare_corpus(other, 900).fingerprint != corpus.fingerprint
    with pytest.raises(DataError, match="tasks alone have no text"):
        prepare_corpus(DataConfig(sources=(task,)), 900)
    with pytest.raises(DataError, match="words of one token, too few"):
        prepare_corpus(config, 270)
