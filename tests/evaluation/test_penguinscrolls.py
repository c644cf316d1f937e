"""A judge's reply, the questions' files, and averages that hide no reply."""

import json

import pytest

from model.errors import DataError
from model.evaluation.penguinscrolls import GROUPS, judge_prompt, overall, parse, read


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ('{"eval_analysis": "fits", "eval_label": "Correct"}', 1.0),
        ('{"eval_analysis": "no", "eval_label": "Incorrect"}', 0.0),
        ('{"eval_label": "Partly"}', 0.0),  # whatever is not Correct
        ('{"eval_analysis": "x", "eval_score": 85}', 0.85),
        ('{"eval_score": 72.5}', 0.725),
        ('{"eval_score": "90"}', 0.9),
        ('{"eval_score": 100}', 1.0),
        ('```json\n{"eval_label": "Correct"}\n```', 1.0),
        ('  ```\n{"eval_score": 40}\n```  ', 0.4),
        ('My view:\n```json\n{"eval_score": 61}\n```\nSo it is.', 0.61),
        ('So: {"eval_label": "Correct"}.', 1.0),
        ('{"eval_analysis": "two\nlines", "eval_label": "Correct"}', 1.0),
    ],
)
def test_the_mark_of_a_reply(reply, mark):
    assert parse(reply) == pytest.approx(mark, abs=1e-12)


@pytest.mark.parametrize(
    "reply",
    [
        "", "Correct", "85", "null", "[]", "{}", '{"eval_label": null}', '{"eval_label": 1}', '{"eval_score": null}',
        '{"eval_score": true}', '{"eval_score": 185}', '{"eval_score": -1}', '{"eval_score": NaN}',
        '{"eval_label": "Correct"', '{"eval_score": "high"}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_reply_without_a_mark_has_none(reply):
    assert parse(reply) is None


def test_the_means_of_the_report_and_of_the_board():
    """Table 6, Hunyuan-Large: the mean of the groups is 85.235, printed 85.23; by items it would be 85.55."""
    scores = dict(zip(GROUPS, (0.9114, 0.8956, 0.9278, 0.6746), strict=True))
    sizes = dict(zip(GROUPS, (420, 278, 305, 313), strict=True))
    result = overall((group, scores[group]) for group in GROUPS for _ in range(sizes[group]))
    assert result["mean_of_groups"] == pytest.approx(85.235)
    assert result["mean_of_items"] == pytest.approx(85.55, abs=0.005)
    assert (result["n"], result["unparsed"]) == (1316, 0)


def test_unparsed_replies_are_counted_and_not_hidden():
    result = overall([("a", 1.0), ("a", None), ("b", 0.5), ("b", None)])
    assert result["mean_of_items"] == 75 and result["overall_if_wrong"] == 37.5
    assert (result["n"], result["unparsed"], result["groups"]["a"]["unparsed"]) == (4, 2, 1)
    assert overall([("a", None)])["mean_of_groups"] is None


RECORD = {
    "input_md5": "0f", "first_level_tag": "Numerical Reasoning", "second_level_tag": "sums", "question": "How many?",
    "doc_type": "report", "doc": "Text.", "prompt": "Text.\nHow many?", "answer": "3", "token_count": 12, "is_subjective": 0,
}  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_questions_are_read(tmp_path, ending):
    records = [RECORD, RECORD | {"input_md5": "1a", "is_subjective": 1, "token_count": None}]
    path = tmp_path / f"data.{ending}"
    if ending == "parquet":
        pa = pytest.importorskip("pyarrow")
        __import__("pyarrow.parquet").parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(json.dumps(records) if ending == "json" else "".join(json.dumps(r) + "\n" for r in records))
    first, second = read(tmp_path)
    assert (first.id, first.group, first.subjective, first.tokens) == ("0f", "Numerical Reasoning", False, 12)
    assert second.subjective and second.tokens is None
    assert '"eval_label"' in judge_prompt(first, "4") and '"eval_score"' in judge_prompt(second, "4")
    assert all(text in judge_prompt(first, "four") for text in ("How many?", "3", "four"))


def test_damaged_and_missing_files_are_sentences(tmp_path):
    with pytest.raises(DataError, match="holds no"):
        read(tmp_path)
    with pytest.raises(DataError, match="holds no"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD))
    with pytest.raises(DataError, match="line 2: the question 0f is there twice"):
        read(tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "a"}))
    with pytest.raises(DataError, match="line 1: no 'prompt'"):
        read(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path)
