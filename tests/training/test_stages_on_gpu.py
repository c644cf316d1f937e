"""Stages on a GPU by the real loop: each is recorded or compiled anew, and a resumed run is exact over the boundaries."""

import pytest
import torch
from tiny import TENSORS, assert_same_run, checkpoint, rows_of

from model.training import graph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ENDS = (5, 8, 12)  # steps after which the stages of three_stages.py end; the last has another context, base and mixture


@pytest.fixture
def on_gpu(staged):
    """on_gpu(graph=True) -> the settings of three stages on the GPU."""

    def make(**training):
        return staged(**{"device": "cuda", "precision": "auto", "compile": False, "graph": False, **training})

    return make


@pytest.fixture
def recordings(monkeypatch):
    """The shapes of the batches that recorded steps read."""
    shapes, record = [], graph.RecordedStep._record

    def recorded(self, leaves, structure):
        shapes.append(tuple(leaves[0].shape))
        return record(self, leaves, structure)

    monkeypatch.setattr(graph.RecordedStep, "_record", recorded)
    return shapes


def assert_same_stages(folder, reference):
    assert_same_run(folder, reference, 12)
    for step in ENDS:
        for name in TENSORS:
            here, there = (checkpoint(run, step) / name for run in (folder, reference))
            assert here.read_bytes() == there.read_bytes(), f"{name} of step {step} differs"


def test_every_stage_is_recorded_anew_and_is_the_same_run(pretrain, on_gpu, tmp_path, recordings):
    """Rates, keys, batches and rotations of a stage before would make it another."""
    pretrain(of=on_gpu(), folder=tmp_path / "plain")
    assert recordings == []
    assert pretrain(of=on_gpu(graph=True), folder=tmp_path / "recorded").notes == []
    assert recordings == [(4, 33), (4, 33), (1, 129)]
    assert_same_stages(tmp_path / "recorded", tmp_path / "plain")


@pytest.mark.parametrize("stop", [3, 5, 7, 8, 11])
def test_a_recorded_run_is_resumed_exactly_over_its_boundaries(pretrain, on_gpu, tmp_path, stop):
    chosen = on_gpu(graph=True)
    pretrain(of=chosen, folder=tmp_path / "whole")
    pretrain(of=chosen, folder=tmp_path / "parts", stop_after=stop)
    pretrain(of=chosen, folder=tmp_path / "parts", resume=True)
    assert_same_stages(tmp_path / "parts", tmp_path / "whole")


def test_compiled_stages_are_resumed_exactly_and_learn_the_same(pretrain, on_gpu, tmp_path):
    chosen = on_gpu(compile=True)
    whole = pretrain(of=chosen, folder=tmp_path / "whole")
    assert not any("cannot be compiled" in note for note in whole.notes)
    pretrain(of=chosen, folder=tmp_path / "parts", stop_after=8)
    pretrain(of=chosen, folder=tmp_path / "parts", resume=True)
    assert_same_stages(tmp_path / "parts", tmp_path / "whole")
    pretrain(of=on_gpu(), folder=tmp_path / "plain")
    losses = [[row["loss"] for row in rows_of(tmp_path / name)] for name in ("whole", "plain")]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)  # bfloat16, rounded elsewhere
