"""Copies of evaluation items are found in every dress, and what many items share is no copy."""

import json
import re
import textwrap

import pytest

from model.data.synthesis.decontaminate import Contamination, Item, read_items
from model.errors import DataError

HEADER = "Answer the following multiple choice question. The last line of your response should be a letter from A to D."
QUESTIONS = [
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many did she sell?",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take to make one?",
    "Josh decides to try flipping a house. He buys it for 80,000 dollars and puts in 50,000 in repairs. What was the profit?",
    "小明有五个苹果，他给了小红两个，又从妈妈那里得到三个。请问小明现在一共有几个苹果？",
]
SHORT = ["Who wrote the Iliad?", "What is the largest planet here?", "太阳有多大"]
FOUND = Contamination(
    [Item(f"q{number}", f"{HEADER}\n{text}") for number, text in enumerate(QUESTIONS)]
    + [Item(f"s{number}", text) for number, text in enumerate(SHORT)]
)
NOISE = "The committee met on Tuesday to discuss the budget of the coming year, and nothing was decided in the end. "


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    "dress",
    [
        lambda text: text,
        lambda text: "\n".join(textwrap.wrap(text, 20)) if " " in text else "\n".join(text),
        str.upper,
        lambda text: NOISE * 5 + text + NOISE * 5,
        lambda text: text.replace(",", " ;").replace("，", "、"),
        lambda text: f"> **{text}**",
        lambda text: "\u200b".join(text),
        lambda text: "".join(c + "\u00ad" if c in "aeiou" else c for c in text),
        lambda text: f"<p>{text.replace(' ', ' <b>').replace('，', '</b>，')}</p>",
        lambda text: re.sub(r"\b([a-z]{3})([a-z]+)", "\\1-\n\\2", text),
    ],
    ids=[
        "verbatim",
        "wrapped",
        "capitals",
        "embedded",
        "signs",
        "markdown",
        "unseen",
        "soft hyphens",
        "tags",
        "cut words",
    ],
)
def test_copies_are_found(number, dress):
    score, name = FOUND((dress(QUESTIONS[number]), "An answer."))
    assert score >= 0.5 and name == f"q{number}"
    assert FOUND(("A question?", dress(QUESTIONS[number])))[1] == f"q{number}"


@pytest.mark.parametrize(
    "text",
    [HEADER, HEADER + " What is the boiling point of water at sea level?", NOISE, "", "小红有三只猫。",
     "Natalia sold clips in April. How many clips did she sell to her friends?", "Planet", "太阳"],
)  # fmt: skip
def test_boilerplate_and_other_texts_are_kept(text):
    assert FOUND((text, "A"))[0] < 0.5


def test_half_an_item_is_scored_as_half():
    score, name = FOUND((" ".join(QUESTIONS[0].split()[:15]), ""))
    assert name == "q0" and 0.3 < score < 0.8


@pytest.mark.parametrize(
    ("parts", "name"),
    [(("who wrote the iliad", ""), "s0"), (("x", "Yes.\nWho wrote  the ILIAD?"), "s0"),
     (("I ask who wrote the Iliad.", ""), ""),
     (("Tell me what is the largest planet here, please", ""), "s1"), (("太阳有多大？", ""), "s2"),
     (("她问太阳有多大。", ""), "s2")],
)  # fmt: skip
def test_short_items_are_found_whole(parts, name):
    """An item of four words counts as a line of its own only; of five words or characters it is found inside other text."""
    assert FOUND(parts)[1] == name


def test_an_item_that_is_part_of_another_is_found_whole():
    whole = QUESTIONS[0]
    part = " ".join(whole.split()[:10])
    found = Contamination([Item("whole", whole), Item("part", part)])
    assert found((part, "")) == (1.0, "part") and found((" ".join(part.split()[:9]), ""))[0] < 0.5


def test_an_item_given_twice_is_no_boilerplate():
    assert Contamination([Item("a", QUESTIONS[0]), Item("b", QUESTIONS[0].upper())])((QUESTIONS[0], "")) == (1.0, "a")


@pytest.mark.parametrize("number", range(4))
def test_a_question_that_several_sets_have_in_other_words_around_it_is_found(number):
    """Its runs stand in more items than one, as those of boilerplate do."""
    text = QUESTIONS[number]
    forms = [f"Question: {text}", f"Solve this problem. {text} Think step by step.", f"{text} 答案"]
    found = Contamination([Item(f"i{place}", form) for place, form in enumerate(forms)])
    for dress in (text, text.upper(), NOISE + text + NOISE, f"User: {text} Assistant:"):
        assert found((dress, "An answer."))[0] >= 0.8
    assert found((text[: len(text) // 2], ""))[0] < 0.5
    assert found((QUESTIONS[number - 1], ""))[0] == 0


def test_boilerplate_longer_than_its_questions_is_kept():
    found = Contamination([Item(f"i{place}", f"{HEADER} Why {word}?") for place, word in enumerate("abcdef")])
    assert found((HEADER, "A"))[0] < 0.5 and found((f"{HEADER} Who wrote this?", "A"))[0] < 0.5
    assert found((f"{HEADER} Why c?", "A")) == (1.0, "i2")


def test_no_items_find_nothing():
    assert Contamination([])(("anything at all that is long enough to have runs", "")) == (0.0, "")


def test_items_are_read_from_rows_and_paragraphs(tmp_path):
    rows = [{"question": "one?", "answer": "1"}, {"instruction": "add", "input": "2 3"}, "plain"]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "set.txt").write_text("first\nitem\n\nsecond")
    texts = [item.text for item in read_items([tmp_path / "set.jsonl", tmp_path / "set.txt"])]
    assert texts == ["one?", "add 2 3", "plain", "first\nitem", "second"]
    (tmp_path / "bad.jsonl").write_text('{"label": 3}')
    with pytest.raises(DataError, match=r"line 1.*question"):
        list(read_items([tmp_path / "bad.jsonl"]))
