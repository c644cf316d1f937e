"""Scores and comparisons by a model: what is read of its replies, both orders, and what could not be read."""

from collections import Counter

import pytest

from model.endpoint.judge import (
    Comparison,
    Pair,
    Question,
    Tally,
    compare,
    judge,
    parse_score,
    parse_verdict,
    score_prompt,
    scores,
)
from tests.endpoint.server import Act, Server


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good.\nScore: [[7]]", 7.0),
        ("A rating of [[3]] would be hard; Score: [[ 8.5 ]]", 8.5),
        ("[[9/10]]", 9.0),
        ('```json\n{"reason": "fine", "score": 6}\n```', 6.0),
        ("Overall score: 4/10", 4.0),
        ("**Rating:** 5", 5.0),
        ("评分：8", 8.0),
        ("On a scale with a score 1-10 it is fair.", None),
        ("Score: [[11]]", None),
        ("Score: [[0]]", None),
        ("Score: N", None),
        ('{"score": true}', None),
        ("seven", None),
        ("", None),
    ],
)
def test_a_score_is_read_or_is_missing(text, score):
    assert parse_score(text) == score


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A is better: [[A]]", "A"),
        ("Not [[A]] but [[B]]", "B"),
        ("[[C]]", "tie"),
        ("[[tie]]", "tie"),
        ("My final verdict is: [[A>>B]]", "A"),
        ("[[A<B]] ", "B"),
        ("[[B>A]]", "B"),
        ("[[B << A]]", "A"),
        ("[[A=B]]", "tie"),
        ("A", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_or_is_missing(text, verdict):
    assert parse_verdict(text) == verdict


def test_scores_come_with_their_text_and_unread_ones_with_their_problem(client_of):
    replies = {"good": "Fine. [[9]]", "bad": "[[2]]", "vague": "it depends"}

    def rule(call):
        name = next(name for name in (*replies, "refused", "long") if f"\n{name}\n" in call.prompt)
        return (
            Act(status=400)
            if name == "refused"
            else Act(text=replies.get(name), finish="length" if name == "long" else "stop")
        )

    with Server(rule) as server, client_of(server) as client:
        questions = [Question(name, score_prompt("Say it.", name)) for name in (*replies, "refused", "long")]
        found = {judgement.id: judgement for judgement in scores(client, questions)}
    assert {id: judgement.value for id, judgement in found.items()} == {
        "good": 9.0, "bad": 2.0, "vague": None, "refused": None, "long": None,
    }  # fmt: skip
    assert found["good"].text == "Fine. [[9]]" and found["good"].problem == ""
    assert found["vague"].problem == "no verdict in the reply" and "HTTP 400" in found["refused"].problem
    assert "cut off" in found["long"].problem


def test_a_judge_may_have_a_system_message_and_a_parser_of_its_own(client_of):
    with Server(lambda call: Act(text="Correct")) as server, client_of(server) as client:
        (found,) = judge(client, [Question(1, "Is it?", system="You are a judge.")], lambda text: text == "Correct")
    assert found.value is True
    assert [message["role"] for message in server.calls[0].body["messages"]] == ["system", "user"]


def judge_of(call):
    """A judge that sees which answer is better, prefers A between equals, and is at times of no use."""
    a, b = (call.prompt.split(f"<response {name}>\n")[1].split("\n")[0] for name in "AB")
    if "mute" in (a, b):
        return Act(text="Both have merits.")
    return Act(text=f"[[{'B' if b > a else 'A'}]]")


def test_both_orders_are_asked_and_disagreement_is_a_tie(client_of):
    pairs = [
        Pair(1, "q", "good", "bad"),
        Pair(2, "q", "bad", "good"),
        Pair(3, "q", "same", "same"),
        Pair(4, "q", "x", "mute"),
    ]
    with Server(judge_of) as server, client_of(server) as client:
        found = {comparison.id: comparison for comparison in compare(client, pairs)}
    assert {id: comparison.winner for id, comparison in found.items()} == {1: "first", 2: "second", 3: "tie", 4: None}
    assert found[3].orders == ("first", "second") and found[4].problem == "no verdict in the reply"
    prompts = Counter(call.prompt for call in server.calls)
    assert sum(prompts.values()) == 5  # the first two pairs are one, and equal answers make one question of two
    tally = Tally()
    for comparison in found.values():
        tally.add(comparison)
    assert tally == Tally(first=1, second=1, ties=1, unparsed=1, disagreements=1, position_a=1)


def test_a_tie_in_both_orders_is_no_disagreement():
    tally = Tally()
    tally.add(Comparison(1, "tie", ("tie", "tie"), ("", "")))
    assert tally == Tally(ties=1)


def test_other_prompts_may_be_asked(client_of):
    def prompt(instruction, a, b):
        return f"{instruction}: {a} or {b}?"

    with Server(lambda call: Act(text=call.prompt.split(" or ")[0][3:])) as server, client_of(server) as client:
        (found,) = compare(
            client, [Pair(1, "q", "yes", "no")], prompt=prompt, parse=lambda text: "A" if text == "yes" else "B"
        )
    assert found.winner == "first" and {call.prompt for call in server.calls} == {"q: yes or no?", "q: no or yes?"}
