"""One step of the loop: its loss and gradients from all micro-batches, clipping, rates, and what moves beside the weights."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny import checkpoint, weights

from model.errors import TrainingError
from model.training.pretraining import Pretraining
from model.training.task import MicroBatch

DENSE = ("model.num_experts=1", "model.num_shared_expert=0")
BIAS = ("model.expert_bias_update_rate=0.01",)
ONE_STEP = (
    "training.steps=1",
    "training.epsilon=0.01",
    "model.router_aux_loss_coef=0",
)  # smooth where a gradient is near 0


@pytest.mark.parametrize("model", [DENSE, ()], ids=["dense", "dropless"])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulated_gradients_are_those_of_one_big_batch(pretrain, tmp_path, model, micro_batch_size):
    whole = pretrain(*ONE_STEP, *model, "training.micro_batch_size=8", folder=tmp_path / "whole")
    size = f"training.micro_batch_size={micro_batch_size}"
    parts = pretrain(*ONE_STEP, *model, size, folder=tmp_path / "parts")
    assert parts.rows[0]["loss"] == pytest.approx(whole.rows[0]["loss"], rel=1e-5)
    assert parts.rows[0]["grad_norm"] == pytest.approx(whole.rows[0]["grad_norm"], rel=1e-4)
    assert parts.rows[0]["load_imbalance"] == whole.rows[0]["load_imbalance"]
    torch.testing.assert_close(weights(tmp_path / "parts", 1), weights(tmp_path / "whole", 1), rtol=1e-4, atol=1e-6)


class Masked(Pretraining):
    """Every third label or so is masked, and all of the second sequence; micro-batches of PARTS sequences each."""

    PARTS = (8,)

    def micro_batches(self, step):
        sequences = torch.from_numpy(self.sampler.batch(8 * step, 8))
        labels = sequences[:, 1:].masked_fill(sequences[:, 1:] % 3 == 0, -100)
        labels[1] = -100
        for ids, part in zip(sequences[:, :-1].split(self.PARTS), labels.split(self.PARTS), strict=True):
            yield MicroBatch((ids, part), targets=int((part >= 0).sum()), tokens=part.numel())

    def forward(self, net, data, routing_key):
        return net(*data, routing_key=routing_key)


@pytest.mark.parametrize("model", [DENSE, ()], ids=["dense", "dropless"])
@pytest.mark.parametrize("parts", [(1, 1, 6), (5, 3), (2, 2, 2, 2)], ids=str)
def test_masked_labels_and_uneven_parts_have_the_gradients_of_one_big_batch(
    pretrain, tmp_path, monkeypatch, model, parts
):
    """In (1, 1, 6) the second micro-batch has nothing to learn."""
    whole = pretrain(*ONE_STEP, *model, folder=tmp_path / "whole", task=Masked).rows[0]
    monkeypatch.setattr(Masked, "PARTS", parts)
    found = pretrain(*ONE_STEP, *model, folder=tmp_path / "parts", task=Masked).rows[0]
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert found["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)
    assert (found["tokens"], found["load_imbalance"]) == (256, whole["load_imbalance"])
    torch.testing.assert_close(weights(tmp_path / "parts", 1), weights(tmp_path / "whole", 1), rtol=1e-4, atol=1e-6)


def test_routing_losses_weigh_by_tokens_not_by_targets(pretrain, monkeypatch):
    """One part of 6 sequences and one of 2: the auxiliary loss of each, by hand."""
    seen = []

    class Uneven(Masked):
        PARTS = (6, 2)

        def forward(self, net, data, routing_key):
            output = super().forward(net, data, routing_key)
            seen.append((float(output.aux_loss.detach()), float(output.stats.balance_loss.mean())))
            return output

    (row,) = pretrain("training.steps=1", task=Uneven).rows
    assert row["aux_loss"] == pytest.approx(0.75 * seen[0][0] + 0.25 * seen[1][0], rel=1e-6)
    assert row["balance_loss"] == pytest.approx(0.75 * seen[0][1] + 0.25 * seen[1][1], rel=1e-6)
    assert seen[0][0] != pytest.approx(seen[1][0], rel=1e-3)


def test_a_step_without_a_label_is_refused(pretrain):
    class Empty(Masked):
        def micro_batches(self, step):
            yield from (batch._replace(targets=0) for batch in super().micro_batches(step))

    with pytest.raises(TrainingError, match="step 1 has nothing to learn: every label of its batch is masked"):
        pretrain("training.steps=1", task=Empty)


@pytest.mark.parametrize("max_norm", [0.01, 0.5, 1000.0])
def test_gradients_are_clipped_to_the_norm_and_recorded_before(pretrain, tmp_path, max_norm):
    (row,) = pretrain("training.steps=1", f"training.max_grad_norm={max_norm}").rows
    moments = load_file(checkpoint(tmp_path / "run", 1) / "optimizer.safetensors")
    first = [value / 0.1 for name, value in moments.items() if name.endswith("exp_avg")]  # 1 - beta1
    used = math.sqrt(sum(float(value.square().sum()) for value in first))
    assert 0.5 < row["grad_norm"] < 1000
    assert used == pytest.approx(min(max_norm, row["grad_norm"]), rel=1e-4)


def test_the_auxiliary_loss_moves_the_router(pretrain, tmp_path):
    for coef in (0, 1):
        pretrain("training.steps=1", f"model.router_aux_loss_coef={coef}", folder=tmp_path / str(coef))
    moved = [load_file(checkpoint(tmp_path / str(coef), 1) / "optimizer.safetensors") for coef in (0, 1)]
    router = next(name for name in moved[0] if "router" in name and name.endswith("exp_avg"))
    assert not torch.allclose(moved[0][router], moved[1][router])


def test_selection_bias_moves_toward_the_experts_that_are_chosen_less(pretrain, tmp_path):
    (row,) = pretrain("training.steps=1", *BIAS).rows
    saved = weights(tmp_path / "run", 1)
    biases = [saved[name] for name in sorted(saved) if name.endswith("expert_bias")]
    load = torch.tensor(row["tokens_per_expert"], dtype=torch.float32)
    torch.testing.assert_close(torch.stack(biases), 0.01 * torch.sign(load.mean(dim=1, keepdim=True) - load))


def test_rates_follow_the_schedule_and_are_recorded(pretrain):
    recorder = pretrain("training.steps=40", "training.learning_rate=0.01", "training.checkpoint_every=0")
    rates = [row["lr"] for row in recorder.rows]
    assert rates[:2] == pytest.approx([0.005, 0.01])  # warm-up over 4%, two steps
    assert rates[-3] > 0.003
    assert rates[-2:] == pytest.approx([0.002, 0.001])  # annealing over 5%, to a tenth of the peak
