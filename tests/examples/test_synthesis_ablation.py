"""The ablation of synthetic data: its arms, its tests, and how an answer is scored."""

import importlib.util
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from model.generation.engine import Engine
from tests.cli.speaking import write_run

SCRIPT = Path(__file__).parents[2] / "examples" / "synthesis" / "ablation.py"


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine.from_folder(write_run(tmp_path_factory.mktemp("ablation") / "run"))


def test_shuffled_answers_are_those_of_other_questions_of_the_family(ablation):
    records = [
        {"instruction": f"{family} {n}", "response": f"{family} says {n}", "task": {"family": family}}
        for family in ("sort", "count")
        for n in range(20)
    ]
    found = ablation.shuffled(records)
    assert Counter(row["response"] for row in found) == Counter(row["response"] for row in records)
    assert all(row["response"].startswith(row["task"]["family"]) for row in found)
    right = {row["instruction"]: row["response"] for row in records}
    assert sum(right[row["instruction"]] == row["response"] for row in found) < 8


def test_tests_ask_once_with_a_right_and_a_wrong_answer(ablation, tmp_path):
    ablation.make_tests(tmp_path, 60)
    for test in ablation.TESTS:
        rows = json.loads((tmp_path / f"{test}.json").read_text())
        assert len(rows) > 50 and all(row["right"] != row["wrong"] for row in rows)
    seen, held_out = ({r["question"] for r in json.loads((tmp_path / f"{t}.json").read_text())} for t in ablation.TESTS)
    assert not seen & held_out


def test_an_answer_is_scored_after_its_question_alone(ablation, engine):
    pairs = [("What is one?", "It is 1."), ("And a longer question, of two?", "2")]
    for (question, answer), found in zip(pairs, ablation.likelihoods(engine, pairs), strict=True):
        ids, asked = ablation.prompt_ids(engine, question, answer)
        assert engine.tokenizer.decode(ids[:asked]) == f"{question}\n\n"
        whole = [*ids, engine.tokenizer.eos_id]
        with torch.no_grad():
            logps = engine.net(torch.tensor([whole])).logits[0].float().log_softmax(-1)
        by_hand = sum(float(logps[place - 1, whole[place]]) for place in range(asked, len(whole)))
        assert found == pytest.approx(by_hand, abs=1e-3)


def test_scores_of_a_model_that_has_learnt_nothing(ablation, engine, monkeypatch):
    monkeypatch.setattr(ablation, "LONGEST", 8)
    rows = [{"question": f"What is {n}?", "right": str(n), "wrong": str(n + 1), "family": "x"} for n in range(3)]
    scored = ablation.score(engine, rows)
    assert all(one["accuracy"] in (0.0, 1.0) and one["preference"] in (0.0, 1.0) for one in scored)
    assert all(0 < one["answer_bits_per_byte"] < 100 and math.isfinite(one["answer_bits_per_byte"]) for one in scored)
