"""What goes to the chat template through `hunyuan infer` and `hunyuan chat`, and a word on what has no effect.

The template's text is the model's prompt, so that its tokens tell what the template was given.
"""

import io
import json

import pytest

from hunyuan_cli import main
from model.tokenizer.bpe import load_tokenizer
from tests.cli.speaking import write_released

TEMPLATE = """\
{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}
{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}
{% endfor %}
{{ 'quiet' if enable_thinking is defined and not enable_thinking else 'loud' }}"""
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
HELLO = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
UNREAD = "the chat template does not ask for these, which have no effect: "


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """A folder whose template uses all that a row can hold."""
    return write_released(
        tmp_path_factory.mktemp("template") / "asking", {"chat_template.jinja": TEMPLATE}, context=256
    )


@pytest.fixture
def answers(infer, tmp_path):
    """answers(folder, row, ..., options=...) -> the answers, and standard error."""

    def call(folder, *rows, options=()):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        status, out, err = infer(
            "--prompts", path, "--checkpoint", folder, "--tokens", 2, "--format", "jsonl", *options
        )
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()], err.replace("generating ...\n", "")

    return call


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"messages": HELLO}, "<user>hiloud"),
        ({"messages": HELLO, "tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}}, "[f]<user>hiquiet"),
        ({"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "3"}]},
         '<user>hi<assistant>{"name": "f", "arguments": {"x": 1}}<tool>3loud'),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, "<user>hiloud"),
        ({"messages": [{"role": "developer", "content": "be kind"}, *HELLO]}, "<developer>be kind<user>hiloud"),
    ],
)  # fmt: skip
def test_a_row_reaches_the_template_and_comes_back(answers, asking, row, text):
    tokenizer = load_tokenizer(asking / "tokenizer.json", eos_name="<|eos|>")
    (answer,), err = answers(asking, row)
    assert err == ""
    assert answer["prompt_tokens"] == len(tokenizer.encode(text))
    assert {key: answer[key] for key in row} == row


def test_options_for_the_template_and_a_row_that_knows_better(answers, asking):
    quiet, loud = (
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    )
    rows = [{"messages": HELLO}, {"messages": HELLO} | quiet, {"messages": HELLO} | loud]
    sizes = {
        word: answers(asking, row)[0][0]["prompt_tokens"] for word, row in zip(("loud", "quiet"), rows, strict=False)
    }
    assert sizes["loud"] != sizes["quiet"]
    found, err = answers(asking, *rows, options=["--no-thinking"])
    assert [row["prompt_tokens"] for row in found] == [sizes["quiet"], sizes["quiet"], sizes["loud"]]
    assert err == ""


def test_what_has_no_effect_is_said_once(answers, released):
    row = {
        "messages": HELLO,
        "tools": TOOLS,
        "chat_template_kwargs": {"enable_thinking": False},
        "label": 1,
        "source": "x",
    }
    found, err = answers(released, row, row, {"messages": HELLO})
    assert found[0]["prompt_tokens"] == found[2]["prompt_tokens"]
    assert err.splitlines() == [
        "these keys of the prompts are not used: label, source",
        UNREAD + "enable_thinking, tools",
    ]
    _, err = answers(released, {"prompt": "hi", "tools": TOOLS}, {"messages": HELLO}, options=["--thinking"])
    assert err.splitlines() == [
        "a prompt that is continued has no use for these, without --chat: tools", UNREAD + "enable_thinking"
    ]  # fmt: skip


def test_thinking_needs_a_template(infer, asking):
    status, out, err = infer("hi", "--checkpoint", asking, "--thinking")
    assert (status, out) == (2, "") and "--thinking is for the chat template: add --chat" in err
    assert infer("hi", "--checkpoint", asking, "--thinking", "--chat", "--tokens", 2)[0] == 0


def test_thinking_in_a_chat(capfd, monkeypatch, asking, released):
    def chat(folder, *options):
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        status = main.run(["chat", "--checkpoint", str(folder), "--tokens", "2", "--stats", *options])
        return status, capfd.readouterr().err

    sizes = {option: chat(asking, *option)[1].split()[1] for option in [(), ("--thinking",), ("--no-thinking",)]}
    assert sizes[()] == sizes["--thinking",] != sizes["--no-thinking",]
    assert chat(released, "--thinking")[1].startswith(
        "the chat template does not ask for enable_thinking: --thinking has"
    )
