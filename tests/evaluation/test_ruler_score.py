"""The scores of RULER against hand-worked cases of NVIDIA's program."""

import pytest

from model.errors import DataError
from model.evaluation import ruler


def test_the_score_is_the_share_of_references_found_and_of_a_question_whether_any_is():
    reply, references = ["It is 17, then 29."], [["17", "29", "31", "47"]]
    assert ruler.score("niah_multivalue", reply, references) == (50.0, 0)
    assert ruler.score("qa_1", reply, references) == (100.0, 0)
    assert ruler.score("qa_2", ["no"], references) == (0.0, 0)


def test_the_mean_is_in_percent_and_rounded_to_two_digits():
    assert ruler.score("vt", ["abc", "", "x"], [["ABC"], ["ABC"], ["ABC"]]) == (33.33, 1)
    assert ruler.score("cwe", ["a b", "a", "b"], [["a", "b", "c"]] * 3) == (44.44, 0)


def test_a_reference_is_found_within_words_and_in_any_case():
    assert ruler.score("fwe", ["XKCDQ"], [["kcd"]])[0] == 100
    assert ruler.score("niah_single_3", ["A-B"], [["a-b"]])[0] == 100


@pytest.mark.parametrize("reply", ["", "  \n\t", "\x00\x1f", " \x0b\x01 "])
def test_what_is_empty_when_stripped_is_a_null(reply):
    assert ruler.score("niah_single_1", [reply], [["1"]]) == (0.0, 1)


def test_control_characters_end_a_line_and_are_no_part_of_an_answer():
    assert ruler.score("niah_single_1", ["12\x0734"], [["1234"]])[0] == 0
    assert ruler.score("niah_single_1", ["12\x0734"], [["12\n34"]])[0] == 100
    assert ruler.score("niah_single_1", ["12\x7f34"], [["12\x7f34"]])[0] == 100  # 127 is none of them


@pytest.mark.parametrize("family", ruler.FAMILIES)
def test_the_families_are_tasks_too(family):
    assert ruler.score(family, ["b"], [["a", "b"]])[0] == (100 if family == "qa" else 50)


@pytest.mark.parametrize(
    ("task", "replies", "references", "words"),
    [
        ("niah", [], [], "0 replies"),
        ("niah", ["a"], [["a"], ["b"]], "1 replies and 2"),
        ("niah", ["a"], [[]], "no references"),
        ("needle", ["a"], [["a"]], "no task 'needle'"),
    ],
)
def test_a_mistake_is_a_sentence(task, replies, references, words):
    with pytest.raises(DataError, match=words):
        ruler.score(task, replies, references)
