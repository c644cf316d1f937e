"""`hunyuan chat`: turns from a pipe, the commands between them, and the file that keeps them."""

import io
import itertools
import json
import re

import pytest
import torch

from hunyuan_cli import main
from hunyuan_cli.views import chat as talk
from model import Hunyuan
from model.generation import generate as generation
from model.generation.conversation import Conversation
from model.generation.generate import generate
from model.generation.sampling import Sampling
from model.generation.stopping import StopStrings
from model.tokenizer.chat_template import plain_template
from model.tokenizer.folder import load_chat_template, load_folder_tokenizer
from tests.cli.speaking import write_released, write_run

TRANSCRIPT = "this folder brings no chat template: a plain transcript of User: and Assistant: stands in\n"
COMMANDS = ("edit", "retry", "undo", "system", "history", "save", "load", "clear", "quit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As it is downloaded, with a template."""
    return write_released(tmp_path_factory.mktemp("chat") / "released", context=256)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run, which has no template."""
    return write_run(tmp_path_factory.mktemp("chat") / "run", max_position_embeddings=512)


@pytest.fixture
def chat(capfd, monkeypatch, folder):
    """chat("line\\nline\\n", ...) -> (status, stdout, stderr) of a conversation from a pipe."""

    def call(lines, *options, checkpoint=folder, tokens=12):
        capfd.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(lines) if isinstance(lines, str) else lines)
        options = ("--checkpoint", checkpoint, "--max-new-tokens", tokens, *options)
        status = main.run(["chat", *map(str, options)])
        return status, *capfd.readouterr()

    return call


def answer(folder, messages, tokens=12, sampling=Sampling(), seed=0, stops=()):  # noqa: B008  frozen
    """What the library says to a conversation, without any of the command's own code."""
    template, tokenizer = load_chat_template(folder) or plain_template(), load_folder_tokenizer(folder)
    ids = generate(
        Hunyuan.from_checkpoint(folder), template.encode(messages, tokenizer), max_new_tokens=tokens,
        sampling=sampling, generator=torch.Generator().manual_seed(seed), end_id=tokenizer.eos_id,
    )  # fmt: skip
    matcher = StopStrings([*stops, *template.stop_strings])
    text = matcher.push(tokenizer.decode(list(ids)))
    return text if matcher.found else text + matcher.finish()


def turns(*texts, system=None):
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def conversation(folder, *questions, system=None, **options):
    """The messages of a conversation of these questions, each answered in turn."""
    messages = turns(system=system)
    for question in questions:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer(folder, messages, **options).strip()})
    return messages


def shown(messages):
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages)


# --- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "plain"])
def test_a_line_is_a_message_and_each_answer_knows_those_before_it(chat, request, name):
    folder = request.getfixturevalue(name)
    status, out, err = chat("hello\n\nand you\n  \nwhy", checkpoint=folder)
    expected = conversation(folder, "hello", "and you", "why")
    raw = [answer(folder, expected[:size]) for size in (1, 3, 5)]
    assert (status, out, err) == (0, "".join(f"{text}\n" for text in raw), "" if name == "folder" else TRANSCRIPT)
    assert len(set(raw)) == 3


def test_every_answer_has_a_seed_of_its_own(chat, folder):
    hot, options = Sampling(1.5, 40, 0.95, 0.01, 1.2), "--temperature 1.5 --top-k 40 --top-p 0.95 --min-p 0.01".split()
    _, out, _ = chat("hello\n/undo\nhello\n", *options, "--repetition-penalty", 1.2, "--seed", 7)
    first, second = (answer(folder, turns("hello"), sampling=hot, seed=seed) for seed in (7, 8))
    assert out == f"{first}\n{second}\n" and first != second


def test_an_answer_ends_before_a_stop_text(chat, folder):
    whole = answer(folder, turns("hello"))
    stop = whole[3:6]
    status, out, _ = chat("hello\n/history\n", "--stop", "never said", "--stop", stop)
    assert (status, out) == (0, whole[: whole.index(stop)] + "\n")


def test_a_transcript_ends_where_the_users_turn_begins(chat, plain, monkeypatch):
    """The transcript's own stop text is not part of the answer."""
    tokens = iter(load_folder_tokenizer(plain).encode(" fine.\nUser: no more"))
    monkeypatch.setattr("model.generation.batch.next_token", lambda logits, *_: torch.full((1,), next(tokens)))
    status, out, err = chat("hello\n/history\n", checkpoint=plain, tokens=40)
    assert (status, out) == (0, " fine.\n")
    assert err == TRANSCRIPT + "user: hello\nassistant: fine.\n"


@pytest.mark.parametrize(
    "options", [{}, {"--dtype": "bfloat16"}, {"--weights": "int8"}, {"--experts": "disk", "--expert-cache": "20kB"}]
)
def test_stats_are_of_each_answer(chat, options):
    status, out, err = chat("hello\nyou\n", "--stats", *(word for pair in options.items() for word in pair))
    assert (status, out.count("\n")) == (0, 2)
    lines = err.splitlines()
    each = 5 if "--experts" in options else 4
    assert len(lines) == 2 * each
    for start in (0, each):
        assert lines[start].startswith("prefill: ") and lines[start + 1].startswith("decode: 11 tokens in ")
        found = re.match(r"cache: ([\d,]+) bytes allocated, ([\d,]+) by formula", lines[start + 2])
        assert found[1] == found[2]
        assert lines[start + 3] == "at most 12 new tokens, by --max-new-tokens"


def test_experts_on_disk_say_the_same(chat):
    assert chat("hello\nyou\n", "--experts", "disk", "--expert-cache", "6kB") == chat("hello\nyou\n")


def test_what_is_no_utf8_is_still_a_message(chat):
    pipe = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n/history\n/quit\n"), encoding="utf-8")
    status, out, err = chat(pipe)
    assert (status, out.count("\n")) == (0, 1) and "user: caf\ufffd\n" in err


def test_a_conversation_goes_on_until_the_context_is_full(chat, tmp_path):
    """Answers become shorter, and a message without room for any is refused."""
    folder = write_released(tmp_path / "short", context=40)
    status, out, err = chat("a b c d e f g h i\n/history\nj k l\nm\n", checkpoint=folder, tokens=500)
    assert status == 0 and out.count("\n") >= 1
    history = err.splitlines()
    assert history[0] == "user: a b c d e f g h i"
    assert all("the model's context is 40: shorten the prompt" in line for line in history[2:]) and len(history) == 4
    assert "this is a bug" not in err


# --- commands --------------------------------------------------------------------------------------------------------


def test_help_names_every_command(chat):
    _, _, err = chat("/help\n")
    assert all(f"/{name}" in err for name in COMMANDS)
    assert err == talk.HELP + "\n"


@pytest.mark.parametrize("line", ["/quit", " /quit ", None])
def test_a_conversation_ends(chat, folder, line):
    status, out, err = chat("hello\n" + (f"{line}\nnever answered\n" if line else ""))
    assert (status, out, err) == (0, answer(folder, turns("hello")) + "\n", "")


@pytest.mark.parametrize(
    ("lines", "questions", "system"),
    [
        ("hello\n/edit bye\n", ["bye"], None),
        ("hello\nwhy\n/edit how\n", ["hello", "how"], None),
        ("hello\n/retry\n", ["hello"], None),
        ("hello\nwhy\n/undo\n", ["hello"], None),
        ("hello\n/undo\nwhy\n", ["why"], None),
        ("/system be brief\nhello\n", ["hello"], "be brief"),
        ("/system be brief\n/system   speak up \nhello\n", ["hello"], "speak up"),
        ("/system be brief\n/system\nhello\n", ["hello"], None),
        ("hello\n/clear\nwhy\n", ["why"], None),
        ("/system be brief\nhello\n/clear\nwhy\n", ["why"], None),
    ],
)
def test_commands_change_what_was_said(chat, folder, lines, questions, system):
    expected = conversation(folder, *questions, system=system)
    status, out, err = chat(lines + "/history\n")
    assert status == 0
    assert err.endswith(shown(expected))
    assert err.removesuffix(shown(expected)) in ("", "taken back: hello\n", "taken back: why\n")
    assert not lines.rstrip().endswith(("bye", "how", "why", "hello", "/retry")) or out.endswith(
        answer(folder, expected[:-1]) + "\n"
    )


def test_another_answer_is_another(chat, folder):
    hot = Sampling(1.5)
    _, out, err = chat("hello\n/retry\n/history\n", "--temperature", 1.5)
    first, second = (answer(folder, turns("hello"), sampling=hot, seed=seed) for seed in (0, 1))
    assert out == f"{first}\n{second}\n" and first != second
    assert err == shown(turns("hello", second.strip()))


def test_a_system_message_from_the_command_line(chat, folder):
    status, out, _ = chat("hello\n", "--system", "be brief")
    assert (status, out) == (0, answer(folder, turns("hello", system="be brief")) + "\n")


LONG = "word " * 300


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/dance", "/dance is not a command: /help shows them"),
        ("/", "/ is not a command: /help shows them"),
        ("/Undo", "/Undo is not a command"),
        ("/edit", "there is nothing to say instead: write the message after /edit"),
        ("/save", "/save needs a file: /save talk.json"),
        ("/load", "/load needs a file: /load talk.json"),
        ("/load absent.json", "absent.json cannot be read: No such file or directory"),
        ("/load .", ". cannot be read: Is a directory"),
        ("/load damaged.json", "damaged.json is not a conversation, a JSON document: "),
        (
            "/save absent/talk.json",
            "absent/talk.json cannot be written: there is no folder absent; check the path, or make it",
        ),
        (
            "/save damaged.json/talk.json",
            "damaged.json/talk.json cannot be written: there is no folder damaged.json",
        ),
        ("/save .", ". is a folder: name a file for the conversation"),
        ("/save damaged.json", "damaged.json is there already: load it to go on with it, or name another file"),
        ("/save ~nobody-of-this-name/x", "there is no home folder for ~nobody-of-this-name/x: write the path out"),
        (LONG, "the model's context is 256: shorten the prompt"),
        (f"/edit {LONG}", "the model's context is 256: shorten the prompt"),
    ],
)
def test_a_line_that_cannot_be_obeyed_leaves_the_conversation_as_it_was(
    chat, folder, tmp_path, monkeypatch, line, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.json").write_text("{")
    expected = conversation(folder, "hello", "why")
    status, out, err = chat(f"hello\n{line}\nwhy\n/history\n")
    assert status == 0
    mistake, history = err.split("\n", 1)
    assert mistake.startswith("error: ") and says in mistake and "this is a bug" not in mistake
    assert history == shown(expected)
    assert out == "".join(answer(folder, expected[:size]) + "\n" for size in (1, 3))


@pytest.mark.parametrize("line", ["/undo", "/retry", "/edit hi"])
def test_before_anything_was_said(chat, line):
    assert chat(f"{line}\n/history\n") == (0, "", "error: nothing has been said yet: write a message first\n")


def test_an_answer_that_a_template_refuses_is_taken_back(chat, folder, tmp_path):
    """Of a conversation that was loaded: its first message is the assistant's."""
    file = tmp_path / "talk.json"
    file.write_text(json.dumps({"messages": turns("x", "y")[1:]}))
    status, out, err = chat("hello\n/history\n/clear\nhello\n", "--load", file)
    assert (status, out) == (0, answer(folder, turns("hello")) + "\n")
    assert "refuses these messages: speak in turns" in err.splitlines()[0]
    assert err.splitlines()[1:] == ["assistant: y"]


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(n) has a Ctrl-C come after n tokens of the first answer."""

    def call(count):
        left = [count]

        def interrupted(net, requests, *, original=generation.generate_batch, **options):
            for event in itertools.chain([None], original(net, requests, **options)):
                if event is not None:
                    yield event
                if left and left[0] == 0:
                    left.clear()
                    raise KeyboardInterrupt
                if left:
                    left[0] -= 1

        monkeypatch.setattr(generation, "generate_batch", interrupted)

    return call


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(chat, folder, interrupt):
    interrupt(4)
    status, out, err = chat("hello\n/history\nwhy\n")
    said = answer(folder, turns("hello"), tokens=4)
    kept = turns("hello", said.strip())
    assert (status, err) == (0, " (stopped)\n" + shown(kept))
    assert out == f"{said}\n{answer(folder, [*kept, *turns('why')])}\n"


def test_ctrl_c_before_the_first_token_takes_the_message_back(chat, folder, interrupt):
    interrupt(0)
    status, out, err = chat("hello\n/history\nwhy\n")
    assert (status, out) == (0, answer(folder, turns("why")) + "\n")
    assert err == "error: stopped before the answer began: the conversation is as it was\n"


def test_ctrl_c_while_a_message_is_awaited_leaves(chat, tmp_path):
    class Pipe(io.StringIO):
        def readline(self):
            line = super().readline()
            if not line:
                raise KeyboardInterrupt
            return line

    status, out, err = chat(Pipe("hello\n"), "--save", tmp_path / "talk.json")
    assert (status, out.count("\n"), err) == (130, 1, "")
    assert len(Conversation.load(tmp_path / "talk.json").messages) == 2


def test_at_a_terminal_a_line_is_asked_for(chat, folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    lines = iter(["hello", "/history"])

    def ask(prompt):
        assert prompt == "> "
        if (line := next(lines, None)) is None:
            raise EOFError  # Ctrl-D
        return line

    monkeypatch.setattr("builtins.input", ask)
    status, out, err = chat(Terminal())
    said = answer(folder, turns("hello"))
    assert (status, out) == (0, said + "\n")
    assert err == "write a message; /help shows the commands, /quit leaves\n" + shown(turns("hello", said.strip()))
