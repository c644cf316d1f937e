"""Stages whose steps are compiled: each for its own sizes, as in a process that goes on from the boundary."""

import pytest
import torch

from model.training.pretraining import Pretraining


class Unevaluated(Pretraining):
    """On a processor the last batch of an evaluation has a size of its own, which is traced as one that varies."""

    def evaluate(self, net):
        return {"val_loss": 1.0}


@pytest.fixture
def varies(monkeypatch):
    """Of every block that is compiled, whether it was traced for a size that varies."""
    traced, compile_module = [], torch.nn.Module.compile

    def backend(graph, inputs):
        traced.append(any(isinstance(value, torch.SymInt) for value in inputs))
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend=backend))
    torch.compiler.reset()
    yield traced
    torch.compiler.reset()


def test_a_stage_is_compiled_for_its_own_sizes(pretrain, staged, varies):
    stages = [{"name": "short", "share": 0.5}, {"name": "long", "share": 0.5, "context": 128}]
    pretrain(of=staged(stages, compile=True, steps=4), task=Unevaluated)
    assert varies == [False] * 4  # owner and follower of a cache, at two lengths
