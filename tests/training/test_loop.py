"""The one loop: what it records, and where it stops. What a step does to the weights: test_step.py."""

import dataclasses
import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_same_run, checkpoint, rows_of, weights

from model.counts import activated_params, total_params, training_flops_per_token
from model.device import pick_device
from model.errors import ConfigError, TrainingError
from model.training import held
from model.training.metrics import PATIENCE
from model.training.pretraining import Pretraining

DENSE = ("model.num_experts=1", "model.num_shared_expert=0")
RECYCLE = ("model.moe_routing=recycle",)
DROP = ("model.moe_routing=drop", "model.moe_topk=2")
BIAS = ("model.expert_bias_update_rate=0.01",)
CONTRACT = (
    "step tokens flops loss lr grad_norm tokens_per_second aux_loss dropped_fraction recycled_fraction load_imbalance"
).split()


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_every_line_has_the_keys_of_the_contract(pretrain, settings, tmp_path):
    recorder = pretrain("training.evaluate_every=5", "training.log_every=3", *RECYCLE)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == recorder.rows
    assert [row["step"] for row in lines] == [3, 5, 6, 9, 10, 12]
    assert [row["step"] for row in lines if "val_loss" in row] == [5, 10, 12]
    per_token = training_flops_per_token(settings().model, 32)
    for row in lines:
        assert set(CONTRACT) <= set(row)
        assert all(math.isfinite(row[key]) for key in CONTRACT)
        assert row["tokens"] == 256 * row["step"]
        assert row["flops"] == row["tokens"] * per_token
    assert [row["seconds"] for row in lines] == sorted(row["seconds"] for row in lines)


@pytest.mark.parametrize(
    ("changes", "drops", "recycles"),
    [
        (DENSE, False, False),
        (("model.moe_routing=dropless",), False, False),
        (DROP, True, False),
        (RECYCLE, False, True),
        ((*RECYCLE, "model.capacity_factor=0.9"), True, True),  # no room for some tokens
    ],
)
def test_dropped_and_recycled_are_those_of_the_policy(pretrain, changes, drops, recycles):
    rows = pretrain("training.steps=3", *changes).rows
    assert {row["dropped_fraction"] > 0 for row in rows} == {drops}
    assert {row["recycled_fraction"] > 0 for row in rows} == {recycles}
    if "model.capacity_factor=0.9" in changes:  # 29 places in each of 4 experts for 128 tokens
        assert all(row["dropped_fraction"] == 12 / 128 for row in rows)
    if changes == DENSE:
        assert all(row["tokens_per_expert"] == [] and row["aux_loss"] == 0 for row in rows)
    else:
        assert all(row["load_imbalance"] > 1 and row["balance_loss"] > 0.9 and row["aux_loss"] > 0 for row in rows)


def test_the_plan_and_the_summary_say_what_was_trained(pretrain, settings, tmp_path):
    recorder = pretrain("training.steps=4")
    plan, summary, model = recorder.plan, recorder.summary, settings().model
    assert (plan.steps, plan.start_step, plan.tokens, plan.global_batch_tokens) == (4, 0, 1024, 256)
    assert (plan.total_params, plan.activated_params) == (total_params(model), activated_params(model))
    assert [group["name"] for group in plan.groups] == ["shared_and_rest", "router", "routed_experts", "no_decay"]
    assert "small.txt" in plan.data
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["status"], summary["steps"], summary["tokens"]) == ("finished", 4, 1024)
    assert summary["flops"] == 1024 * training_flops_per_token(model, 32)
    assert {key: summary[key] for key in ("loss", "val_loss", "aux_loss")}.items() <= recorder.rows[-1].items()


def test_the_lines_before_a_checkpoint_are_on_the_disk_before_it(pretrain, tmp_path, monkeypatch):
    """A machine that goes down after a checkpoint would lose lines that a resumed run never computes again."""
    on_disk, log, save = [0], tmp_path / "run" / "metrics.jsonl", held.save_checkpoint

    def fsync(descriptor):
        if log.exists() and os.path.samestat(os.fstat(descriptor), log.stat()):
            on_disk.append(len(log.read_text().splitlines()))

    def saved(folder, step, *rest, **named):
        assert on_disk[-1] == step
        return save(folder, step, *rest, **named)

    monkeypatch.setattr("model.training.run_folder.os.fsync", fsync)
    monkeypatch.setattr(held, "save_checkpoint", saved)
    pretrain()
    assert on_disk == [0, 3, 6, 9, 12]


def test_time_between_the_lines_counts_too(pretrain, monkeypatch):
    """Checkpoints between two lines must not lose the time of the steps before them."""
    clock = iter(range(10_000))
    monkeypatch.setattr("model.training.loop.time.perf_counter", lambda: float(next(clock)))
    often = pretrain("training.steps=8", "training.log_every=8", "training.checkpoint_every=1").summary["seconds"]
    assert often >= 8  # a reading of this clock takes a second, and every step is within two readings


def test_validation_is_the_mean_over_tokens_however_they_are_batched(pretrain):
    class Kept(Pretraining):
        def evaluate(self, net):
            type(self).seen = self, net
            return super().evaluate(net)

    recorder = pretrain("training.steps=9", "training.evaluation_tokens=9999", task=Kept)
    task, net = Kept.seen
    for size in (1, 3, 5):  # whatever the number of sequences, one of these leaves a smaller last batch
        task.training = dataclasses.replace(task.training, micro_batch_size=size, global_batch_tokens=32 * size)
        assert task.evaluate(net)["val_loss"] == pytest.approx(recorder.summary["val_loss"], rel=1e-6)


def test_evaluation_changes_nothing_of_the_training(pretrain, tmp_path):
    pretrain(*RECYCLE, folder=tmp_path / "once")
    pretrain(*RECYCLE, "training.evaluate_every=1", folder=tmp_path / "always")
    assert (checkpoint(tmp_path / "once", 12) / "model.safetensors").read_bytes() == (
        checkpoint(tmp_path / "always", 12) / "model.safetensors"
    ).read_bytes()


def test_every_sequence_of_the_order_is_read_once_and_in_turn(pretrain):
    batches = []

    class Reading(Pretraining):
        def forward(self, net, batch, routing_key):
            batches.append((batch, self.sampler))
            return super().forward(net, batch, routing_key)

    pretrain("training.steps=5", task=Reading)
    read = torch.cat([batch for batch, _ in batches])
    assert read.equal(torch.from_numpy(batches[0][1].batch(0, 5 * 8)))


class Watched(Pretraining):
    """Keeps what the first forward pass was given."""

    first = ()

    def forward(self, net, batch, routing_key):
        type(self).first = type(self).first or (net.embed_tokens.weight.detach().clone(), batch, routing_key)
        return super().forward(net, batch, routing_key)


def test_the_seed_decides_weights_order_and_routing(pretrain, tmp_path):
    given = []
    for name, seed in enumerate((1, 1, 2)):
        Watched.first = ()
        pretrain("training.steps=1", f"training.seed={seed}", folder=tmp_path / str(name), task=Watched)
        given.append(Watched.first)
    one, same, other = given
    assert all(a.equal(b) for a, b in zip(one, same, strict=True))
    assert not any(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("changes", [(), DENSE, RECYCLE], ids=["dropless", "dense", "recycle"])
def test_it_learns(pretrain, changes):
    rows = pretrain("training.steps=60", "training.checkpoint_every=0", "training.learning_rate=0.01", *changes).rows
    assert rows[0]["loss"] == pytest.approx(math.log(300), abs=0.15)  # knows nothing yet
    assert rows[-1]["loss"] < 2.9  # about 16 words, each equally likely: ln 16 = 2.77
    assert rows[-1]["val_loss"] < 2.9
    assert rows[-1]["val_bits_per_byte"] < 1.25


# --- what goes wrong -------------------------------------------------------------------------------------------------


class Poisoned(Pretraining):
    """Gives a loss or a gradient that is not finite in the step `AT` (from 0), in the second of its micro-batches."""

    AT, WHAT = 7, "loss"
    seen = None

    def micro_batches(self, step):
        for micro, batch in enumerate(super().micro_batches(step)):
            yield batch._replace(data=(batch.data, step == self.AT and micro == 1))

    def forward(self, net, data, routing_key):
        batch, poison = data
        type(self).seen = net
        output = super().forward(net, batch, routing_key)
        if not poison:
            return output
        weight = net.embed_tokens.weight.sum()
        bad = {"loss": math.nan, "infinite loss": weight.abs() * math.inf, "gradient": (weight * 0).sqrt()}
        return output._replace(loss=output.loss + bad[self.WHAT])


@pytest.mark.parametrize("what", ["loss", "infinite loss", "gradient"])
def test_a_step_that_is_not_finite_stops_before_the_update(pretrain, tmp_path, what, monkeypatch):
    monkeypatch.setattr(Poisoned, "WHAT", what)
    folder = tmp_path / "run"
    options = (*RECYCLE, *BIAS, "training.checkpoint_every=1")
    with pytest.raises(TrainingError) as caught:
        pretrain(*options, task=Poisoned)
    assert "at step 8: stopped before the update; the last good checkpoint is that of step 7" in str(caught.value)
    assert "lower training.learning_rate" in str(caught.value)
    torch.testing.assert_close(dict(Poisoned.seen.state_dict()), weights(folder, 7), rtol=0, atol=0)
    assert [row["step"] for row in rows_of(folder)] == list(range(1, 8))
    pretrain(*options, folder=tmp_path / "healthy")
    pretrain(*options, resume=True)  # without the poison the run goes on as if nothing had been
    assert_same_run(folder, tmp_path / "healthy", 12)


def test_a_rate_far_too_high_is_stopped(pretrain, tmp_path):
    with pytest.raises(TrainingError, match=r"stopped before the update; the last good checkpoint is that of step \d"):
        pretrain("training.learning_rate=1e20", "training.checkpoint_every=1", *DENSE)
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert all(tensor.isfinite().all() for tensor in load_file(saved[0] / "model.safetensors").values())


class Collapsed(Pretraining):
    """A router without weights: every token takes the same expert."""

    def forward(self, net, batch, routing_key):
        for layer in net.layers:
            layer.mlp.router.weight.data.zero_()
        return super().forward(net, batch, routing_key)


LONG = f"training.steps={2 * PATIENCE + 2}"


@pytest.mark.parametrize("stop_after", [None, 3, PATIENCE + 3])
def test_a_collapse_of_routing_is_noted_once_even_across_a_resume(pretrain, stop_after):
    notes = pretrain(LONG, task=Collapsed, stop_after=stop_after).notes
    if stop_after:
        notes += pretrain(LONG, task=Collapsed, resume=True).notes
    (note,) = notes
    assert note.startswith(f"step {PATIENCE}: routing is collapsing: 3 of 4 experts of layer 0")


def test_healthy_routing_is_not_noted(pretrain):
    assert pretrain(LONG).notes == []


# --- precision, recomputation, device --------------------------------------------------------------------------------


def test_recomputation_gives_the_same_run(pretrain, tmp_path):
    pretrain(*RECYCLE, folder=tmp_path / "kept")
    pretrain(*RECYCLE, "training.recompute=true", folder=tmp_path / "recomputed")
    torch.testing.assert_close(
        weights(tmp_path / "recomputed", 12), weights(tmp_path / "kept", 12), rtol=1e-5, atol=1e-7
    )


def test_bfloat16_products_leave_weights_and_moments_in_float32(pretrain, tmp_path, monkeypatch):
    monkeypatch.setattr("model.kernels.onednn.WORK", 0)  # so that products of these sizes are rounded
    recorder = pretrain("training.precision=bfloat16", "training.steps=2")
    assert recorder.plan.device == "cpu bfloat16"
    moments = load_file(checkpoint(tmp_path / "run", 2) / "optimizer.safetensors")
    assert {tensor.dtype for tensor in (*weights(tmp_path / "run", 2).values(), *moments.values())} == {torch.float32}
    exact = pretrain("training.steps=2", folder=tmp_path / "exact").rows[-1]["loss"]
    assert recorder.rows[-1]["loss"] == pytest.approx(exact, abs=0.02)
    assert recorder.rows[-1]["loss"] != exact


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_validation_is_computed_in_the_precision_of_the_training(pretrain, precision):
    seen = []

    class Evaluated(Pretraining):
        def evaluate(self, net):
            seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), net.training))
            return super().evaluate(net)

    pretrain("training.steps=1", f"training.precision={precision}", task=Evaluated)
    assert seen == [(precision == "bfloat16", torch.bfloat16, False)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", "device 'gpu' is not known"),
        ("meta", "device 'meta' is not supported"),
        ("cuda:99", "device 'cuda:99' is not there"),
    ],
)
def test_a_device_that_is_not_there(name, says):
    with pytest.raises(ConfigError, match=says):
        pick_device(name)
