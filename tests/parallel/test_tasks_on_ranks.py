"""training.evaluate_tasks on ranks: each asks some of the tasks of a whole model, and all have the scores of one process."""

import dataclasses
import json
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from runs import run_alone, run_on_ranks, settings_of

from model.errors import ConfigError, DataError, PeerError
from model.evaluation import periodic
from model.evaluation.documents import ask_documents
from model.evaluation.long_context import RULER_METRIC
from model.memory import state_bytes
from model.parallel.layout import Layout
from model.training.pretraining import _check

ASKED = (
    'training.evaluate_tasks=["niah_single_1@128", "vt@128", "niah_single_2@128"]', "training.evaluate_samples=1",
    "training.steps=2", "training.evaluate_every=1", "training.log_every=1",
    "training.sequence_length=128", "training.global_batch_tokens=512", "model.router_aux_loss_coef=0.1",
)  # fmt: skip
LAYOUTS = [
    Layout(processes=2, expert_parallel=2, shard=1),
    Layout(processes=2, context_parallel=2),
    Layout(processes=2, expert_parallel=2),
]
told: list[str] = []


def asked(model, documents):
    """What the model answers, and its loss on the prompts: a score that every weight has a part in, and the task too."""
    told.append(documents[0].task)
    samples = ask_documents(model, documents)
    for sample, document in zip(samples, documents, strict=True):
        ids = torch.tensor([model.tokenizer.encode(document.prompt)])
        sample.scores[RULER_METRIC] += float(model.net(ids[:, :-1], ids[:, 1:]).loss)
    return samples


def asked_on_ranks(rank, folder, settings, layout):
    told.clear()
    with patch.object(periodic, "ask_documents", asked):
        return run_on_ranks(rank, folder, settings, layout), list(told)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    words = "the quick brown fox jumps over the lazy dog and runs away from it as fast as it can ".split()
    (folder / "text.txt").write_text(" ".join(words[i * i % len(words)] for i in range(9000)))
    return settings_of(folder / "text.txt", folder / "cache", *ASKED)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scores_are_those_of_one_process(ranks, settings, tmp_path):
    with patch.object(periodic, "ask_documents", asked):
        run_alone(tmp_path / "one", settings)
    expected = rows(tmp_path / "one")
    scores = [[value for key, value in row.items() if key.startswith("score_")] for row in expected]
    assert [len(set(row)) for row in scores] == [3, 3] and scores[0] != scores[1]
    for number, layout in enumerate(LAYOUTS):
        folder = tmp_path / str(number)
        (summary, first), (_, second) = ranks(2).run(asked_on_ranks, folder, settings, layout)
        assert first == ["niah_single_1", "niah_single_2"] * 2 and second == ["vt"] * 2
        for row, one in zip(rows(folder), expected, strict=True):
            keys = [key for key in one if key.startswith("score_") or key in ("loss", "val_loss", "grad_norm")]
            assert len(keys) == 6
            assert {key: row[key] for key in keys} == pytest.approx({key: one[key] for key in keys}, rel=2e-6)
        assert summary["score_vt_128"] == rows(folder)[-1]["score_vt_128"]


def fails(rank, folder, settings):
    def full(model, documents):
        raise DataError("no answer")

    with patch.object(periodic, "ask_documents", full if rank else ask_documents):
        try:
            run_on_ranks(rank, folder, settings, LAYOUTS[0])
        except (DataError, PeerError) as error:
            return str(error)


def test_where_one_fails_no_other_waits(ranks, settings, tmp_path):
    assert ranks(2).run(fails, tmp_path / "run", settings) == ["rank 1 of the run has failed: no answer", "no answer"]


def test_whole_models_need_memory(settings, monkeypatch):
    """4 bytes a weight and process, which this machine lacks."""
    monkeypatch.setattr("model.training.prepare.memory_bytes", lambda device: state_bytes(settings.model))
    plain = dataclasses.replace(settings, training=dataclasses.replace(settings.training, evaluate_tasks=()))
    ranks = SimpleNamespace(layout=LAYOUTS[2])
    _check(plain, torch.device("cpu"), ranks)
    with pytest.raises(ConfigError, match="of them for the whole models"):
        _check(settings, torch.device("cpu"), ranks)
