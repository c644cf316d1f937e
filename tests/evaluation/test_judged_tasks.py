"""Judged benchmarks as tasks of an evaluation: both orders, replies without a verdict, several turns, what is missing."""

import json

import pytest

from model.endpoint.client import Client
from model.endpoint.config import EndpointConfig
from model.errors import ConfigError, DataError
from model.evaluation.evaluate import Evaluation, evaluate
from model.evaluation.record import Record
from tests.endpoint.server import Act, Server
from tests.evaluation.folders import small_model, write_lines


def run(rule, task, folder, **asked):
    record = Record(None)
    with Server(rule) as server, Client(EndpointConfig(url=server.url, model="judge")) as client:
        settings = Evaluation((task,), task_data=folder, max_new_tokens=6, **asked)
        rows = evaluate(small_model(), settings, record, judge=client)
    return rows, list(record.samples.values()), server.calls


def write_pairs(folder, task, count):
    if task == "alpaca_eval":
        rows = [{"instruction": f"Say {n}.", "output": "THEIRS"} for n in range(count)]
        (folder / "alpaca_eval.json").write_text(json.dumps(rows))
        return
    write_lines(folder / "question.jsonl", [{"uid": n, "prompt": f"Say {n}."} for n in range(count)])
    write_lines(folder / "baseline.jsonl", [{"uid": n, "choices": [{"turns": ["THEIRS"]}]} for n in range(count)])


def ours_is_a(call):
    return "THEIRS" in call.prompt.split("[answer B]")[1]


@pytest.mark.parametrize(("verdict", "score"), [
    (lambda ours: "[[A>>B]]" if ours else "[[B>A]]", 100.0),
    (lambda ours: "[[B>>A]]" if ours else "[[A>B]]", 0.0),
    (lambda ours: "[[A>B]]", 50.0),  # the judge favours what stands first
    (lambda ours: "[[A=B]]", 50.0),
])  # fmt: skip
@pytest.mark.parametrize("task", ["arena_hard", "alpaca_eval"])
def test_comparisons_are_asked_in_both_orders(tmp_path, task, verdict, score):
    write_pairs(tmp_path, task, 3)
    rows, samples, calls = run(lambda call: Act(text=verdict(ours_is_a(call))), task, tmp_path)
    assert [row.metric for row in rows] == ["win_rate", "win_rate_at_equal_lengths"]
    assert [(row.n, row.nulls) for row in rows] == [(3, 0)] * 2 and rows[0].score == score
    assert abs(rows[1].score - 50) <= abs(score - 50)
    assert len(calls) == 6 and rows[0].template == "plain transcript" and len(samples) == 3


def test_replies_without_a_verdict_are_counted_and_not_guessed(tmp_path):
    write_pairs(tmp_path, "arena_hard", 2)

    def rule(call):
        if "Say 0" in call.prompt:
            return Act(text="I cannot say.")
        return Act(text="[[A>B]]" if ours_is_a(call) else "[[B>A]]")

    rows, samples, _ = run(rule, "arena_hard", tmp_path)
    assert (rows[0].score, rows[0].n, rows[0].nulls) == (100.0, 2, 1)
    assert [sample["null"] for sample in samples] == [True, False]


def test_every_turn_is_rated_with_what_came_before_it(tmp_path):
    write_lines(tmp_path / "mt_bench" / "question.jsonl", [
        {"question_id": 1, "category": "math", "turns": ["First?", "Second?"], "reference": ["one", "two"]}
    ])  # fmt: skip

    def rule(call):
        return Act(text="Rating: [[9]]" if "Second?" in call.prompt else "[[4]]")

    rows, samples, calls = run(rule, "mt_bench", tmp_path)
    assert (rows[0].score, rows[0].unit) == (6.5, "1 to 10") and len(calls) == 2
    second = next(call.prompt for call in calls if "Second?" in call.prompt)
    assert "First?" in second and samples[0]["answers"][0] in second and "two" in second
    assert len(samples[0]["answers"]) == 2


def test_alignbench_is_the_mean_of_reasoning_and_language(tmp_path):
    write_lines(tmp_path / "alignbench.jsonl", [
        {"question_id": n, "category": category, "question": f"问{n}", "reference": "答"}
        for n, category in enumerate(["数学计算", "文本写作", "文本写作"])
    ])  # fmt: skip

    def rule(call):
        return Act(text="{'正确性': 1, '综合得分': " + ("9}" if "问0" in call.prompt else "5}"))

    rows, _, _ = run(rule, "alignbench", tmp_path)
    assert [(row.task, row.score) for row in rows[:3]] == [
        ("alignbench", 7.0), ("alignbench: reasoning", 9.0), ("alignbench: language", 5.0),
    ]  # fmt: skip


def test_penguinscrolls_has_both_means_and_counts_what_was_not_parsed(tmp_path):
    rows = [
        {"input_md5": str(n), "first_level_tag": group, "question": f"Q{n}?", "prompt": f"A text. Q{n}?", "answer": "yes",
         "is_subjective": n == 2}
        for n, group in enumerate(["Numerical Reasoning"] * 3 + ["Qualitative Analysis"])
    ]  # fmt: skip
    write_lines(tmp_path / "penguinscrolls" / "test.jsonl", rows)
    replies = {
        "Q0": '{"eval_label": "Correct"}',
        "Q1": "hm",
        "Q2": '{"eval_score": 50}',
        "Q3": '{"eval_label": "Incorrect"}',
    }

    def rule(call):
        return Act(text=next(text for name, text in replies.items() if f"\n{name}?" in call.prompt))

    found, samples, _ = run(rule, "penguinscrolls", tmp_path)
    scores = {(row.task, row.metric): row.score for row in found}
    assert scores["penguinscrolls", "mean_of_items"] == pytest.approx(50.0)
    assert scores["penguinscrolls", "mean_of_groups"] == pytest.approx((75.0 + 0.0) / 2)
    assert {row.nulls for row in found if row.task == "penguinscrolls"} == {1}
    json.dumps(samples)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="has no data of arena_hard"):
        run(None, "arena_hard", tmp_path)


def test_without_a_judge_nothing_is_asked(tmp_path):
    with pytest.raises(ConfigError, match="name an endpoint with --judge"):
        evaluate(small_model(), Evaluation(("niah_single_1", "mt_bench"), task_data=tmp_path))
