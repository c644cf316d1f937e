"""`hunyuan chat` and the files that keep its conversations; what it refuses before it begins."""

import io
import json
import shutil

import pytest

from hunyuan_cli import main
from hunyuan_cli.views.chat import ChatSession
from model.generation.conversation import Conversation
from tests.cli.speaking import write_released

HELLO = ["hello", "why", "and then"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("chat") / "released", context=256)


@pytest.fixture
def chat(capfd, monkeypatch, folder, tmp_path):
    """chat("line", ...) -> (status, stdout, stderr) of a conversation from a pipe, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*lines, options="", checkpoint=folder):
        capfd.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status = main.run(["chat", "--checkpoint", str(checkpoint), "--tokens", "8", *options.split()])
        return status, *capfd.readouterr()

    return call


def questions(path):
    return [message["content"] for message in Conversation.load(path).messages if message["role"] == "user"]


# --- /save and /load -------------------------------------------------------------------------------------------------


def test_what_is_saved_and_loaded_goes_on_as_if_it_had_not_ended(chat, tmp_path):
    _, whole, history = chat("/system be brief", *HELLO, "/history")
    _, first, said = chat("/system be brief", *HELLO[:2], "/save talk.json")
    assert said == "saved to talk.json\n"
    for start in (("/load talk.json",), ()):
        options = "" if start else "--load talk.json"
        _, second, err = chat(*start, HELLO[2], "/history", options=options)
        assert first + second == whole
        assert err == ("5 messages loaded from talk.json\n" if start else "") + history
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_a_loaded_conversation_stands_in_place_of_the_present_one(chat):
    chat("hello", "/save talk.json")
    _, _, err = chat("why", "/load talk.json", "/undo", "/history")
    assert err == "2 messages loaded from talk.json\ntaken back: hello\n"


def test_a_home_folder_is_known(chat, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    status, _, err = chat("hello", "/save ~/talk.json")
    assert (status, err) == (0, "saved to ~/talk.json\n")
    assert questions(tmp_path / "home" / "talk.json") == ["hello"]


# --- --save ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["hello"], ["hello"]),
        (["hello", "why"], ["hello", "why"]),
        (["hello", "why", "/undo"], ["hello"]),
        (["hello", "/edit bye"], ["bye"]),
        (["hello", "/dance", "word " * 300], ["hello"]),
        (["hello", "/clear"], []),
    ],
)
def test_the_conversation_is_in_the_file_after_every_turn(chat, tmp_path, lines, kept):
    assert chat(*lines, options="--save talk.json")[0] == 0
    assert questions(tmp_path / "talk.json") == kept


def test_the_file_is_there_before_the_conversation_ends(chat, tmp_path, monkeypatch):
    seen = []
    save = Conversation.save

    def saved(self, path):
        save(self, path)
        seen.append(len(json.loads(path.read_text())["messages"]))

    monkeypatch.setattr(Conversation, "save", saved)
    chat("hello", "/history", "why", "/system brief", "/undo", "", options="--save talk.json")
    assert seen == [2, 4, 5, 3]  # a line that changes nothing writes nothing


@pytest.mark.parametrize("lines", [[], ["/history"], ["", "/help"], ["/quit"]])
def test_where_nothing_is_said_a_file_of_before_is_left_alone(chat, tmp_path, lines):
    chat("hello", options="--save talk.json")
    before = (tmp_path / "talk.json").read_bytes()
    assert chat(*lines, options="--load talk.json --save talk.json")[0] == 0
    assert (tmp_path / "talk.json").read_bytes() == before


def test_another_conversation_is_never_replaced(chat, tmp_path):
    """Unlike a result, it cannot be had again by running the command again."""
    chat("hello", options="--save talk.json")
    before = (tmp_path / "talk.json").read_bytes()
    (tmp_path / "link.json").symlink_to("talk.json")
    says = "error: {} is there already: load it to go on with it, or name another file\n"
    for name in ("talk.json", "link.json"):
        assert chat("why", options=f"--save {name}") == (1, "", says.format(name))
        status, out, err = chat("why", f"/save {name}", "bye")
        assert (status, out.count("\n"), err) == (0, 2, says.format(name))
    assert (tmp_path / "talk.json").read_bytes() == before
    chat("why", "/save other.json", "bye", "/save other.json", "/load talk.json", "/save talk.json")
    assert questions(tmp_path / "other.json") == ["why", "bye"]
    assert (tmp_path / "talk.json").read_bytes() == before


def test_a_file_that_cannot_be_written_does_not_end_the_conversation(chat, tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    begin = ChatSession.run
    monkeypatch.setattr(ChatSession, "run", lambda session: ((tmp_path / "kept").rmdir(), begin(session)))
    status, out, err = chat("hello", "why", options="--save kept/talk.json")
    assert (status, out.count("\n")) == (0, 2)
    assert err == "error: the conversation could not be saved to kept/talk.json: No such file or directory\n" * 2


def test_a_folder_that_is_not_there_does_not_end_the_conversation(chat):
    _, out, err = chat("hello", "/save absent/talk.json", "why")
    assert out.count("\n") == 2
    assert err == "error: absent/talk.json cannot be written: there is no folder absent; check the path, or make it\n"


def test_one_file_is_gone_on_with(chat, tmp_path):
    chat("hello", options="--save talk.json")
    chat("why", options="--load talk.json --save talk.json")
    assert questions(tmp_path / "talk.json") == ["hello", "why"]


def test_a_system_message_of_the_command_line_stands_in_place_of_the_loaded_one(chat, tmp_path):
    chat("/system be brief", "hello", "/save talk.json")
    chat("why", options="--load talk.json --system loud --save talk.json")
    assert Conversation.load(tmp_path / "talk.json").system == "loud"
    chat("why", options="--load talk.json --save talk.json")
    assert Conversation.load(tmp_path / "talk.json").system == "loud"


# --- what is refused before it begins --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "options", "says"),
    [
        (2, "--load absent.json", "'absent.json' does not exist"),
        (1, "--load damaged.json", "damaged.json is not a conversation, a JSON document: "),
        (1, "--load robot.json", "robot.json: message 1: the role 'robot' is not known"),
        (2, "--load .", "is a directory"),
        (2, "--save .", "is a directory"),
        (1, "--save absent/talk.json", "absent/talk.json cannot be written: there is no folder absent"),
        (1, "--top-p 0", "top_p is 0.0: give a share above 0 and up to 1"),
        (1, "--min-p 1", "min_p is 1.0"),
        (1, "--repetition-penalty 0", "repetition_penalty is 0.0"),
        (1, "--stop=", "a stop string is empty"),
        (2, "--temperature -1", "'--temperature': "),
        (2, "--max-new-tokens 0", "'--tokens': "),
        (2, "--dtype int4", "'int4' is not one of"),
        (1, "--device gpu", "device 'gpu' is not known"),
        (1, "--experts disk --expert-cache 5", "a cache of 5 bytes holds no expert"),
        (1, "--checkpoint absent", "absent does not exist: give the folder of a run"),
        (1, "--checkpoint broken", "chat_template.jinja is not a Jinja template"),
        (1, "--checkpoint settings", "generation_config.json cannot be used: top_p is 7.0"),
    ],
)
def test_a_mistake_is_one_sentence(chat, folder, tmp_path, status, options, says):
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "robot.json").write_text('{"messages": [{"role": "robot", "content": "x"}]}')
    (shutil.copytree(folder, tmp_path / "broken") / "chat_template.jinja").write_text("{% if %}")
    (shutil.copytree(folder, tmp_path / "settings") / "generation_config.json").write_text('{"top_p": 7}')
    found, out, err = chat("hello", options=options)
    assert (found, out, err.count("\n")) == (status, "", 1), err
    assert err.startswith("error: ") and says in err and "this is a bug" not in err


def test_the_folder_says_how_to_sample_and_the_command_goes_before_it(chat, folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    (own / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 1.5, "top_k": 30}))
    assert chat("hello", checkpoint=own) == chat("hello", options="--temperature 1.5 --top-k 30")
    assert chat("hello", checkpoint=own) != chat("hello")
    assert chat("hello", checkpoint=own, options="--temperature 0") == chat("hello")
