"""Every kind of check accepts the right answer, however it is written, and no wrong one."""

from functools import partial

import pytest

from model.data import confinement
from model.data.synthesis.checks import EXECUTED, KINDS, CheckError, needs_execution, verify

run = partial(confinement.run, allow_weaker=True)  # the programs of this file are known
PROGRAM = "for n in (1, 2):\n    print('row', n)"
FUNCTION = 'def area(width: int, height=2, *, unit="m") -> float:\n    """Area of a rectangle."""\n'
BROKEN = "def f(x):\n    return x - 1\n\nassert f(1) == 2"
TABLE = {"a": "b", "b": "c", "c": "a"}
ORIGINAL = ["First.", "Second.", "Third."]

# kind: check, right responses, wrong responses
CASES = {
    "arithmetic": (
        {"expression": "(3 + 4) * 100", "steps": True},
        ["700", "3 + 4 = 7\n7 * 100 = 700\nThe answer is 700.", "It is 700 metres.", "\\boxed{700.0}", "3 + 4 = 7\n#### 700",
         "700.", "We get 3+4 = 7, so 700", "First, 3 + 4 = 7. Then 7 × 100 = 700, so 700", "7 / 6 = 1.17\n700",
         "2 * 3 + 4 = 10, x - 3 + 4 = 9, and 15 / 2 = 7 remainder 1, but it is 700"],
        ["First, 3 + 4 = 8. Then 7 × 100 = 700, so 700", "$3 + 4 = 8$\n700", "7 / 6 = 1.18\n700", "7 / 2 = 3\n700",
         "600 or 700", "not 700", "It is not 700", "between 600 and 700", "600 (not 700)", "600, as 7 * 100 > 700", "不是700",
         "701", "-700", "The answer is 70.", "3 + 4 = 8\n7 * 100 = 700\nThe answer is 700.", "no idea", "700\n701", "70 0",
         "3 + 4 = 7 = 8\n700"],
    ),
    "unit": ({"value": "2.5", "from": "metres", "to": "centimetres"}, ["250", "250 cm", "It is 250.", "250 centimetres"],
             ["25", "2500", "250 m", "The answer is 250 kilometres."]),
    "date": (
        {"start": "2024-02-28", "days": 2}, ["2024-03-01", "The answer is 2024-03-01."],
        ["2024-03-02", "2024-02-30", "2023-03-01", "soon", "2024-02-28 or 2024-03-01"],
    ),
    "weekday": ({"date": "2024-03-01"}, ["Friday", "It was a friday.", "Not Thursday but Friday"],
                ["Thursday", "Friday or Saturday", "Thursday or Friday", "not a Friday", "day"]),
    "days_between": ({"start": "2024-02-28", "end": "2024-03-01"}, ["2", "2 days", "The answer is 2."], ["1", "3", "-2"]),
    "count": (
        {"text": "an anna ann an", "item": "an", "unit": "word"}, ["2", "The answer is 2."], ["4", "3", "two or 3"],
    ),
    "sort": (
        {"items": ["10", "9", "-2"], "order": "descending"}, ["10, 9, -2", "[10, 9, -2]", "10\n9\n-2", "- 10\n- 9\n- -2"],
        ["9, 10, -2", "10, 9", "10, 9, -2, -2", "-2, 9, 10"],
    ),
    "set": (
        {"left": ["a", "b"], "right": ["b", "c"], "operation": "union"}, ["a, b, c", "['a', 'b', 'c']", "c, b, a."],
        ["a, b", "a, b, b, c", "a, b, d"],
    ),
    "lookup": (
        {"table": TABLE, "key": "a", "hops": 2}, ["c", "a leads to b.\nb leads to c.\nc", "The answer is c."], ["b", "a", "cc"],
    ),
    "order": (
        {"original": ORIGINAL, "shown": ["Third.", "First.", "Second."]}, ["2 3 1", "2, 3, 1"], ["2 3", "1 2 3", "3 2 1"],
    ),
    "cloze": ({"text": "the cat and the dog", "blanked": "the ____ and the dog"}, ["cat", "Cat."], ["dog", "cat dog", ""]),
    "signature": (
        {"source": FUNCTION},
        ['def area(width: int, height=2, *, unit="m") -> float:',
         "```python\ndef area(width:int,height = 2,*,unit='m')->float:"],
        ['def area(width: int, height=3, *, unit="m") -> float:', "def area(width: int) -> float:", "area", "def area(:"],
    ),
    "docstring": (
        {"source": FUNCTION}, ["Area of a rectangle.", '"""Area of a  rectangle."""'],
        ["Area a of rectangle.", "Area of a rectangle. And more.", "area of a rectangle."],
    ),
    "python_stdout": (
        {"program": PROGRAM},
        ["row 1\nrow 2", "row 1  \nrow 2\n\n", "```\nrow 1\nrow 2\n```", "It prints:\nrow 1\nrow 2"],
        ["row 1", "row 2\nrow 1", "row 1\nrow 2\nrow 3", "row 0\nrow 1\nrow 2", "row 1\nrow 3", ""],
    ),
    "bug": (
        {"program": BROKEN, "fixed": BROKEN.replace("-", "+")}, ["2", "The answer is 2."], ["1", "3", "line"],
    ),
}  # fmt: skip


def check_of(kind):
    return {"kind": kind, **CASES[kind][0]}


def test_every_kind_is_tested():
    assert set(CASES) == {*KINDS, *EXECUTED}


@pytest.mark.parametrize(("kind", "response"), [(kind, right) for kind in CASES for right in CASES[kind][1]])
def test_right_answers_agree(kind, response):
    assert verify(check_of(kind), response, run) == ""


@pytest.mark.parametrize(("kind", "response"), [(kind, wrong) for kind in CASES for wrong in CASES[kind][2]])
def test_wrong_answers_do_not(kind, response):
    assert verify(check_of(kind), response, run) != ""


def test_a_check_that_would_take_for_ever_is_refused():
    with pytest.raises(CheckError, match="more than 10,000 hops"):
        verify({"kind": "lookup", "table": {"a": "a"}, "key": "a", "hops": 10**12}, "a")


def test_an_endless_decimal_may_be_rounded():
    third = {"kind": "arithmetic", "expression": "100 / 3"}
    assert verify(third, "33.33") == verify(third, "33.3333333") == verify(third, "100/3") == ""
    assert verify(third, "33.4") and verify(third, "33") and verify({"kind": "arithmetic", "expression": "1/4"}, "0.3")
    assert verify({"kind": "arithmetic", "expression": "12345 / 10000"}, "1.23")  # it ends, so it is written out


@pytest.mark.parametrize(
    "check",
    [{}, {"kind": "magic"}, {"kind": "arithmetic"}, {"kind": "arithmetic", "expression": "open('x')"},
     {"kind": "unit", "value": 1, "from": "metres", "to": "parsecs"}, {"kind": "date", "start": "tomorrow", "days": 1},
     {"kind": "date", "start": "2024-01-01", "days": 10**12}, {"kind": "sort", "items": ["a"], "order": "ascending"},
     {"kind": "lookup", "table": [], "key": "a", "hops": 1}, {"kind": "cloze", "text": "abc", "blanked": "x____"},
     {"kind": "signature", "source": "x = 1"}, {"kind": "bug", "program": "a", "fixed": "a"},
     {"kind": "set", "left": 3, "right": [], "operation": "union"}, {"kind": "count", "text": 3, "item": "a"}],
)  # fmt: skip
def test_a_check_that_cannot_be_recomputed_says_so(check):
    with pytest.raises(CheckError, match="check"):
        verify(check, "1", run)


def test_a_program_that_fails_confirms_nothing():
    for program in ("print(1)\nint('x')", "import os; print(1, flush=True); os._exit(0)", "raise SystemExit(1)"):
        assert "did not end well" in verify({"kind": "python_stdout", "program": program}, "1", run)
    assert verify({"kind": "python_stdout", "program": "import sys; print(1); sys.exit()"}, "1", run) == ""
    fixed_fails = {"kind": "bug", "program": "assert 1 == 2", "fixed": "assert 1 == 3"}
    assert "fixed program fails" in verify(fixed_fails, "1", run)
    assert "no error" in verify({"kind": "bug", "program": "assert 1 == 1", "fixed": "assert 2 == 2"}, "1", run)


def test_what_needs_execution_is_never_run_without_a_runner():
    check = {"kind": "python_stdout", "program": "print(1)"}
    assert needs_execution(check) and not needs_execution({"kind": "sort", "items": []})
    with pytest.raises(CheckError):
        verify(check, "1")
