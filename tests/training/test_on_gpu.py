"""Training on a GPU by the real loop: recorded as a CUDA graph, without a wait for the device, without recompilation."""

import pytest
import torch
from tiny import assert_same_run, weights
from torch._dynamo.utils import counters

from model.errors import TrainingError
from model.training.pretraining import Pretraining

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = ("training.device=cuda", "training.precision=auto", "training.compile=false")
GRAPH, NO_GRAPH = "training.graph=true", "training.graph=false"
RECYCLE = ("model.moe_routing=recycle", "model.capacity_factor=1.0")
DENSE = ("model.num_experts=1", "model.num_shared_expert=0")
CASES = {
    "dropless": (),
    "drop": ("model.moe_routing=drop",),
    "recycle": RECYCLE,
    "dense": DENSE,
    "dense float32": (*DENSE, "training.precision=float32"),
    "bias": (*RECYCLE, "model.expert_bias_update_rate=0.01"),
    "micro-batches": (*RECYCLE, "training.micro_batch_size=2"),
    "two experts": ("model.moe_topk=2", "training.moments=bfloat16"),
    "recomputed": (*RECYCLE, "training.recompute=true"),
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_recorded_run_is_the_same_run(pretrain, tmp_path, changes):
    pretrain(*GPU, *changes, NO_GRAPH, folder=tmp_path / "plain")
    assert pretrain(*GPU, *changes, GRAPH, folder=tmp_path / "recorded").notes == []
    assert_same_run(tmp_path / "recorded", tmp_path / "plain", 12)


def test_a_recorded_run_is_resumed_exactly(pretrain, tmp_path):
    pretrain(*GPU, *RECYCLE, GRAPH, folder=tmp_path / "whole")
    pretrain(*GPU, *RECYCLE, GRAPH, folder=tmp_path / "parts", stop_after=6)
    pretrain(*GPU, *RECYCLE, GRAPH, folder=tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 12)


@pytest.mark.parametrize("graph", [GRAPH, NO_GRAPH])
@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_waits_for_the_device(pretrain, graph, compiled):
    class Watched(Pretraining):
        def micro_batches(self, step):
            if step == 4:
                torch.cuda.set_sync_debug_mode("error")
            return super().micro_batches(step)

        def evaluate(self, net):
            torch.cuda.set_sync_debug_mode("default")
            return super().evaluate(net)

    compile = f"training.compile={'true' if compiled else 'false'}"
    try:
        run = pretrain(
            *(*GPU, *RECYCLE, compile, graph, "training.log_every=100", "training.checkpoint_every=0"),
            "training.micro_batch_size=2",
            task=Watched,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.summary["steps"] == 12


@pytest.mark.parametrize("graph", [GRAPH, NO_GRAPH])
def test_nothing_is_compiled_after_the_first_evaluation(pretrain, graph):
    """Neither by the last batch of an evaluation, which has fewer sequences than the others."""
    seen = []

    class Watched(Pretraining):
        def micro_batches(self, step):
            seen.append(counters["stats"]["unique_graphs"])
            return super().micro_batches(step)

    torch.compiler.reset()
    counters.clear()
    changes = ("training.compile=true", "training.evaluate_every=5", "training.evaluation_tokens=224")
    run = pretrain(*GPU, *RECYCLE, *changes, graph, task=Watched)
    assert 0 < seen[6] == seen[-1] == counters["stats"]["unique_graphs"], run.notes  # the first one is after step 5
    assert not counters["graph_break"]


@pytest.mark.parametrize("graph", [GRAPH, NO_GRAPH])
def test_a_loss_that_is_not_finite_stops_the_run_and_no_weight_is_touched(pretrain, tmp_path, graph):
    class Broken(Pretraining):
        def forward(self, net, data, routing_key):
            self.net = net
            return super().forward(net, data, routing_key)

        def micro_batches(self, step):
            if step == 6:
                self.before = [p.detach().clone() for p in self.net.parameters()]
                with torch.no_grad():
                    self.net.norm.weight[0] = float("nan")
            if step == 7:  # under way when the host learns of step 7
                Broken.moved = [
                    name
                    for (name, p), old in zip(self.net.named_parameters(), self.before, strict=True)
                    if name != "norm.weight" and not p.equal(old)
                ]
            return super().micro_batches(step)

    with pytest.raises(
        TrainingError, match=r"at step 7: stopped before the update; the last good checkpoint is that of step 6"
    ):
        pretrain(*GPU, graph, task=Broken)
    assert Broken.moved == []
    assert all(weight.isfinite().all() for weight in weights(tmp_path / "run", 6).values())
