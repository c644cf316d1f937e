"""One pair in every spelling, questions with the rest of their rows, and mistakes that name the line."""

import json

import pytest

from model.data.instructions.preferences import pair_of, question_in, read_pairs
from model.data.readers import Row
from model.errors import DataError

ASKED = {"role": "user", "content": "2 + 2?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("4", "5"))
SYSTEM = {"role": "system", "content": "Add."}

SPELLINGS = {
    "texts": {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    "question": {"question": "2 + 2?", "chosen": "4", "rejected": "5"},
    "messages": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "one message": {"prompt": [ASKED], "chosen": GOOD, "rejected": BAD},
    "whole conversations": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "whole conversations and a prompt": {"prompt": "2 + 2?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "2 + 2?"}],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
    "transcripts": {
        "chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4",
        "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5",
    },
    "preferred": {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_the_same_pair(name):
    pair = pair_of(Row("a, line 1", SPELLINGS[name]))
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == ([ASKED], GOOD, BAD, 0.0)


def test_what_comes_before_and_the_margin_are_kept():
    pair = pair_of(
        Row("a", {"system": "Add.", "instruction": "2 +", "input": "2?", "chosen": "4", "rejected": "5", "margin": 2})
    )
    assert (pair.prompt, pair.margin) == ([SYSTEM, ASKED | {"content": "2 +\n2?"}], 2.0)
    long = [ASKED, GOOD, ASKED]
    assert pair_of(Row("a", {"chosen": [*long, GOOD], "rejected": [*long, BAD]})).prompt == long


MISTAKES = {
    "no rejected": ({"prompt": "x", "chosen": "y"}, "no 'rejected' among its keys 'prompt', 'chosen'"),
    "null chosen": ({"prompt": "x", "chosen": None, "rejected": "y"}, "no 'chosen' among its keys"),
    "no prompt": ({"chosen": "y", "rejected": "z"}, "'chosen' is a text and there is no 'prompt'"),
    "equal texts": ({"prompt": "x", "chosen": "y", "rejected": "y"}, "chosen and rejected are the same"),
    "equal conversations": ({"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]}, "chosen and rejected are the same"),
    "other questions": (
        {"chosen": [ASKED, GOOD], "rejected": [ASKED | {"content": "3 + 3?"}, BAD]},
        "are not one conversation but for its last answer",
    ),
    "answers alone": ({"chosen": [GOOD], "rejected": [BAD]}, "are not one conversation but for its last answer"),
    "empty chosen": ({"prompt": "x", "chosen": "", "rejected": "y"}, "'chosen' is empty"),
    "empty list": ({"prompt": "x", "chosen": [], "rejected": [BAD]}, "'chosen' is empty"),
    "list of texts": ({"prompt": "x", "chosen": ["y"], "rejected": ["z"]}, "'chosen' is no list of messages"),
    "empty answer": ({"prompt": "x", "chosen": [GOOD], "rejected": [BAD | {"content": " "}]}, "is an empty answer"),
    "two answers": ({"prompt": "x", "chosen": [GOOD, GOOD], "rejected": [BAD]}, "'chosen' has 2 messages after the prompt"),
    "ends with a user": (
        {"chosen": [ASKED, GOOD, ASKED], "rejected": [ASKED, GOOD, ASKED | {"content": "?"}]},
        "'chosen' is of the role 'user'; an answer is the assistant's",
    ),
    "prompt with an answer": ({"prompt": [ASKED, GOOD], "chosen": "y", "rejected": "z"}, "the prompt ends with an answer"),
    "odd role": ({"prompt": [{"role": "boss", "content": "x"}], "chosen": "y", "rejected": "z"}, "the role 'boss'"),
    "number": ({"prompt": "x", "chosen": 1, "rejected": 2}, "a conversation is a list of messages, not int"),
    "odd margin": ({"prompt": "x", "chosen": "y", "rejected": "z", "margin": -1}, "'margin' is -1; give a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_the_line(name, tmp_path):
    record, sentence = MISTAKES[name]
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(SPELLINGS['texts'])}\n{json.dumps(record)}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        list(read_pairs(str(path)))
    assert str(error.value).startswith(f"{path}, line 2") and sentence in str(error.value)


def test_a_question_keeps_its_row():
    row = {"prompt": "2 + 2?", "answer": "4"}
    question = question_in(Row("a, line 1", row))
    assert (question.messages, question.row) == ([ASKED], row)
    assert question_in(Row("a, line 1", {"messages": [SYSTEM, ASKED]})).messages == [SYSTEM, ASKED]
    for record, sentence in (
        ({"text": "x"}, "no question among"),
        ({"messages": [ASKED, GOOD]}, "ends with an answer"),
    ):
        with pytest.raises(DataError, match=f"a, line 1: .*{sentence}"):
            question_in(Row("a, line 1", record))
