"""What preferences are learnt from: no question is learnt that is measured, and files are read as they are encoded."""

import json

import pytest
from preference_runs import settings_of

from model.posttraining.preference_data import prepare_preferences
from tests.posttraining.conftest import write_lines

QUESTIONS = [f"{number} expert?" for number in range(24)]


def pairs_of(questions):
    return [{"prompt": question, "chosen": "yes", "rejected": "no"} for question in questions]


@pytest.fixture
def prompts(tmp_path):
    return write_lines(tmp_path / "prompts.jsonl", [{"prompt": question, "answer": "yes"} for question in QUESTIONS])


def test_pairs_with_the_questions_of_held_out_prompts_are_held_out(base, prompts, tmp_path):
    pairs = write_lines(tmp_path / "pairs.jsonl", pairs_of(QUESTIONS))
    settings = settings_of(base, pairs, prompts, {"evaluation_prompts": 6})
    data = prepare_preferences(settings, base)
    learnt, aside = ({tuple(pair.prompt_ids) for pair in side} for side in (data.pairs, data.held_out_pairs))
    asked = {tuple(prompt.ids) for prompt in data.held_out_prompts}
    assert (
        len(asked) == 6
        and asked <= aside
        and not asked & learnt
        and len(learnt | aside) == len(data.pairs) + len(aside)
    )
    assert any("offline pairs ask what held-out prompts ask: they are held out as well" in note for note in data.notes)


def test_where_there_are_no_others_they_are_learnt_and_that_is_told(base, prompts, tmp_path):
    pairs = write_lines(tmp_path / "other.jsonl", pairs_of(["router?"]))
    settings = settings_of(base, pairs, prompts, {"evaluation_prompts": 6})
    held_out = prepare_preferences(settings, base).held_out_prompts[0].question.messages[0]["content"]
    write_lines(tmp_path / "other.jsonl", pairs_of([held_out]))
    data = prepare_preferences(settings, base)
    assert len(data.pairs) == 1 and any("all offline pairs ask" in note for note in data.notes)


def test_pairs_and_prompts_are_read_in_their_encoding(base, tmp_path):
    rows = pairs_of(f"{number} größer?" for number in range(8))
    files = [tmp_path / "pairs.jsonl", tmp_path / "prompts.jsonl"]
    for file in files:
        text = "".join(json.dumps(row | {"answer": "yes"}, ensure_ascii=False) + "\n" for row in rows)
        file.write_text(text, encoding="latin-1")
    settings = settings_of(base, *files, data={"encoding": "latin-1"})
    data = prepare_preferences(settings, base)
    assert "größer" in data.prompts[0].question.messages[0]["content"] and data.pairs
