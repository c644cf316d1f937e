"""Judged benchmarks from the model's answers to their scores, with a judge that can be told what to think."""

import json
import random

import pytest

from model.endpoint.client import Client
from model.endpoint.config import EndpointConfig
from model.evaluation.judged.items import read_items
from model.evaluation.judged.lengths import length_controlled
from model.evaluation.judged.run import JUDGED, answer, ask_and_judge
from tests.endpoint.server import Act, Server
from tests.evaluation.folders import small_model
from tests.evaluation.judged_files import write_judged


@pytest.fixture
def judged(tmp_path):
    """judged(task, rule) -> rows, samples, the model's notes, the judge's prompts; `rule` is of a prompt."""
    write_judged(tmp_path)

    def run(task, rule, **options):
        model = small_model(context=512)
        with Server(lambda call: Act(text=rule(call.prompt))) as server:
            config = EndpointConfig(url=server.url, model="critic", temperature=0.0)
            with Client(config, journal=tmp_path / "judge.jsonl") as client:
                given = {"limit": None, "room": 6} | options
                rows, samples = ask_and_judge(model, client, task, tmp_path, **given)
        return (
            {row.task + " " + row.metric: row for row in rows},
            samples,
            list(model.notes),
            [c.prompt for c in server.calls],
        )

    return run


def test_alignbench_is_the_mean_of_reasoning_and_language(judged):
    marks = {"问题 0": 2, "问题 1": 4, "问题 2": 8, "问题 3": 10}
    rows, samples, notes, prompts = judged(
        "alignbench", lambda prompt: f"{{'综合得分': {next(marks[q] for q in marks if q in prompt)}}}"
    )
    row = rows["alignbench rating"]
    assert (row.score, row.n, row.nulls, row.unit) == ((3 + 9) / 2, 4, 0, "1 to 10") and len(prompts) == 4
    assert rows["alignbench: reasoning rating"].score == 3 and rows["alignbench: language rating"].score == 9
    assert rows["alignbench: 数学计算 rating"].score == 2 and rows["alignbench: 角色扮演 rating"].group == "alignbench"
    assert [sample.scores["rating"] for sample in samples] == [2, 4, 8, 10]
    assert "judged by critic in this program's words" in notes[0]


def test_both_turns_of_mt_bench_are_marked_and_what_cannot_be_read_is_counted(judged):
    def rule(prompt):
        second = "second of" in prompt
        if "first of 2" in prompt and second:
            return "I would rather not say."
        return f"Rating: [[{9 if second else 5}]]"

    rows, samples, notes, prompts = judged("mt_bench", rule)
    whole, second = rows["mt_bench rating"], rows["mt_bench: turn 2 rating"]
    assert (whole.score, whole.n, whole.nulls) == (7.0, 3, 1) and len(prompts) == 6
    assert (second.score, second.n, second.nulls) == (9.0, 3, 1) and rows["mt_bench: turn 1 rating"].score == 5.0
    assert (
        samples[2].null
        and samples[2].facts["marks"] == [5.0, None]
        and samples[2].facts["judge"][1].startswith("I would")
    )
    assert any("1 of 3 questions" in note and "the mean is 5" in note for note in notes)  # (7 + 7 + 1) / 3
    assert len(samples[0].answers) == 2


def test_the_second_turn_is_asked_after_the_models_own_first_answer(tmp_path):
    model, item = small_model(context=512), read_items("mt_bench", write_judged(tmp_path))[0]
    [replies] = answer(model, "mt_bench", [item], seed=0, most=6)
    talk = [
        {"role": "user", "content": item.turns[0]},
        {"role": "assistant", "content": replies[0].text},
        {"role": "user", "content": item.turns[1]},
    ]
    request = model.engine.reply(talk, max_new_tokens=6)
    from model.generation.generate import generate_batch
    from model.generation.sampling import Sampling

    for _ in generate_batch(model.net, [request], sampling=Sampling()):
        pass
    assert request.text == replies[1].text


def verdict_of(prompt, better):
    """A judge that sees which answer is better; [[A=B]] for neither."""
    a, b = prompt.split("[answer A]\n")[1].split("\n\n[answer B]\n")
    return f"[[{'A>>B' if better(a, b) else 'B>A' if better(b, a) else 'A=B'}]]"


def test_a_comparison_is_asked_in_both_orders_and_ties_count_half(judged):
    def better(a, b):
        return a in ("baseline 0", "baseline 1") or b == "baseline 2"

    rows, samples, _, prompts = judged("arena_hard", lambda prompt: verdict_of(prompt, better))
    assert rows["arena_hard win_rate"].score == 100 * (0 + 0 + 1 + 0.5) / 4
    assert [sample.facts["winner"] for sample in samples] == ["second", "second", "first", "tie"]
    assert len(prompts) == 8 and samples[0].target == "baseline 0"


def test_a_judge_that_takes_the_first_answer_makes_ties_which_is_told(judged):
    rows, _, notes, _ = judged("arena_hard", lambda prompt: "[[A>B]]")
    assert rows["arena_hard win_rate"].score == 50.0
    assert any("4 of 4 verdicts changed with the order" in note and "4 of them because" in note for note in notes)


def test_alpaca_eval_has_a_win_rate_at_equal_lengths_too(judged):
    rows, samples, _, _ = judged("alpaca_eval", lambda prompt: verdict_of(prompt, lambda a, b: len(a) > len(b)))
    wins = [sample.scores["win_rate"] for sample in samples]
    assert rows["alpaca_eval win_rate"].score == pytest.approx(100 * sum(wins) / 12)
    controlled = rows["alpaca_eval win_rate_at_equal_lengths"]
    expected = 100 * length_controlled(wins, [sample.facts["longer"] for sample in samples])
    assert controlled.score == pytest.approx(expected) and controlled.interval[0] <= expected <= controlled.interval[1]


def test_penguinscrolls_has_the_mean_of_groups_and_of_items(judged):
    def rule(prompt):
        label = "Correct" if "what 1\n" in prompt or "what 3\n" in prompt else "Incorrect"
        return "no idea" if "what 0\n" in prompt else json.dumps({"eval_label": label})

    rows, _, _, _ = judged("penguinscrolls", rule)
    assert rows["penguinscrolls mean_of_groups"].score == 50.0  # 0% of one and 100% of the other
    items = rows["penguinscrolls mean_of_items"]
    assert (items.score, items.n, items.nulls) == (pytest.approx(200 / 3), 4, 1)
    assert rows["penguinscrolls: Numerical Reasoning accuracy"].score == 100.0


@pytest.mark.parametrize("task", JUDGED)
def test_nothing_is_asked_of_judge_or_model_again(judged, task):
    first = judged(task, lambda prompt: "[[A]] [[5]] {'综合得分': 5} ", limit=2)
    again = judged(task, lambda prompt: "[[B]]", limit=2)
    assert first[0] == again[0] and first[1] == again[1] and again[3] == []


def test_length_is_taken_out_of_a_win_rate():
    generator = random.Random(3)
    differences = [generator.gauss(400, 300) for _ in range(3000)]
    by_length = [float(generator.random() < 1 / (1 + 2.718281828 ** -(d / 300))) for d in differences]
    assert sum(by_length) / 3000 > 0.7 and length_controlled(by_length, differences) == pytest.approx(0.5, abs=0.06)
    by_merit = [float(generator.random() < 0.7) for _ in differences]
    assert length_controlled(by_merit, differences) == pytest.approx(0.7, abs=0.06)
    assert 0.5 < length_controlled([1.0] * 20, [5.0] * 20) < 1.0  # nobody's odds are infinite
    assert length_controlled([0.5] * 10, list(range(10))) == pytest.approx(0.5)
