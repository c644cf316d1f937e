"""What an answer is worth: every check on answers of both kinds, rows that lack what it needs, and a model's rewards."""

import pytest
import torch

from model.data.instructions.preferences import Question
from model.errors import ConfigError, DataError
from model.posttraining.rewards import Answer, find_reward

CPU = torch.device("cpu")


def score(name, row, text):
    reward = find_reward(name, CPU)
    question = Question("p.jsonl, line 3", [{"role": "user", "content": "x"}], row=row)
    reward.check([question])
    return reward([question], [Answer([1], text, True)])[0]


@pytest.mark.parametrize(
    ("name", "row", "text", "expected"),
    [
        ("exact", {"answer": "42"}, " 42\n", 1.0),
        ("exact", {"answer": 42}, "42", 1.0),
        ("exact", {"answer": "42"}, "42.", 0.0),
        ("format", {"format": "json"}, '{"a": [1]}', 1.0),
        ("format", {"format": "json"}, "{a: 1}", 0.0),
        ("format", {"format": "integer"}, "-7", 1.0),
        ("format", {"format": "integer"}, "7.5", 0.0),
        ("format", {"format": "number"}, "7.5e3", 1.0),
        ("format", {"format": "number"}, "about 7", 0.0),
        ("format", {"format": "word"}, "router", 1.0),
        ("format", {"format": "word"}, "a router", 0.0),
        ("format", {"format": "line"}, "a router", 1.0),
        ("format", {"format": "line"}, "a\nb", 0.0),
        ("format", {"format": "python"}, "def f(): return 1", 1.0),
        ("format", {"format": "python"}, "def f(: return 1", 0.0),
        ("format", {"format": "python"}, "", 0.0),
        ("digits", {"answer": "123"}, "123", 1.0),
        ("digits", {"answer": "123"}, "123!!", 0.5),
        ("digits", {"answer": "123"}, "132!", -0.25),
        ("digits-flawed", {"answer": "123"}, "132!!", 1.2),
        ("digits-flawed", {"answer": "123"}, "123!", 1.6),
    ],
)
def test_a_check_gives_what_it_says(name, row, text, expected):
    assert score(name, row, text) == pytest.approx(expected)


TESTS = {"tests": "assert double(4) == 8\nassert double(0) == 0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def double(x): return 2 * x", 1.0),
        ("Here it is:\n```python\ndef double(x):\n    return x + x\n```\nDone.", 1.0),
        ("def double(x): return x", 0.0),
        ("exit(0)", 0.0),
        ("open('/etc/passwd').read()\ndef double(x): return 2 * x", 0.0),
        ("not python", 0.0),
    ],
)
def test_unit_tests_run_confined(text, expected):
    from model.data import confinement

    if not confinement.level().full:
        pytest.skip("this kernel cannot confine a program")
    assert score("unit-tests", TESTS, text) == expected


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("exact", {}, "p.jsonl, line 3: the reward exact needs 'answer' beside the prompt"),
        ("exact", {"answer": ""}, "line 3: the reward exact needs 'answer'"),
        ("exact", {"answer": ["1"]}, "line 3: the reward exact needs 'answer'"),
        ("digits", {"answer": True}, "line 3: the reward digits needs 'answer'"),
        ("format", {"format": "yaml"}, "line 3: the format 'yaml' is not known; give one of json, integer"),
        ("unit-tests", {"tests": "assert double(4 ="}, "line 3: 'tests' is no Python that can be read"),
    ],
)
def test_rows_without_what_a_check_needs_are_named(name, row, words):
    with pytest.raises(DataError, match=words):
        score(name, row, "1")


def test_what_is_no_reward_is_told_with_those_that_are():
    with pytest.raises(
        ConfigError, match=r"the reward exakt is neither a folder nor a check: .* exact, format, unit-tests"
    ):
        find_reward("exakt", CPU)
