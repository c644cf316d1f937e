"""Equal answers are read as equal, different ones are not, and a vote needs more than half."""

import pytest

from model.data.synthesis.answers import final_answer, majority, read
from model.data.synthesis.expressions import evaluate

SAME = [
    ("1,000", "1000", "1000.0", "1 000", "1e3", "$1000$", "**1,000**", "x = 1000", "10 * 100 = 1000", "1000."),
    ("0.5", "1/2", ".5", "½", "\\frac{1}{2}", "$\\dfrac{1}{2}$", "0.50", "\\frac12", "\\dfrac 12"),
    ("-3", "−3", "–3", "- 3", "-3.0"),
    ("1½", "1 1/2", "3/2", "1.5"),
    ("5 km", "5km", "5 kilometres", "5 Kilometers", "\\text{5 km}", "5 \\text{ km}"),
    ("$12", "12 dollars", "\\$12", "12 USD"),
    ("50%", "50 percent", "50\\%"),
    ("12 apples", "12 apple"),
    ("300000", "3 \\times 10^5", "3*10^{5}"),
    ("Paris", "paris.", "  'Paris' "),
    ("(A)", "A", "a."),
    ("1, 2, 3", "1,2,3"),
]
DIFFERENT = [
    ("1,000", "1,00"), ("1000", "100"), ("0.5", "0.05"), ("1/2", "2/1"), ("3", "-3"), ("5 km", "5 m"), ("5", "5%"),
    ("$5", "5 €"), ("1, 2, 3", "1, 3, 2"), ("123", "1, 2, 3"), ("2024-03-01", "2024-03-10"), ("a\n3", "b\n3"), ("3/0", "3"),
    ("x\ny=3", "z\ny=3"),
]  # fmt: skip


@pytest.mark.parametrize("group", SAME, ids=lambda group: group[0])
def test_ways_to_write_an_answer_are_one(group):
    assert len({read(answer) for answer in group}) == 1


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_answers_stay_apart(first, second):
    assert read(first) != read(second)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("6 * 7 = 42\nThe answer is 42.", "42"),
        ("So the answer is: $42$. I hope this helps.", "$42$"),
        ("The answer is 3.5. Good luck", "3.5"),
        ("first answer: 3\nno, the answer is 4!", "4"),
        ("steps\n#### 1,000\n", "1,000"),
        ("so \\boxed 7 of 9.", "7"),
        ("so $\\boxed7$, not 9", "7"),
        ("so \\boxed 2.5.", "2.5"),
        ("\\boxed 7,000", "\\boxed 7,000"),
        ("\\boxed 3/4", "\\boxed 3/4"),
        ("thus \\boxed{\\frac{1}{2}} holds", "\\frac{1}{2}"),
        ("The answer is 5, so \\boxed{6}.", "6"),
        ("答案是 42。", "42"),
        ("Final Answer: 7 km.\nmore", "7 km"),
        ("42", "42"),
        ("\\boxed{open", "\\boxed{open"),
    ],
)
def test_the_answer_of_a_response(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("candidates", "winner"),
    [
        (["1,000", "7", "1000"], "1,000"),
        (["\\boxed{0.5}", "#### 1/2", "The answer is .5", "3", "4"], "\\boxed{0.5}"),
        (["5", "5 km", "4 km"], "5"),
        (["5", "5 km", "5 m"], None),  # which of the two lengths the bare number means is not known
        (["1", "1", "2", "2"], None),  # a tie
        (["1", "1", "2", "3"], None),  # a lead, no majority
        (["yes", "Yes.", "no"], "yes"),
        (["", "", "2"], None),  # no answer is not an answer
        (["", "2"], None),
        (["4"], "4"),
        ([], None),
    ],
)
def test_majority(candidates, winner):
    assert majority(candidates) == winner


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 * (3 + 4) - 1/2", "27/2"), ("0.1 + 0.2", "3/10"), ("7 // 2 % 2", "1"), ("2^10", "1024"), ("2**-1", "1/2"),
     ("1,000 × 3 ÷ 2", "1500"), ("−5 + +3", "-2"), ("1e2", "100")],
)  # fmt: skip
def test_expressions_are_exact(expression, value):
    assert str(evaluate(expression)) == value


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "9**9999", "__import__('os').getpid()", "1/0", "(1)(2)", "True", "x", "[1][0]", "1 if 1 else 2", "1j", "'a'*9",
     "(" * 500 + "1" + ")" * 500, "1" * 3000, "", "1_0", "10**4000 * 10**4000", "2**0.5"],
)  # fmt: skip
def test_what_is_no_plain_arithmetic_is_refused(expression):
    with pytest.raises(ValueError):
        evaluate(expression)
