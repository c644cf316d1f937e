"""Tables in narrow terminals: every number in one piece, every column shown, no line longer than the terminal."""

import os
import pty
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.tables import display_width, render

ROOT = Path(__file__).parents[2]

MEASURES = {
    "flops": "2.15e+18",
    "params_opt": "238,000",
    "opt_tokens": "17.1M",
    "val_loss": "2.4938",
    "bytes": "429.5 GB",
}
ROW = {"flops": 2.154e18, "params_opt": 238e3, "opt_tokens": 17.1e6, "val_loss": 2.4938, "bytes": 429.5e9}
WORDS = {"name": "wide", "why": "its minimum lies below the sampled sizes", "interval": "352K to 645K", "ok": True}


def shown(rows, room, **options):
    text = render({"budgets": (list(rows[0]), rows)}, room=room, **options)
    assert max(map(display_width, text.splitlines())) <= room
    return text


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("room", [24, 30, 40, 61, 80, 120])
def test_no_number_is_broken_and_no_column_lost(room, count):
    text = shown([WORDS | ROW] * count, room)
    for number in MEASURES.values():
        assert text.count(number) == count
    for heading in ("flops", "opt", "loss", "bytes", "why", "interval", "ok"):
        assert heading in text
    assert text.count("352K") == text.count("645K") == count
    assert " ".join(text.split()).count("minimum") == count


def test_a_table_that_fits_is_as_it_is_in_a_pipe():
    rows = [WORDS | ROW] * 3
    table = {"budgets": (list(rows[0]), rows)}
    assert shown(rows, 170) == render(table, room=170, fold=False)
    assert len(render(table, room=40, fold=False).splitlines()[2]) > 120  # where nothing is folded


def test_headings_and_words_are_folded_before_a_table_is_cut():
    assert shown([{"name": "a", "median_tokens_per_second": 5.0}, {"name": "b", "median_tokens_per_second": 62.5}], 24) == (
        "budgets\n\n"
        "           median tokens\n"
        " name         per second\n"
        " ───────────────────────\n"
        " a                     5\n"
        " b                  62.5\n"
    )  # fmt: skip


def test_a_wide_table_is_turned_where_that_shortens_it():
    assert shown([{"name": "a", "params": 2.5e6, "tokens": 17.1e6, "loss": 2.25}], 20) == (
        "budgets\n\n"
        " name          a\n"
        " ───────────────\n"
        " params     2.5M\n"
        " tokens    17.1M\n"
        " loss     2.2500\n"
    )  # fmt: skip


def test_what_is_still_too_wide_comes_in_pieces_with_their_names():
    rows = [{"name": name, "params": 2.5e6, "tokens": 17.1e6, "loss": 2.25} for name in "abcde"]
    assert shown(rows, 24) == (
        "budgets\n\n"
        " name   params   tokens\n"
        " ──────────────────────\n" + "".join(f" {name}        2.5M    17.1M\n" for name in "abcde") + "\n"
        " name     loss\n"
        " ─────────────\n" + "".join(f" {name}      2.2500\n" for name in "abcde")
    )


def test_mean_and_deviation_are_one_number():
    rows = [{"name": "a long name of a run", "loss": 2.25, "loss_sd": 0.125, "mfu": 0.5}] * 2
    assert shown(rows, 26).count("2.2500 ± 0.1250") == 2


def test_wide_characters_and_accents_are_measured_as_a_terminal_does():
    assert [display_width(text) for text in ("abc", "混元", "e\u0301", "±")] == [3, 4, 1, 1]
    lines = shown([{"name": "混元大模型" * 4, "loss": 2.25}, {"name": "b", "loss": 1.0}], 24).splitlines()
    assert len({display_width(line) for line in lines if "2.2500" in line or "1.0000" in line}) == 1


def test_a_long_word_is_cut_but_nothing_of_it_lost():
    path = "/a/very/long/path/to/a/folder/that/nobody/types"
    text = shown([{"path": path, "loss": 2.25}, {"path": "b", "loss": 1.0}], 30)
    assert path in text.replace("2.2500", "").replace(" ", "").replace("\n", "")


def test_nothing_in_a_cell_commands_the_terminal():
    text = shown([{"name": "\x1b[31mred\x07", "loss": 2.25}], 60)
    assert "\x1b" not in text and "\x07" not in text and "red" in text


def test_a_name_that_somebody_gave_keeps_its_underscore():
    rows = [{"setting": "lr", "my_run": 1e-3}]
    assert "my run" in shown(rows, 60) and "my_run" in shown(rows, 60, as_written=["my_run"])


def test_notes_are_folded_between_words():
    text = render({}, "the exponent moves by -0.1986 where the budget 8.201e+14 is left out", room=30)
    assert max(map(len, text.splitlines())) <= 30 and "-0.1986" in text and "8.201e+14" in text


@pytest.mark.parametrize("columns", [40, 80])
def test_the_width_is_that_of_the_terminal(columns):
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "hunyuan_cli", "kv-cache", "--model", "hunyuan-large", "--batch", "3"]
    process = subprocess.Popen(command, stdout=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        text += part
    assert process.wait(timeout=60) == 0
    lines = text.decode().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert columns // 2 < max(map(len, lines)) <= columns
    assert any("1.288 TB" in line for line in lines)  # 3 sequences of 262,144 tokens at 1,638,400 bytes
