"""Which side a question is on, what is left out and by what name, and a fingerprint of all that is learnt."""

import json

import numpy as np
import pytest

from model.data.instructions.examples import prepare_chats, prepare_pairs, validation_bound
from model.data.instructions.rendering import Renderer
from model.errors import DataError
from model.tokenizer.bpe import train_tokenizer
from model.tokenizer.chat_template import turns_template

TOKENIZER = train_tokenizer(["User: Assistant: what is the sum of one and two three four\n" * 9], 280)
RENDERER = Renderer(TOKENIZER, turns_template(TOKENIZER))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(number, answer="one", **more):
    return {"prompt": f"what is {number}", "completion": answer, **more}


def chats(source, length=200, fraction=0.1, **more):
    sources = [source] if isinstance(source, str) else source
    return prepare_chats(sources, RENDERER, length=length, train_on="answers", validation_fraction=fraction, **more)


def texts(examples, **side):
    table = examples.table
    return [TOKENIZER.decode(table.ids[table.starts[i] : table.starts[i + 1]]) for i in examples.of(**side)]


def test_a_question_is_on_one_side_whatever_its_answers_and_its_file(tmp_path):
    one = write(tmp_path / "a.jsonl", [asked(number) for number in range(40)])
    two = write(tmp_path / "b.jsonl", [asked(number, "two") for number in range(40)])
    found = chats([one, two], fraction=0.2)
    held_out = texts(found, held_out=True)
    assert len(held_out) == 16  # a fifth of the questions, with both answers
    assert sorted(text.replace("two", "one") for text in held_out)[::2] == sorted(t for t in held_out if "one" in t)
    assert len(found.of(held_out=False, source=0)) == len(found.of(held_out=False, source=1)) == 32
    fewer = texts(chats(one, fraction=0.1), held_out=True)
    assert set(fewer) < set(held_out)  # by the content, not by the place


def test_the_questions_for_samples_are_held_out_and_different(tmp_path):
    source = write(tmp_path / "a.jsonl", [asked(number, answer) for number in range(20) for answer in ("one", "two")])
    found = chats(source, fraction=0.2, questions=3)
    held_out = " ".join(texts(found, held_out=True))
    questions = [question.messages[-1]["content"] for question, _ in found.questions]
    assert len(set(questions)) == 3 and all(question in held_out for question in questions)
    assert {answer for _, answer in found.questions} == {"one"}
    assert chats(source).questions == []


@pytest.mark.parametrize(
    ("positions", "fraction", "held_out"),
    [([0.5, 0.1, 0.9], 0.01, 1), ([0.5, 0.1, 0.9], 0.99, 2), ([0.1, 0.1, 0.9, 0.9], 0.5, 2), ([0.4, 0.4], 0.5, 0)],
)
def test_both_sides_have_a_question_where_there_are_two(positions, fraction, held_out):
    positions = np.array(positions)
    assert (positions < validation_bound(positions, fraction)).sum() == held_out
    assert validation_bound(positions, 0.0) == 0.0


def test_long_examples_are_left_out_whole_and_named(tmp_path):
    rows = [asked(number) for number in range(12)]
    rows[4:5] = [asked(4, "three " * 50)]
    path = write(tmp_path / "a.jsonl", rows)
    found = chats(path, length=40)
    tokens = len(RENDERER.chat(next(iter(_chats(path, 5)))).pop().ids)
    assert found.left_out.sentences() == [f"examples of over 40 tokens: 1 left out, {path}, line 5 ({tokens})"]
    assert json.loads(found.left_out.files()["left_out.jsonl"])["row"].startswith(f"{path}, line 5")
    assert len(found.table) == 11
    ends = found.table.ids[found.table.starts[1:] - 1]
    assert (ends == TOKENIZER.eos_id).all() and found.table.learnt[found.table.starts[1:] - 1].all()
    with pytest.raises(
        DataError, match=r"no conversation can be learnt \(examples of over 5 tokens: 12 left out.* and 9 more\): raise"
    ):
        chats(path, length=5)


def test_tools_that_no_template_writes_are_told(tmp_path):
    tools = [{"type": "function", "function": {"name": "add"}}]
    path = write(tmp_path / "a.jsonl", [asked(1), asked(2, tools=tools), asked(3)])
    found = chats(path)
    assert len(found.table) == 3
    assert found.left_out.sentences() == [f"tools that the chat template does not write: 1 left out, {path}, line 2"]


def test_an_example_may_fill_a_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [asked(number) for number in range(5, 15)])
    tokens = max(chats(path).table.lengths)
    assert not chats(path, length=int(tokens)).left_out.rows
    assert chats(path, length=int(tokens) - 1).left_out.rows


def _chats(path, line):
    from model.data.instructions.conversations import read_chats

    return [chat for chat in read_chats(path) if chat.where.endswith(f"line {line}")]


def test_the_fingerprint_is_that_of_all_that_is_learnt(tmp_path):
    rows = [asked(number) for number in range(10)]
    path = write(tmp_path / "a.jsonl", rows)
    first = chats(path).fingerprint
    assert first == chats(write(tmp_path / "copy.jsonl", rows)).fingerprint
    assert first != chats(path, fraction=0.5).fingerprint
    changed = write(tmp_path / "b.jsonl", [*rows[:-1], asked(9, "two")])
    assert first != chats(changed).fingerprint
    last = prepare_chats([path], RENDERER, length=200, train_on="all", validation_fraction=0.1)
    assert first != last.fingerprint


def test_pairs_are_parted_by_their_question_too(tmp_path):
    rows = [
        {"prompt": f"what is {number}", "chosen": "one", "rejected": other, "margin": 1.5}
        for number in range(20)
        for other in ("two", "three")
    ]
    rows.append({"prompt": "long", "chosen": "one", "rejected": "three " * 50})
    path = write(tmp_path / "pairs.jsonl", rows)
    found = prepare_pairs([path], RENDERER, length=60, validation_fraction=0.1)
    assert (len(found.train), len(found.validation)) == (36, 4)
    assert {margin for _, margin in found.train} == {1.5}
    prompts = [{tuple(pair.prompt_ids) for pair, _ in side} for side in (found.train, found.validation)]
    assert not prompts[0] & prompts[1]
    assert found.left_out.sentences()[0].startswith(f"pairs of over 60 tokens: 1 left out, {path}, line 41 (")
