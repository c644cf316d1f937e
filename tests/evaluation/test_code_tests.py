"""humaneval and mbpp run confined, with lm-eval's own tasks around them."""

import json
import sys

import pytest

from model.data import confinement
from model.errors import HunyuanError
from tests.evaluation.folders import small_model, write_lines

pytest.importorskip("lm_eval", reason="the extra eval is not installed")

from model.evaluation.asking import Reply
from model.evaluation.evaluate import Evaluation, evaluate
from model.evaluation.harness.code_tests import ConfinedCodeEval, pass_at

ADD = 'def add(a, b):\n    """The sum."""\n'
TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n"
RIGHT, WRONG = "    return a + b\n", "    return a * b\n"
CHEATS = [
    "    return a + b\nimport os, sys\nprint('ok'); sys.exit(0)\n",
    "    return 1\nimport os\nos._exit(0)\n",
    "    return a + b\nopen('/etc/hostname').read()\n",
    "    while True: pass\n",
]


@pytest.fixture(scope="module", autouse=True)
def needs_confinement():
    if not confinement.level().full:
        pytest.skip("this machine cannot confine programs fully")


def test_only_a_program_that_runs_to_its_end_passes(monkeypatch):
    monkeypatch.setattr("model.evaluation.harness.code_tests.SECONDS", 0.5)
    candidates = [ADD + body for body in (RIGHT, WRONG, *CHEATS)]
    shares, found = ConfinedCodeEval().compute([TEST + "check(add)"], [candidates], k=[1, 6])
    assert [status == "ok" for _, status in found[0]] == [True, *[False] * 5]
    assert shares == {"pass@1": pytest.approx(1 / 6), "pass@6": 1.0}


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    from itertools import combinations

    for n, right, k in ((5, 2, 3), (4, 0, 2), (4, 4, 1), (6, 1, 6)):
        draws = list(combinations([True] * right + [False] * (n - right), k))
        assert pass_at(k, n, right) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.fixture
def problems(tmp_path):
    write_lines(tmp_path / "humaneval" / "test.jsonl", [
        {"task_id": f"HumanEval/{n}", "prompt": ADD, "test": TEST, "entry_point": "add", "canonical_solution": RIGHT}
        for n in range(2)
    ])  # fmt: skip
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(2, 2) == 4"]
    write_lines(tmp_path / "mbpp" / "test.jsonl", [{"task_id": 11, "text": "Add.", "code": "", "test_list": tests}])
    return tmp_path


@pytest.mark.parametrize(("task", "replies", "score"), [
    ("humaneval", [RIGHT, WRONG], 50.0), ("mbpp", [f"def add(a, b):\n{RIGHT}"], 100.0), ("mbpp", ["print(1)"], 0.0),
])  # fmt: skip
def test_their_tasks_are_scored_by_what_the_programs_do(problems, monkeypatch, task, replies, score):
    model = small_model(context=2048)
    monkeypatch.setattr(model, "generate", lambda prompts: [Reply(text, 9, "stop_string", 0) for text in replies])
    rows = evaluate(model, Evaluation((task,), task_data=problems))
    assert [(row.score, row.unit, row.n) for row in rows] == [(score, "percent", len(replies))]
    assert rows[0].shots == (3 if task == "mbpp" else 0)


def test_a_machine_that_cannot_confine_is_a_sentence_before_anything_is_asked(problems, monkeypatch):
    def refuse(program, *, allow_weaker=False, **limits):
        if not allow_weaker:
            raise HunyuanError("this machine cannot fully confine a program")
        return confinement.Outcome("", "ok", "")

    monkeypatch.setattr(confinement, "run", refuse)
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.humaneval")]:
        monkeypatch.delitem(sys.modules, name)
    model = small_model(context=2048)
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(HunyuanError, match="cannot fully confine"):
        evaluate(model, Evaluation(("humaneval",), task_data=problems))
    monkeypatch.setattr(model, "generate", lambda prompts: [Reply(RIGHT, 9, "length", 0)] * 2)
    assert evaluate(model, Evaluation(("humaneval",), task_data=problems, unconfined=True))[0].score == 100.0
    assert json.dumps(model.notes) == "{}"
