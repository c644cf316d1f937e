"""LV-Eval's scores against values worked out by hand from its program, and its files."""

import json
import zipfile

import pytest

from model.errors import DataError, MissingExtraError
from model.evaluation import lveval
from model.evaluation.lveval import read, rouge_l, score


def characters(text):
    """Words of one character, which is all that a test needs of Chinese."""
    return list(text)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("The cat sat.", "a cat, sat", 1.0),  # articles and punctuation go
        ("cat cat dog", "cat dog dog", 2 / 3),  # repeated words count as often as both have them
        ("cat", "cat dog", 2 / 3),
        ("", "cat", 0.0),
        ("cat", "", 0.0),
        ("don't", "dont", 1.0),
        ("theatre", "atre", 0.0),  # an article is a whole word
    ],
)
def test_english_f1(prediction, answer, expected):
    assert score("qa_f1_score", prediction, answer) == pytest.approx(expected, abs=1e-12)


def test_below_a_fifth_of_the_keywords_english_is_zero():
    answer, five = "red house in Rome", "red house near old Rome"
    assert score("qa_f1_score_with_gold_ans", "red in", answer, keywords=five) == pytest.approx(2 / 3)  # 1 of 5
    assert score("qa_f1_score_with_gold_ans", "in", answer, keywords=five) == 0
    assert score("qa_f1_score_with_gold_ans", "in", answer) == pytest.approx(
        0.4
    )  # without keywords nothing is looked for


def test_blacklisted_words_leave_the_hits_and_not_the_denominator():
    # Keywords "in of to with Rome": 4 of 5 are blacklisted, so that only Rome can be hit: 1/5 is enough, 1/6 is not.
    name, answer = "qa_f1_score_with_gold_ans", "Rome in of to with"
    assert score(name, answer, answer, keywords="in of to with Rome") == 1
    assert score(name, answer, answer, keywords="in of to with by Rome") == 0
    assert score(name, "in of to with", answer, keywords="in of to with Rome") == 0


def test_the_blacklist_is_not_applied_to_f1():
    assert score("qa_f1_score_with_gold_ans", "Rome in", "Rome", keywords="Rome") == pytest.approx(2 / 3)


def test_chinese_needs_two_fifths_of_the_keywords_or_of_the_answer():
    name = "qa_f1_zh_score_with_gold_ans"
    assert score(name, "红房", "红房子大门", tokens=characters) == pytest.approx(2 * 1.0 * 0.4 / 1.4)
    assert score(name, "红", "红房子大门", tokens=characters) == 0
    assert score(name, "红", "红房子大门", keywords="红", tokens=characters) == pytest.approx(2 * 0.2 / 1.2)
    assert score(name, "的", "的", keywords="的", tokens=characters) == 0  # blacklisted


def test_chinese_punctuation_and_blanks_are_no_words():
    assert score("qa_f1_zh_score", "红，房。 A", "红房a！", tokens=characters) == 1


def test_recall_only_for_the_older_factrecall():
    assert score("qa_f1_score_factrecall", "yes it is Rome", "Rome") == 1
    assert score("factrecall_en", "yes it is Rome", "Rome") == pytest.approx(0.4)  # the set itself uses F1
    assert score("qa_f1_zh_score_factrecall", "红房子", "红门", tokens=characters) == 0.5


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("abc", "abc", 1.0),
        ("ab", "abcd", 2 / 3),
        ("ba", "ab", 0.5),  # of two equally long subsequences one
        ("aabb", "ab", 1.0),  # distinct words
        ("xyz", "abc", 0.0),
        ("", "abc", 0.0),
    ],
)
def test_rouge_l_counts_distinct_words_of_the_common_subsequence(prediction, answer, expected):
    assert rouge_l(list(prediction), list(answer)) == pytest.approx(expected, abs=1e-7)


def test_rouge_l_takes_the_subsequence_that_the_package_takes():
    # "aa" has one distinct word, "ab" two. Walking back from the end, the prediction is shortened first where both ways
    # lead to as long a subsequence.
    assert rouge_l(list("aab"), list("aba")) == pytest.approx(0.5, abs=1e-7)
    assert rouge_l(list("aba"), list("aab")) == pytest.approx(1.0, abs=1e-7)


def test_dureader_leaves_out_the_blacklist():
    assert score("dureader_mixup", "红的房。", "红房了", tokens=characters) == pytest.approx(1, abs=1e-7)
    assert score("rouge_zh_score_blacklist", "的", "红", tokens=characters) == 0


def test_all_sets_have_their_metric_and_room():
    assert len(lveval.DATASETS) == 11 and set(lveval.LEVELS) == {"16k", "32k", "64k", "128k", "256k"}
    assert {name for name, found in lveval.DATASETS.items() if found.room == 16} == {"factrecall_en", "factrecall_zh"}
    assert (len(lveval.BLACKLIST_EN), len(lveval.BLACKLIST_ZH)) == (38, 85)


def test_an_unknown_metric_is_a_sentence():
    with pytest.raises(DataError, match="no metric of LV-Eval is called 'f1'"):
        score("f1", "a", "a")


def test_without_jieba_chinese_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(MissingExtraError, match=r"hunyuan\[lveval\]"):
        score("cmrc_mixup", "红", "红")


RECORD = {"input": "Who {x}?", "context": "Long.", "answers": ["Ann", "Bob"], "answer_keywords": "Ann", "length": 9}


@pytest.mark.parametrize("packed", [False, True])
def test_items_are_read_from_files_or_from_the_downloaded_zip(tmp_path, packed):
    line = json.dumps(RECORD) + "\n"
    if packed:
        with zipfile.ZipFile(tmp_path / "loogle_SD_mixup.zip", "w") as archive:
            archive.writestr("loogle_SD_mixup/loogle_SD_mixup_16k.jsonl", line * 2)
            archive.writestr("loogle_SD_mixup/loogle_SD_mixup_32k.jsonl", line)
    else:
        (tmp_path / "loogle_SD_mixup_16k.jsonl").write_text(line * 2)
        (tmp_path / "loogle_SD_mixup_32k.jsonl").write_text(line)
    items = read(tmp_path, datasets=["loogle_SD_mixup"])
    assert [item.id for item in items] == ["loogle_SD_mixup_16k/0", "loogle_SD_mixup_16k/1", "loogle_SD_mixup_32k/0"]
    item = read(tmp_path, levels=["32k"])[0]
    assert (item.answer, item.keywords, item.room) == ("Ann", "Ann", 64)
    assert "Who {x}?" in item.prompt and "Long." in item.prompt
    assert item.score("ann.") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"input": "a"', "line 1: not JSON"), ('{"input": 3, "answers": ["a"]}', "'context'"), ("[]", "not an object")],
)
def test_a_damaged_file_is_a_sentence(tmp_path, content, words):
    (tmp_path / "cmrc_mixup_16k.jsonl").write_text(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"lacks cmrc_mixup_64k\.jsonl"):
        read(tmp_path, datasets=["cmrc_mixup"], levels=["64k"])
    with pytest.raises(DataError, match="choose of 16k"):
        read(tmp_path, levels=["1k"])
