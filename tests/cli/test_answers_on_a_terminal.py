"""A model's text may hold what a terminal obeys: it gets pictures of it, and a pipe or file the text as it is."""

import io
import json
import sys

import pytest

from hunyuan_cli import main
from hunyuan_cli.console import printable, stderr
from hunyuan_cli.results import json_text
from model.generation import generate as generation

NASTY = "a\x1b[31mb\x07\rc\x08\x00d\x7fe\x9b2J\u0085f\tg\nh é語"
SHOWN = "a\u241b[31mb\u2407\u240dc\u2408\u2400d\u2421e\ufffd2J\ufffdf\tg\nh é語"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_control_characters_become_pictures_on_a_terminal_alone(monkeypatch):
    assert printable(NASTY, Terminal()) == SHOWN
    assert printable(NASTY, io.StringIO()) == NASTY
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert printable(NASTY) == SHOWN
    every = "".join(map(chr, range(0x120)))
    assert [c for c in printable(every) if not c.isprintable()] == ["\t", "\n", "\xa0", "\xad"]


def test_json_has_no_control_characters_for_anyone():
    text = json_text({"text": NASTY, "n": [1, None]})
    assert json.loads(text) == {"text": NASTY, "n": [1, None]}
    assert text.isprintable()


@pytest.fixture
def nasty(monkeypatch):
    """Every answer is NASTY, in two pieces that part an escape sequence."""

    def answer(net, requests, *, stats, **options):
        for request in requests:
            request.new_tokens, request.text, request.stop_reason = 2, NASTY, "length"
            yield request, NASTY[:2]
            yield request, NASTY[2:]

    monkeypatch.setattr(generation, "generate_batch", answer)


@pytest.mark.parametrize(("kind", "expected"), [(Terminal, SHOWN), (io.StringIO, NASTY)])
def test_infer(nasty, run, monkeypatch, kind, expected):
    stdout = kind()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main.run(["infer", f"say {NASTY.replace(chr(0), '')}", "--checkpoint", str(run)]) == 0
    assert (
        stdout.getvalue()
        == f"say {expected.replace(NASTY[NASTY.index(chr(0))], '').replace(chr(0x2400), '')}{expected}\n"
    )


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_infer_in_json(nasty, run, monkeypatch, form):
    stdout = Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main.run(["infer", "say", "--checkpoint", str(run), "--format", form]) == 0
    assert json.loads(stdout.getvalue())["text"] == NASTY
    assert stdout.getvalue().replace("\n", "").isprintable()


def test_infer_into_a_file(nasty, run, tmp_path):
    file = tmp_path / "answers.jsonl"
    assert main.run(["infer", "say", "--checkpoint", str(run), "--format", "jsonl", "--output", str(file)]) == 0
    assert json.loads(file.read_text())["text"] == NASTY


@pytest.mark.parametrize(("kind", "expected"), [(Terminal, SHOWN), (io.StringIO, NASTY)])
def test_chat_and_its_history(nasty, run, monkeypatch, kind, expected):
    stdout, stderr = kind(), kind()
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/history\n/edit \x1b[2J\n/undo\n"))
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main.run(["chat", "--checkpoint", str(run)]) == 0
    assert stdout.getvalue() == f"{expected}\n" * 2
    assert f"user: hello\nassistant: {expected}\n" in stderr.getvalue()
    assert stderr.getvalue().endswith("taken back: \u241b[2J\n" if kind is Terminal else "taken back: \x1b[2J\n")


@pytest.mark.parametrize(("kind", "expected"), [(Terminal, SHOWN), (io.StringIO, NASTY)])
def test_a_sentence_with_what_a_file_says(monkeypatch, kind, expected):
    """Templates raise errors of their own words, files name their tensors."""
    monkeypatch.setattr(sys, "stderr", kind())
    stderr(f"error: {NASTY}")
    assert sys.stderr.getvalue() == f"error: {expected}\n"
