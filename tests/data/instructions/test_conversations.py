"""One conversation in every spelling; and what cannot be read, in one sentence that names the line."""

import json

import pytest

from model.data.instructions.conversations import chat_of, read_chats
from model.data.readers import Row
from model.errors import DataError

ASKED, TOLD = {"role": "user", "content": "Sort 3 1 2"}, {"role": "assistant", "content": "1 2 3"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"name": "sort", "arguments": {"numbers": [3, 1, 2]}}
TOOL = {"type": "function", "function": {"name": "sort"}}
BASIC = [ASKED, TOLD]

SPELLINGS = {
    "messages": ({"messages": BASIC}, BASIC),
    "messages in parquet": ({"messages": [ASKED | {"tool_calls": None}, TOLD | {"name": None}], "prompt": "x"}, BASIC),
    "conversations": ({"conversations": [SYSTEM, *BASIC]}, [SYSTEM, *BASIC]),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Sort 3 1 2"}, {"from": "gpt", "value": "1 2 3"}]}, BASIC),
    "alpaca": ({"instruction": "Sort", "input": "3 1 2", "output": "1 2 3"}, [ASKED | {"content": "Sort\n3 1 2"}, TOLD]),
    "alpaca without input": ({"instruction": "Sort 3 1 2", "input": "", "output": "1 2 3"}, BASIC),
    "alpaca in full": (
        {"system": "Be brief.", "history": [["Sort 3 1 2", "1 2 3"]], "instruction": "Sort 3 1 2", "output": "1 2 3"},
        [SYSTEM, *BASIC, *BASIC],
    ),
    "prompt and completion": ({"prompt": "Sort 3 1 2", "completion": "1 2 3"}, BASIC),
    "prompt and completion as messages": ({"prompt": [SYSTEM, ASKED], "completion": [TOLD]}, [SYSTEM, *BASIC]),
    "instruction and response": ({"id": "7", "instruction": "Sort 3 1 2", "response": "1 2 3"}, BASIC),
    "question and answer": ({"question": "Sort 3 1 2", "answer": "1 2 3"}, BASIC),
    "calls": (
        {"conversations": [
            {"from": "human", "value": "Sort 3 1 2"}, {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "[1, 2, 3]"}, {"from": "gpt", "value": "1 2 3"}]},
        [ASKED, {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]},
         {"role": "tool", "content": "[1, 2, 3]"}, TOLD],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_the_same_conversation(name):
    record, messages = SPELLINGS[name]
    assert chat_of(Row("a, line 1", record)).messages == messages


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_are_a_list_or_a_text_of_json(tools):
    chat = chat_of(Row("a, line 1", {"messages": BASIC, "tools": tools, "chat_template_kwargs": {"x": 1}}))
    assert (chat.tools, chat.variables) == ([TOOL], {"x": 1})
    assert chat_of(Row("a, line 1", {"messages": BASIC, "tools": ""})).tools is None


def test_answers_of_weight_0_are_not_learnt():
    chat = chat_of(Row("a, line 1", {"messages": [ASKED, TOLD | {"weight": 0}, ASKED, TOLD | {"weight": 1}]}))
    assert chat.answers == [3]


MISTAKES = {
    "no object": (["x"], "not a JSON object but list"),
    "other keys": ({"text": "x"}, "no conversation among its keys 'text'; give \"messages\""),
    "no completion": ({"prompt": "x", "completion": None}, "no conversation among its keys 'prompt', 'completion'"),
    "no list": ({"messages": {"role": "user"}}, "a conversation is a list of messages, not dict"),
    "a text": ({"messages": "user: hi"}, "a text where a list was expected, and no JSON either"),
    "no message": ({"messages": []}, "the conversation has no message"),
    "message is text": ({"messages": ["hi"]}, "message 1 is str: give"),
    "unknown role": ({"messages": [ASKED | {"role": "boss"}, TOLD]}, "message 1: the role 'boss' is not known"),
    "unknown from": ({"conversations": [{"from": "alien", "value": "x"}]}, "message 1: the role 'alien' is not known"),
    "no role": ({"messages": [{"content": "x"}]}, "message 1 has no 'role'"),
    "no content": ({"messages": [{"role": "user"}]}, "message 1 has no 'content'"),
    "content is a number": ({"messages": [ASKED, TOLD | {"content": 6}]}, "message 2: 'content' is int, not a string"),
    "answer to nothing": ({"messages": [TOLD, ASKED]}, "message 1 is the assistant's, an answer to nothing"),
    "no answer": ({"messages": [ASKED]}, "no answer of the assistant to learn"),
    "all of weight 0": ({"messages": [ASKED, TOLD | {"weight": 0}]}, "no answer of the assistant to learn"),
    "odd weight": ({"messages": [ASKED, TOLD | {"weight": 0.5}]}, "message 2 has the weight 0.5; give 1"),
    "empty answer": ({"messages": [ASKED, TOLD | {"content": " \n"}]}, "message 2 is an empty answer"),
    "empty question": ({"messages": [ASKED | {"content": ""}, TOLD]}, "message 1 is a question without text"),
    "empty completion": ({"prompt": "x", "completion": ""}, "'completion' is empty"),
    "completion is a number": ({"prompt": "x", "completion": 6}, "'completion' is int; give a text"),
    "completion of a user": ({"prompt": "x", "completion": [ASKED]}, "'completion' has a message of the role 'user'"),
    "input is a list": ({"instruction": "x", "input": [1], "output": "y"}, "'input' is list, not a string"),
    "odd history": ({"instruction": "x", "history": [["a"]], "output": "y"}, "'history' is no list of [question, answer]"),
    "tools are text": ({"messages": BASIC, "tools": "sort"}, "a text where a list was expected"),
    "tools are numbers": ({"messages": BASIC, "tools": [1]}, "tools is not a list of objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_the_line(name, tmp_path):
    record, sentence = MISTAKES[name]
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{json.dumps({'messages': BASIC})}\n\n{json.dumps(record)}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        list(read_chats(str(path)))
    assert str(error.value).startswith(f"{path}, line 3: ") and sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_lie(tmp_path):
    parquet, lines, empty, nothing = (tmp_path / name for name in ("a.parquet", "b.jsonl", "c.jsonl", "d.jsonl"))
    parquet.write_text("no parquet")
    lines.write_text('{"messages": [\n')
    empty.touch()
    nothing.write_text("\n\n")
    sentences = {
        parquet: "a.parquet is not a parquet file", lines: "b.jsonl, line 1: not valid JSON", empty: "c.jsonl is empty",
        nothing: "d.jsonl has no rows in it", tmp_path / "e.csv": "e.csv is not a file, a folder or a glob",
    }  # fmt: skip
    for path, sentence in sentences.items():
        with pytest.raises(DataError, match=sentence):
            list(read_chats(str(path)))
    (tmp_path / "e.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"e\.csv holds no rows: give one of \.json, \.jsonl, \.parquet"):
        list(read_chats(str(tmp_path / "e.csv")))


def test_parquet_and_json_have_the_same_conversations(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": BASIC}, {"messages": [SYSTEM, *BASIC]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text(json.dumps(rows))
    one, other = (list(read_chats(str(tmp_path / name))) for name in ("a.parquet", "b.json"))
    assert [chat.messages for chat in one] == [chat.messages for chat in other] == [row["messages"] for row in rows]
    assert [chat.where[-5:] for chat in one] == ["row 1", "row 2"]
