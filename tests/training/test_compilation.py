"""training.compile: when auto compiles, to the same numbers, and what follows where compilation fails."""

import pytest
import torch
from tiny import weights
from torch._dynamo.utils import counters

from model.training.prepare import COMPILING, compiles

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
AUTO, FLOAT32, COMPILE = "training.precision=auto", "training.precision=float32", "training.compile=true"
NO_GRAPH = "training.graph=false"
DENSE = ("model.num_experts=1", "model.num_shared_expert=0")


def test_a_compiled_mixture_trains_to_the_same_losses(pretrain, tmp_path, monkeypatch):
    """Forward and backward are traced as one graph a block, then run without the C++ compiler that inductor would need."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    plain = pretrain("training.steps=4", folder=tmp_path / "plain").rows
    assert not counters["stats"]
    compiled = pretrain("training.steps=4", COMPILE, folder=tmp_path / "compiled").rows
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert not counters["graph_break"]
    for key in ("loss", "grad_norm", "aux_loss"):
        assert [row[key] for row in compiled] == pytest.approx([row[key] for row in plain], rel=1e-4)
    assert compiled[-1]["val_loss"] == pytest.approx(plain[-1]["val_loss"], rel=1e-4)
    assert compiled[-1]["tokens_per_expert"] == plain[-1]["tokens_per_expert"]
    one, other = (weights(tmp_path / name, 4) for name in ("plain", "compiled"))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)  # by the same names, too
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("changes", "device", "there", "expected"),
    [
        ((AUTO, NO_GRAPH), CUDA, True, True),
        ((AUTO, NO_GRAPH), CUDA, False, False),
        ((AUTO,), CUDA, True, False),  # so small a step is recorded instead
        ((AUTO, COMPILE), CUDA, True, True),
        ((AUTO,), CPU, True, False),
        ((FLOAT32,), CUDA, True, False),  # torch traces its grouped product in bfloat16 alone
        ((FLOAT32, *DENSE, NO_GRAPH), CUDA, True, True),
        ((COMPILE,), CPU, False, True),
        ((AUTO, "training.compile=false"), CUDA, True, False),
    ],
)
def test_auto_compiles_for_a_gpu_where_a_compiler_is_there(settings, monkeypatch, changes, device, there, expected):
    monkeypatch.setattr("model.training.prepare.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("model.training.prepare.shutil.which", lambda name: name if there else None)
    chosen = settings(*changes)
    assert compiles(chosen.model, chosen.training, device) == expected


@pytest.fixture
def auto_compiles(monkeypatch):
    """auto_compiles(backend): auto is on, on this processor, with a backend that needs no C++ compiler."""
    compile_module = torch.nn.Module.compile

    def switch_on(backend):
        torch.compiler.reset()
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend=backend))
        monkeypatch.setattr("model.training.prepare.compiles", lambda model, config, device: config.compile == "auto")

    yield switch_on
    torch.compiler.reset()


def test_auto_compiles_before_the_first_step_and_leaves_nothing_behind(pretrain, tmp_path, auto_compiles):
    plain = pretrain("training.steps=4", "training.compile=false", folder=tmp_path / "plain")
    auto_compiles("aot_eager")
    compiled = pretrain("training.steps=4", folder=tmp_path / "auto")
    assert compiled.notes == [COMPILING]
    assert [row["loss"] for row in compiled.rows] == pytest.approx([row["loss"] for row in plain.rows], rel=1e-4)
    one, other = (weights(tmp_path / name, 4) for name in ("plain", "auto"))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


def test_what_auto_cannot_compile_trains_without_after_a_sentence(pretrain, tmp_path, auto_compiles):
    def broken(graph, inputs):
        raise RuntimeError("no such\n instruction")

    pretrain("training.steps=2", "training.compile=false", folder=tmp_path / "plain")
    auto_compiles(broken)
    run = pretrain("training.steps=2", folder=tmp_path / "auto")
    assert run.notes[0] == COMPILING and len(run.notes) == 2
    assert run.notes[1].startswith("the model cannot be compiled here (") and "no such instruction" in run.notes[1]
    assert run.notes[1].endswith("): training goes on without, slower")
    for name, weight in weights(tmp_path / "plain", 2).items():
        assert torch.equal(weights(tmp_path / "auto", 2)[name], weight)
