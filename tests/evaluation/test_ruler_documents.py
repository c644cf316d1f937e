"""RULER's documents for an evaluation: the progress of writing them, and lengths that a task does not fit."""

from contextlib import contextmanager

import pytest

from model.errors import DataError
from model.evaluation import long_context
from model.evaluation.long_context import ruler_documents


class Letters:
    """A tokenizer of single characters."""

    def encode(self, text):
        return list(map(ord, text))

    encode_prompt = encode


def written(names, lengths, samples):
    shown, notes = {}, []

    @contextmanager
    def stage(name, total):
        shown[name] = [total, 0]

        def advance(count):
            shown[name][1] += count

        yield advance

    options = {
        "lengths": lengths,
        "context": 400_000,
        "samples": samples,
        "seed": 0,
        "note": notes.append,
        "stage": stage,
    }
    documents = list(ruler_documents(Letters(), names, **options))
    return shown, notes, [(each[0].task, each[0].length, len(each)) for each in documents]


def test_writing_long_documents_is_shown_sample_by_sample(monkeypatch):
    monkeypatch.setattr(long_context, "WRITTEN_A_SECOND", 10_000)
    shown, _, documents = written(["vt", "niah_single_1"], [2000, 4000], 3)
    assert shown == {f"writing {task} of 4,000 tokens": [3, 3] for task in ("vt", "niah_single_1")}
    assert documents == [(task, length, 3) for length in (2000, 4000) for task in ("vt", "niah_single_1")]


def test_a_task_that_does_not_fit_is_left_out_with_a_note(monkeypatch):
    monkeypatch.setattr(long_context, "WRITTEN_A_SECOND", 0)
    shown, notes, documents = written(["vt", "niah_single_1"], [600, 40], 2)
    assert documents == [("vt", 600, 2), ("niah_single_1", 600, 2)]
    assert (
        all(note.startswith("left out: ") and "does not fit into 40 tokens" in note for note in notes)
        and len(notes) == 2
    )
    assert shown["writing vt of 40 tokens"] == [2, 0]
    with pytest.raises(DataError, match="does not fit into 40 tokens"):
        written(["vt"], [40], 2)
