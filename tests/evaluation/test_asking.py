"""Asking a model: what is cut is counted, what was answered is not asked again, texts end where they should."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.errors import DataError
from model.evaluation import asking
from model.evaluation.asking import Prompt, rolling_windows
from model.evaluation.ledger import FILE_NAME, Ledger
from model.evaluation.loglikelihood import Limits, Question
from tests.evaluation.folders import small_model

ROOT = Path(__file__).parents[2]


def questions(count, model, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(size):
        return torch.randint(model.net.config.vocab_size, (size,), generator=generator).tolist()

    return [Question(ids(3 + 5 * (n % 4)), [ids(1 + n % 3), ids(2)]) for n in range(count)]


def prompts(model, count):
    return [Prompt(question.context, 4 + n % 3, ("e", "zz")) for n, question in enumerate(questions(count, model))]


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_a_long_context_loses_its_beginning_and_is_counted():
    model = small_model(context=32)
    fits, long = Question(list(range(30)), [[1, 2, 3]]), Question(list(range(45)), [[1, 2, 3], [4]])
    kept = Question(list(range(45))[-30:], long.choices)
    found = model.choose([fits, long, kept])
    assert [each.cut for each in found] == [0, 15, 0]
    assert found[1].answers == found[2].answers


def test_a_long_prompt_loses_its_beginning_and_is_counted():
    model = small_model(context=32)
    long, kept = Prompt(list(range(50)), 8), Prompt(list(range(50))[-24:], 8)
    first, second = model.generate([long, kept])
    assert (first.cut, second.cut) == (26, 0) and first[:3] == second[:3]


@pytest.mark.parametrize("ask", [
    lambda model: model.choose([Question(list(range(40)), [[1]])]),
    lambda model: model.generate([Prompt(list(range(40)), 4)]),
])  # fmt: skip
def test_what_is_too_long_can_be_refused(ask):
    with pytest.raises(DataError, match=r"context is 32.*--truncate left"):
        ask(small_model(context=32, truncate="refuse"))


def test_a_choice_that_fits_nowhere_is_refused():
    with pytest.raises(DataError, match="a choice has 40 tokens"):
        small_model(context=32).choose([Question([1], [list(range(40))])])


def test_an_answer_as_long_as_the_context_ends_at_half_of_it_with_a_note():
    model = small_model(context=32)
    reply = model.generate([Prompt([1, 2, 3], 500)])[0]
    assert reply.new_tokens <= 16 and "answers end after 16 tokens" in next(iter(model.notes))


# --- texts -----------------------------------------------------------------------------------------------------------


def test_a_text_does_not_depend_on_the_others_and_ends_before_its_until():
    model = small_model(batch_size=3)
    asked = prompts(model, 7)
    together = model.generate(asked)
    assert together == [small_model().generate([prompt])[0] for prompt in asked]
    assert not [reply for reply in together if "e" in reply.text]
    assert {reply.stop_reason for reply in together} <= {"stop_string", "length", "end_of_text"}


def test_drawn_texts_follow_their_seed():
    model, ids = small_model(), [1, 2, 3]
    one, two, again = model.generate([Prompt(ids, 12, (), {"temperature": 1.0}, seed) for seed in (1, 2, 1)])
    assert one == again != two


# --- whole texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 31, 32, 33, 64, 90])
def test_windows_ask_for_every_token_once_with_the_most_context(size):
    ids = list(range(100, 101 + size))
    windows = rolling_windows(ids, 32)
    assert [token for window in windows for token in window.choices[0]] == ids[1:]
    assert all(len(window.context) + len(window.choices[0]) <= 33 for window in windows)
    last = windows[-1]
    assert len(last.context) + len(last.choices[0]) == min(33, len(ids))


@torch.no_grad()
def test_a_whole_text_has_the_log_likelihood_of_one_forward_pass():
    model = small_model(context=32)
    ids = questions(1, model)[0].context * 8
    whole = torch.tensor([[model.tokenizer.eos_id, *ids]])
    logprobs = model.net(whole[:, :-1]).logits[0].double().log_softmax(-1)
    expected = float(logprobs.gather(1, whole[0, 1:, None]).sum())
    assert model.rolling([ids, ids[:4]])[0] == pytest.approx(expected, rel=1e-5)


# --- what was answered -----------------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again(tmp_path, monkeypatch):
    with Ledger(tmp_path, "this model") as ledger:
        model = small_model(ledger)
        first = model.choose(questions(9, model)), model.generate(prompts(model, 5))
    monkeypatch.setattr(asking, "answer_batch", None)
    monkeypatch.setattr(asking, "generate_batch", None)
    with Ledger(tmp_path, "this model") as ledger:
        model = small_model(ledger)
        assert (model.choose(questions(9, model)), model.generate(prompts(model, 5))) == first
    with Ledger(tmp_path, "another model") as ledger, pytest.raises(TypeError):
        small_model(ledger).choose(questions(1, model))


def test_a_torn_line_is_dropped_and_the_rest_comes_out_to_the_bit(tmp_path):
    limits = Limits(rows=2)
    with Ledger(tmp_path, "m") as ledger:
        model = small_model(ledger, limits=limits)
        whole = model.choose(questions(9, model))
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    for length in (0, 10, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with Ledger(tmp_path, "m") as ledger:
            model = small_model(ledger, limits=limits)
            assert model.choose(questions(9, model)) == whole
        assert sorted(path.read_text().splitlines()) == sorted(content.decode().splitlines())


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"key": "a", "answer": 1}\n{"ke\n')
    with pytest.raises(DataError, match="line 2 is damaged"):
        Ledger(tmp_path, "m")


SCRIPT = """
import os, sys, signal, torch
from pathlib import Path
from model.evaluation.ledger import Ledger
from model.evaluation.loglikelihood import Limits
from tests.evaluation.folders import small_model
from tests.evaluation.test_asking import prompts, questions
torch.set_num_threads(1)
left = int(sys.argv[2])
def advance(count):
    global left
    left -= count
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
model = small_model(Ledger(Path(sys.argv[1]), "m"), limits=Limits(rows=2), batch_size=2, advance=advance)
model.choose(questions(8, model))
model.generate(prompts(model, 6))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_had_answered(tmp_path):
    """SIGKILL amid choices and amid texts; at the end every request was answered once, with the same answers."""
    with Ledger(tmp_path / "whole", "m") if (tmp_path / "whole").mkdir() is None else None as ledger:
        model = small_model(ledger, limits=Limits(rows=2), batch_size=2)
        expected = model.choose(questions(8, model)), model.generate(prompts(model, 6))
    (tmp_path / "killed").mkdir()
    for moment in (3, 11):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), str(moment)], cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL
    with Ledger(tmp_path / "killed", "m") as ledger:
        model = small_model(ledger, limits=Limits(rows=2), batch_size=2)
        assert (model.choose(questions(8, model)), model.generate(prompts(model, 6))) == expected
    keys = [json.loads(line)["key"] for line in (tmp_path / "killed" / FILE_NAME).read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len((tmp_path / "whole" / FILE_NAME).read_text().splitlines())
