"""training.graph on a processor, where a recording is played without one: what it reads, and when it is made."""

import weakref

import pytest
import torch
from test_step import Masked
from tiny import assert_same_run

from model.checkpoint import run
from model.errors import ConfigError
from model.kernels.adamw import Rates
from model.training import graph
from model.training.optimizer import parameter_groups
from model.training.split_adamw import SplitAdamW

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECYCLE = ("model.moe_routing=recycle", "model.capacity_factor=1.0")
GRAPH, BFLOAT16 = "training.graph=true", "training.precision=bfloat16"
DENSE = ("model.num_experts=1", "model.num_shared_expert=0")


@pytest.fixture
def on_device(monkeypatch):
    """The optimizer of a GPU, here; made[i] is how often the i-th recording was played."""
    made = []

    def played(compute, stream):
        outputs, place = [], len(made)
        made.append(0)

        def replay():
            made[place] += 1
            outputs[:] = compute()

        return replay, outputs

    def optimizer(net, model, config, begin):
        rates = Rates(config.beta1, config.beta2, config.epsilon)
        groups = parameter_groups(dict(net.named_parameters()), model, config)
        return SplitAdamW(groups, rates=rates, max_grad_norm=config.max_grad_norm, split_weights=False)

    moments = run._moments  # on a GPU copies: here all share the one number of steps, which cannot be saved so
    monkeypatch.setattr(run, "_moments", lambda *parts: {name: t.clone() for name, t in moments(*parts).items()})
    monkeypatch.setattr(graph, "capture", played)
    monkeypatch.setattr(graph, "_obstacles", lambda model, config, device: [])
    monkeypatch.setattr("model.training.held.build_optimizer", optimizer)
    return made


@pytest.mark.parametrize(
    "changes",
    [(), RECYCLE, DENSE, (*RECYCLE, "model.expert_bias_update_rate=0.01"), ("training.micro_batch_size=2",)],
    ids=["dropless", "recycle", "dense", "bias", "micro-batches"],
)
def test_a_recorded_run_is_the_same_run(pretrain, on_device, tmp_path, changes):
    """Its batch, keys and rates are read where they were recorded, so all that changes from step to step must get there."""
    pretrain(*changes, "training.graph=false", folder=tmp_path / "plain")
    assert on_device == []
    notes = pretrain(*changes, GRAPH, folder=tmp_path / "recorded").notes
    assert on_device == [12 - graph.WARM_UP] and notes == []
    assert_same_run(tmp_path / "recorded", tmp_path / "plain", 12)


def test_a_recorded_run_is_resumed_exactly(pretrain, on_device, tmp_path):
    pretrain(*RECYCLE, GRAPH, folder=tmp_path / "whole")
    pretrain(*RECYCLE, GRAPH, folder=tmp_path / "parts", stop_after=6)
    pretrain(*RECYCLE, GRAPH, folder=tmp_path / "parts", resume=True)
    assert on_device == [10, 4, 4]
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 12)


def test_every_stage_is_recorded_anew_after_the_one_before_is_given_up(
    pretrain, staged, on_device, tmp_path, monkeypatch
):
    """A recording holds the memory of its stage: batches, gradients, activations."""
    begun, alive, begin = [], [], graph.RecordedStep.__init__

    def beginning(self, *arguments):
        alive.append(sum(other() is not None for other in begun))
        begun.append(weakref.ref(self))
        begin(self, *arguments)

    monkeypatch.setattr(graph.RecordedStep, "__init__", beginning)
    pretrain(of=staged(graph=False), folder=tmp_path / "plain")
    assert begun == []
    assert pretrain(of=staged(graph=True), folder=tmp_path / "recorded").notes == []
    assert on_device == [5 - graph.WARM_UP, 3 - graph.WARM_UP, 4 - graph.WARM_UP]
    assert alive == [0, 0, 0]
    assert_same_run(tmp_path / "recorded", tmp_path / "plain", 12)


def test_a_step_that_cannot_be_recorded_is_computed_as_it_is_after_a_sentence(
    pretrain, on_device, tmp_path, monkeypatch
):
    def broken(compute, stream):
        raise RuntimeError("no such\n node")

    pretrain("training.graph=false", folder=tmp_path / "plain")
    monkeypatch.setattr(graph, "capture", broken)
    (note,) = pretrain(GRAPH, folder=tmp_path / "broken").notes
    assert note == ("the step cannot be recorded as a CUDA graph here (no such node): training goes on without, slower")
    assert_same_run(tmp_path / "broken", tmp_path / "plain", 12)


def test_steps_of_another_form_are_computed_as_they_are(pretrain, on_device, tmp_path):
    """Every batch of this task has another number of targets."""
    pretrain("training.graph=false", folder=tmp_path / "plain", task=Masked)
    (note,) = pretrain(GRAPH, folder=tmp_path / "recorded", task=Masked).notes
    assert note.startswith("the batches of this run differ in shape")
    assert_same_run(tmp_path / "recorded", tmp_path / "plain", 12)


@pytest.mark.parametrize(
    ("changes", "device", "there", "expected"),
    [
        ((), CUDA, True, True),
        ((), CUDA, False, False),
        ((), CPU, True, False),
        (("training.precision=float32",), CUDA, True, False),
        (("training.precision=float32", *DENSE), CUDA, True, True),
        (("training.graph=false",), CUDA, True, False),
        (("model.vocab_size=2000000", "training.global_batch_tokens=32768", "training.micro_batch_size=1024"),
         CUDA, True, False),  # work enough for the device
    ],
)  # fmt: skip
def test_auto_records_small_steps_of_a_gpu(settings, monkeypatch, changes, device, there, expected):
    monkeypatch.setattr(graph, "has_triton", lambda: there)
    monkeypatch.setattr(graph, "LAUNCH_BOUND", 1e12)
    chosen = settings(BFLOAT16, *changes)
    assert graph.records(chosen.model, chosen.training, device) == expected


@pytest.mark.parametrize(
    ("changes", "device", "needs"),
    [
        ((), CPU, "a CUDA device"),
        (("training.precision=float32",), CUDA, "training.precision bfloat16"),
        (("training.precision=float32", *DENSE), CUDA, None),
        ((), CUDA, None),
    ],
)
def test_a_recording_that_was_asked_for_and_cannot_be_is_refused(settings, monkeypatch, changes, device, needs):
    monkeypatch.setattr(graph, "has_triton", lambda: True)
    chosen = settings(GRAPH, BFLOAT16, *changes)
    if needs is None:
        graph.check_recording(chosen.model, chosen.training, device)
        return
    with pytest.raises(ConfigError) as caught:
        graph.check_recording(chosen.model, chosen.training, device)
    assert str(caught.value) == f"training.graph needs {needs}: leave it at auto"


def test_a_refused_recording_leaves_no_folder(pretrain, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.graph needs a CUDA device"):
        pretrain(GRAPH)
    assert not (tmp_path / "run").exists()
