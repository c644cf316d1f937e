"""A conversation: its turns, its corrections, and the file that it is kept in."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from model.generation.conversation import Conversation


def talk(*turns, system=None):
    """A conversation of questions and answers in turn."""
    conversation = Conversation()
    if system is not None:
        conversation.set_system(system)
    for number, text in enumerate(turns):
        (conversation.answer if number % 2 else conversation.ask)(text)
    return conversation


def said(conversation):
    return [(message["role"][0], message["content"]) for message in conversation.messages]


def test_turns():
    assert said(talk("Hi", "Hello", "How?")) == [("u", "Hi"), ("a", "Hello"), ("u", "How?")]
    assert talk("a half \ud83d").messages == [{"role": "user", "content": "a half ?"}]


@pytest.mark.parametrize("turns", [(), ("Hi",), ("Hi", "Hello")])
def test_a_system_message_is_first_and_one(turns):
    conversation, rest = talk(*turns), said(talk(*turns))
    assert conversation.system is None
    conversation.set_system("Be brief")
    assert (conversation.system, said(conversation)) == ("Be brief", [("s", "Be brief"), *rest])
    conversation.set_system("Be long")
    assert (conversation.system, said(conversation)) == ("Be long", [("s", "Be long"), *rest])
    conversation.set_system("")
    assert (conversation.system, said(conversation)) == (None, rest)
    conversation.set_system("")
    assert said(conversation) == rest


@pytest.mark.parametrize(
    ("before", "taken", "after"),
    [
        (("Hi",), "Hi", ()),
        (("Hi", "Hello"), "Hi", ()),
        (("Hi", "Hello", "How?"), "How?", ("Hi", "Hello")),
        (("Hi", "Hello", "How?", "So"), "How?", ("Hi", "Hello")),
    ],
)
@pytest.mark.parametrize("system", [None, "Be brief"])
def test_undo_takes_back_a_question_and_what_came_after(before, taken, after, system):
    conversation = talk(*before, system=system)
    assert conversation.undo() == taken
    assert said(conversation) == said(talk(*after, system=system))


@pytest.mark.parametrize("before", [("Hi",), ("Hi", "Hello")])
def test_an_edit_stands_in_the_place_of_the_last_question(before):
    conversation = talk(*before)
    conversation.edit("Bye")
    assert said(conversation) == [("u", "Bye")]


@pytest.mark.parametrize(
    ("turns", "act", "sentence"),
    [
        ((), lambda c: c.undo(), "nothing has been said yet: write a message first"),
        ((), lambda c: c.edit("x"), "nothing has been said yet: write a message first"),
        (("Hi", "Hello"), lambda c: c.edit(" "), "there is nothing to say instead: write the message after /edit"),
        (("Hi", "Hello"), lambda c: c.ask(" \n"), "there is nothing to answer: write a message"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(turns, act, sentence):
    conversation = talk(*turns, system="Be brief")
    before = said(conversation)
    with pytest.raises(DataError, match=f"^{sentence}$"):
        act(conversation)
    assert said(conversation) == before


# --- the file --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.none() | st.text(min_size=1), st.lists(st.text(min_size=1).filter(str.strip), max_size=5))
def test_what_is_saved_is_loaded(tmp_path_factory, system, turns):
    conversation, path = talk(*turns, system=system), tmp_path_factory.getbasetemp() / "talk.json"
    conversation.save(path)
    assert Conversation.load(path) == conversation
    assert json.loads(path.read_text(encoding="utf-8")) == {"messages": conversation.messages}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "talk.json"
    talk("Hi", "Hello").save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError) as raised:
        talk("Bye").save(path)
    assert str(raised.value) == f"the conversation could not be saved to {path}: No space left on device"
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("absent/talk.json", "could not be saved to absent/talk.json: No such file or directory"),
        ("file/talk.json", "could not be saved to file/talk.json: Not a directory"),
        ("x" * 300, "File name too long"),
        ("folder", "folder is a folder: name a file for the conversation"),
        (".", ". is a folder: "),
        ("..", ".. is a folder: "),
        ("/", "/ is a folder: "),
    ],
)
def test_a_place_where_nothing_can_be_saved(tmp_path, monkeypatch, path, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as raised:
        talk("Hi").save(type(tmp_path)(path))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", " is not a conversation, a JSON document: "),
        ("{", " is not a conversation, a JSON document: "),
        ("[" * 100_000, " is not a conversation, a JSON document: "),
        (b"\xff", " is not a conversation, a JSON document: "),
        ("[]", ' is not a conversation: it must be {"messages": [...]}'),
        ("{}", ' is not a conversation: it must be {"messages": [...]}'),
        ('{"messages": "hi"}', ' is not a conversation: it must be {"messages": [...]}'),
        ('{"messages": [{"role": "bot", "content": "x"}]}', ": message 1: the role 'bot' is not known: "),
        ('{"messages": [{"role": "user"}]}', ": message 1 has no 'content': "),
        ('{"messages": [1]}', ": message 1 is int: "),
    ],
)
def test_a_file_that_is_no_conversation(tmp_path, content, sentence):
    path = tmp_path / "talk.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as raised:
        Conversation.load(path)
    assert str(raised.value).startswith(f"{path}{sentence}") and "\n" not in str(raised.value)


def test_files_that_are_not_there_and_files_of_nothing(tmp_path):
    with pytest.raises(DataError, match=r"absent.json cannot be read: No such file or directory$"):
        Conversation.load(tmp_path / "absent.json")
    (tmp_path / "empty.json").write_text('{"messages": []}')
    assert Conversation.load(tmp_path / "empty.json") == Conversation()


def test_a_half_of_a_character_in_a_file_can_be_saved_again(tmp_path):
    path = tmp_path / "talk.json"
    path.write_text('{"messages": [{"role": "user", "content": "a \\ud83d", "name": "\\udc00"}]}')
    conversation = Conversation.load(path)
    assert conversation.messages == [{"role": "user", "content": "a ?", "name": "?"}]
    conversation.save(path)
