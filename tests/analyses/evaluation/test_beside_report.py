"""Our scores beside the report's."""

import pytest

from analyses.evaluation.beside_report import beside_report
from model.evaluation.ruler import NAMES


def row(task, metric, score, **more):
    facts = {"length": None, "interval": [score - 5, score + 5], "n": 100, "shots": 5, "template": "none"}
    return {"task": task, "metric": metric, "score": score} | facts | more


def test_a_base_model_stands_beside_table_3():
    table = beside_report([row("mmlu", "acc", 25.0), row("made_up", "acc", 99.0)])
    assert len(table) == 1
    found = table.iloc[0]
    assert (found["benchmark"], found["ours"], found["95%"], found["table"]) == ("MMLU", 25.0, "20 to 30", 3)
    assert (found["Hunyuan-Large"], found["Llama 3.1 405B"], found["DeepSeek V2, V2.5"]) == (88.4, 85.2, 78.5)


def test_a_chat_model_stands_beside_table_4_where_the_benchmark_is_in_it():
    table = beside_report(
        [row("mmlu", "acc", 25.0, template="chat"), row("gsm8k", "exact_match,x", 3.0, template="chat")]
    )
    assert table[["benchmark", "table", "Hunyuan-Large"]].values.tolist() == [["MMLU", 4, 89.9], ["GSM8K", 3, 92.8]]
    assert table["Llama 3.1 70B"].tolist() == [83.6, 83.7]


@pytest.mark.parametrize(
    ("length", "name", "score"),
    [
        (64, "RULER 0-8K", 94.39),
        (8192, "RULER 0-8K", 94.39),
        (16384, "RULER 8K-32K", 94.94),
        (131_072, "RULER 64K-128K", 89.53),
    ],
)
def test_ruler_is_the_mean_of_its_tasks_beside_its_range(length, name, score):
    rows = [row(task, "string_match", 10.0 * place, length=length) for place, task in enumerate(NAMES)]
    found = beside_report(rows).iloc[0]
    assert (found["benchmark"], found["ours"], found["n"]) == (f"{name} at {length:,}", 60.0, 1300)
    assert found["Hunyuan-Large"] == score


def test_some_of_rulers_tasks_are_said_to_be_some():
    found = beside_report([row("vt", "string_match", 50.0, length=4096)]).iloc[0]
    assert found["benchmark"] == "RULER 0-8K at 4,096, 1 of 13 tasks"


def test_what_the_report_cannot_be_compared_with_is_left_out():
    rows = [row("cmrc_mixup", "qa_f1_zh_score_with_gold_ans", 40.0, length=16384), row("vt", "s", 9.0, length=262_144)]
    assert beside_report(rows).empty


def test_the_interval_of_ruler_is_that_of_its_mean():
    rows = [
        row("vt", "string_match", 50.0, length=4096),
        row("ruler", "string_match", 50.0, length=4096, interval=[40, 60]),
    ]
    assert beside_report(rows)["95%"].tolist() == ["40 to 60"]


def test_penguinscrolls_stands_beside_table_6_by_group_and_by_the_mean_of_the_groups():
    rows = [
        row("penguinscrolls", "mean_of_groups", 40.0),
        row("penguinscrolls", "mean_of_items", 41.0),
        row("penguinscrolls: Numerical Reasoning", "accuracy", 30.0),
    ]
    table = beside_report(rows)
    assert table["benchmark"].tolist() == ["PenguinScrolls, Overall", "PenguinScrolls, Numerical Reasoning"]
    assert table["Hunyuan-Large"].tolist() == [85.23, 67.46] and table["Llama 3.1 70B"].tolist() == [69.37, 49.52]
