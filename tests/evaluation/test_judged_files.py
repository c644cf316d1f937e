"""The questions of judged benchmarks from files of their authors' shapes, and what is read of a judge's reply."""

import json

import pytest

from model.errors import DataError
from model.evaluation.judged.items import read_items
from model.evaluation.judged.prompts import alignbench, comparison, mt_bench, parse_alignbench
from tests.evaluation.folders import write_lines
from tests.evaluation.judged_files import write_judged


@pytest.mark.parametrize("flat", [False, True])
def test_questions_are_found_as_their_authors_name_the_files_and_under_the_tasks_name(tmp_path, flat):
    write_judged(tmp_path, flat=flat)
    items = {task: read_items(task, tmp_path) for task in ("alignbench", "mt_bench", "arena_hard", "alpaca_eval")}
    assert {task: len(found) for task, found in items.items()} == {
        "alignbench": 4, "mt_bench": 3, "arena_hard": 4, "alpaca_eval": 12,
    }  # fmt: skip
    assert items["alignbench"][0].reference(0) == "四" and items["alignbench"][0].category == "数学计算"
    assert items["mt_bench"][0].turns == ("first of 0", "second of 0")
    assert items["mt_bench"][1].references == ("right 1", "right 2") and items["mt_bench"][0].reference(1) == ""
    assert items["arena_hard"][2].baseline == "baseline 2" and items["arena_hard"][2].turns == ("task 2",)
    assert items["alpaca_eval"][11].baseline == "their answer 11" and items["alpaca_eval"][0].category == "koala"


def test_the_baseline_may_be_written_in_messages(tmp_path):
    write_lines(tmp_path / "arena_hard" / "question.jsonl", [{"uid": "x", "prompt": "do it", "category": "c"}])
    said = [{"role": "user", "content": "do it"}, {"role": "assistant", "content": {"answer": "done"}}]
    write_lines(tmp_path / "arena_hard" / "model_answer" / "o3-mini.jsonl", [{"uid": "x", "messages": said}])
    assert read_items("arena_hard", tmp_path)[0].baseline == "done"


@pytest.mark.parametrize(
    ("task", "rows", "words"),
    [
        ("alignbench", [{"question": "a"}], "line 1: no 'reference'"),
        ("alignbench", [], "holds no question"),
        ("mt_bench", [{"question_id": 1, "turns": [1]}], "its turns are no texts"),
        ("mt_bench", [{"question_id": 1, "turns": ["a"]}] * 2, "twice"),
        ("arena_hard", [{"uid": "x", "prompt": "a"}], "has no baseline to compare with"),
        ("alpaca_eval", [{"instruction": "a"}], "no 'output'"),
    ],
)
def test_what_is_missing_is_said(tmp_path, task, rows, words):
    write_lines(tmp_path / f"{task}.jsonl", rows)
    with pytest.raises(DataError, match=words):
        read_items(task, tmp_path)


def test_other_mistakes_in_a_folder_are_said(tmp_path):
    with pytest.raises(DataError, match=r"has no data of mt_bench: put it there as mt_bench\.jsonl"):
        read_items("mt_bench", tmp_path)
    write_lines(tmp_path / "arena_hard" / "question.jsonl", [{"uid": "x", "prompt": "a"}, {"uid": "y", "prompt": "b"}])
    write_lines(tmp_path / "arena_hard" / "baseline.jsonl", [{"uid": "x", "choices": [{"turns": [{"content": "c"}]}]}])
    with pytest.raises(DataError, match="has no answer to the question y"):
        read_items("arena_hard", tmp_path)


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("很好。{'事实正确性': 9, '满足需求': 8, '综合得分': 8}", 8.0),
        ('比较……\n{"正确性": 2, "综合得分": "3"}', 3.0),
        ("{'综合得分': 5} 改为 {'综合得分': 6.5}", 6.5),
        ("综合得分：7", 7.0),
        ("[[4]]", 4.0),
        ("{'综合得分': 11}", None),
        ("{'正确性': 9}", None),
        ("很好", None),
    ],
)
def test_the_mark_of_the_whole_is_read_of_an_alignbench_reply(reply, mark):
    assert parse_alignbench(reply) == mark


def test_the_judge_is_shown_all_that_it_needs(tmp_path):
    write_judged(tmp_path)
    first, second = read_items("mt_bench", tmp_path)[:2]
    asked = mt_bench(first, ["answer one", "answer two"], 0)
    assert "first of 0" in asked and "answer one" in asked and "answer two" not in asked and "[[N]]" in asked
    asked = mt_bench(second, ["answer one", "answer two"], 1)
    assert all(
        text in asked for text in ("first of 1", "answer one", "right 1", "second of 1", "answer two", "right 2")
    )
    item = read_items("alignbench", tmp_path)[0]
    assert all(text in alignbench(item, "五") for text in (item.turns[0], "四", "五", "推理过程", "综合得分"))
    asked = comparison("{do} it", "A's {text}", "B's")
    assert asked.index("A's {text}") < asked.index("B's") and "[[A>>B]]" in asked and "{do} it" in asked


def test_a_record_of_damaged_json_is_named(tmp_path):
    (tmp_path / "alpaca_eval.json").write_text(json.dumps({"instruction": "a", "output": "b"}))
    with pytest.raises(DataError, match="no list of records"):
        read_items("alpaca_eval", tmp_path)
