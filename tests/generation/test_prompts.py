"""Files of prompts: what each line means, and one sentence for a line that means nothing."""

import json

import pytest

from model.errors import DataError
from model.generation.prompts import Prompt, opening, read_prompts

HELLO = [{"role": "user", "content": "hello"}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CALLED = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "3"}]
PARTS = [{"role": "developer", "content": [{"type": "text", "text": "hi"}]}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
def read(tmp_path):
    """read(text or bytes) -> the prompts of a file that holds it."""

    def call(content, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_prompts(path)

    return call


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one\r\n\r\n  \ntwo", ["one", "two"]),
        ('  indented \nit\'s "quoted" {}\n', ["  indented ", 'it\'s "quoted" {}']),
        ("\ufeffbyte order mark\n", ["byte order mark"]),
        ("a\u2028b\x0cc\x85d\ne", ["a\u2028b\x0cc\x85d", "e"]),  # a line ends where a file's line ends
        ('{"prompt": "x"}', ['{"prompt": "x"}']),
    ],
)
@pytest.mark.parametrize("name", ["prompts.txt", "PROMPTS.TXT"])
def test_a_text_file_has_a_prompt_a_line(read, content, texts, name):
    assert read(content, name) == [Prompt(text) for text in texts]


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('{"prompt": "one\\ntwo"}', Prompt("one\ntwo")),
        ('{"prompt": ""}', Prompt("")),
        ('{"prompt": "x", "id": 7, "other": [1]}', Prompt("x", id=7, unknown=("other",))),
        ('{"id": {"a": [1.5, null]}, "prompt": "x"}', Prompt("x", id={"a": [1.5, None]})),
        (json.dumps({"messages": HELLO, "id": "é"}), Prompt(messages=HELLO, id="é")),
        (json.dumps({"messages": HELLO}), Prompt(messages=HELLO)),
        (json.dumps({"messages": CALLED}), Prompt(messages=CALLED)),
        (json.dumps({"messages": PARTS}), Prompt(messages=PARTS)),
        (json.dumps({"messages": HELLO, "tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}, "x": 1, "y": 2}),
         Prompt(messages=HELLO, tools=TOOLS, variables={"enable_thinking": False}, unknown=("x", "y"))),
        ('{"prompt": "x", "tools": null, "chat_template_kwargs": null}', Prompt("x")),
        ('{"prompt": "a\u2028b\x85"}', Prompt("a\u2028b\x85")),  # JSON holds them as they are
        ('{"prompt": "half \\ud83d, whole \\ud83d\\ude00", "id": "\\udc00"}', Prompt("half ?, whole \U0001f600", id="?")),
    ],
)  # fmt: skip
def test_a_json_line_is_a_prompt_or_a_conversation(read, line, prompt):
    assert read(f"{line}\n\n{line}\r\n") == [prompt, prompt]


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        (Prompt("x"), {"prompt": "x"}),
        (Prompt("x", id=0), {"id": 0, "prompt": "x"}),
        (Prompt(messages=HELLO, id="a"), {"id": "a", "messages": HELLO}),
        (
            Prompt(messages=CALLED, tools=TOOLS, variables={"x": 1}, unknown=("y",)),
            {"messages": CALLED, "tools": TOOLS, "chat_template_kwargs": {"x": 1}},
        ),
    ],
)
def test_what_is_told_back_with_an_answer(prompt, given):
    assert prompt.to_dict() == given
    assert list(prompt.to_dict()) == list(given)


A_PROMPT = 'is not a prompt: write {"prompt": "..."} or {"messages": [...]}'


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("hello", "is not JSON (Expecting value: line 1 column 1 (char 0)): write one object a line"),
        ('{"prompt": "x"', "is not JSON ("),
        ("[" * 100_000, "is not JSON ("),
        ('{"prompt": "x", "id": NaN}', "is not JSON ("),
        ('{"prompt": "x", "id": 1e999}', "is not JSON ("),
        ('{"prompt": "x", "id": ' + "9" * 5000 + "}", "is not JSON ("),
        ('"hello"', A_PROMPT),
        ("null", A_PROMPT),
        ("[1]", A_PROMPT),
        ("{}", A_PROMPT),
        ('{"text": "x"}', A_PROMPT),
        ('{"prompt": "x", "messages": []}', A_PROMPT),
        ('{"prompt": 7}', "has a prompt that is int, not a string"),
        ('{"prompt": null}', "has a prompt that is NoneType, not a string"),
        ('{"prompt": ["x"]}', "has a prompt that is list, not a string"),
        ('{"messages": []}', ": the conversation has no message: "),
        ('{"messages": "hi"}', ": a conversation is a list of messages: "),
        ('{"messages": {"role": "user", "content": "x"}}', ": a conversation is a list of messages: "),
        ('{"messages": ["hi"]}', ": message 1 is str: "),
        ('{"messages": [{"role": "user"}]}', ": message 1 has no 'content': "),
        ('{"messages": [{"role": "user", "content": 1}]}', ": message 1: 'content' is int, not a string"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', ": message 1: the role 'robot' is not known: "),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": {}}', ": tools is not a list of objects"),
        ('{"prompt": "x", "chat_template_kwargs": 3}', ": chat_template_kwargs is not an object"),
    ],
)
def test_a_line_that_means_nothing_is_named_in_one_sentence(read, tmp_path, line, sentence):
    with pytest.raises(DataError) as raised:
        read('{"prompt": "fine"}\n\n' + line)
    said = str(raised.value)
    assert said.startswith(f"{tmp_path / 'prompts.jsonl'}, line 3")
    assert sentence in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        ("", "p.txt", "holds no prompt: write one a line"),
        ("\n  \n", "p.jsonl", "holds no prompt: write one a line"),
        (b"\xff\xfeh\x00i\x00", "p.txt", "is not UTF-8 text: save it as UTF-8"),
        ("a,b\n", "p.csv", "is neither .txt nor .jsonl: give a file with a prompt a line, or an object a line"),
        ("hi", "p", "is neither .txt nor .jsonl: "),
    ],
)
def test_a_file_that_holds_no_prompts(read, tmp_path, content, name, sentence):
    with pytest.raises(DataError) as raised:
        read(content, name)
    assert str(raised.value).startswith(f"{tmp_path / name} {sentence}")


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for name, reason in (("absent.txt", "No such file or directory"), ("folder.txt", "Is a directory")):
        with pytest.raises(DataError) as raised:
            read_prompts(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name} cannot be read: {reason}"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("def main(arguments):\n    pass\n", "def main(arguments):"),
        ("\n\n   indented  line\n", "indented line"),
        ("The sun rose over the hills of the north and", "The sun rose over the hills of"),
        ("a" * 32 + " b", "a" * 32),
        ("a" * 33 + " b", "a" * 16),
        ("\u8a9e" * 40, "\u8a9e" * 16),
        ("}\n--- a/file\n\x1b[2J hidden\nx\ufffdy\nfine", "fine"),  # no option, no escape, no broken character
        ('it\'s "quoted" $HOME', 'it\'s "quoted" $HOME'),
        ("}\n-\n", ""),
        ("", ""),
    ],
)
def test_an_opening_is_easily_typed(text, prompt):
    assert opening(text) == prompt
