"""A reward model from pairs: its loss against each answer alone, a run that goes on, its folder, and what scores with it."""

import json
import math

import pytest
import torch

from analyses.posttraining.reward import calibration_error, calibration_table, load_held_out, plot_calibration, wilson
from hunyuan_cli.options.posttraining import stage_settings
from model.checkpoint.run import steps_saved
from model.data.instructions.preferences import Question, read_pairs
from model.errors import CheckpointError, ConfigError
from model.generation.engine import Engine
from model.posttraining import reward_training
from model.posttraining.reward_config import RewardConfig, training_defaults
from model.posttraining.reward_training import train_reward
from model.posttraining.scoring import load_reward
from model.training.events import Silent
from model.training.run_folder import settings_of
from model.transformer import Hunyuan
from tests.posttraining.conftest import TINY
from tests.training.tiny import assert_same_run

SIZES = TINY | {"micro_batch_size": 4, "global_batch_tokens": 384, "learning_rate": 5e-3}


@pytest.fixture
def settings(base, pairs, tmp_path):
    def make(out="run", source=base, **sections):
        changes = {
            "data": {"sources": [str(pairs)], "validation_fraction": 0.2} | sections.pop("data", {}),
            "training": SIZES | sections.pop("training", {}),
        } | sections
        return stage_settings("reward", tmp_path / out, source, None, changes, training_defaults)

    return make


@pytest.fixture(scope="module")
def trained(base, pairs, tmp_path_factory):
    """A run that has learnt that yes is better than no."""
    folder = tmp_path_factory.mktemp("reward") / "run"
    changes = {"data": {"sources": [str(pairs)], "validation_fraction": 0.2}, "training": SIZES | {"steps": 20}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
        train_reward(folder, stage_settings("reward", folder, base, None, changes, training_defaults), Silent())
    return folder


@pytest.fixture
def task_of(settings, base, monkeypatch, tmp_path):
    """The task that the settings make, without training it."""

    def make(**changes):
        def prepared(folder, chosen, prepare, *_, **__):
            return {"task": prepare(chosen, base, torch.device("cpu")).task}

        monkeypatch.setattr(reward_training, "run_stage", prepared)
        return train_reward(tmp_path / "run", settings(**changes), Silent())["task"]

    return make


def test_steps_read_every_pair_once_an_epoch(task_of):
    task = task_of()
    batches = [
        batch.data for step in range(16) for batch in task.micro_batches(step)
    ]  # an epoch of 32 pairs, 2 at a time
    prompts = [tuple(row.tolist()) for data in batches for row in data.input_ids[: len(data.margins)]]
    assert len(task.pairs.train) == 32
    assert len(set(prompts[:32])) == 32


def test_the_loss_and_its_gradients_are_those_of_each_answer_alone(task_of, base):
    task = task_of(reward={"center_coefficient": 0.05})
    net = Hunyuan.from_checkpoint(base).train()
    task.extend(net)
    batch = next(iter(task.micro_batches(0)))
    found = task.forward(net, batch.data, torch.tensor(0)).loss
    found.backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    rewards = []
    for ids, length in zip(batch.data.input_ids, batch.data.lengths, strict=True):
        hidden = net.hidden_states(ids[None, :length], dropless=True)[0]
        rewards.append(hidden[0, -1] @ net.reward_head.weight[0])
    pairs = list(zip(rewards[: batch.targets], rewards[batch.targets :], strict=True))
    loss = sum(torch.log1p(torch.exp(r - c)) + 0.05 * (c + r) ** 2 for c, r in pairs) / len(pairs)
    loss.backward()
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-6)
    assert "reward_head.weight" in gradients and len(pairs) == 2
    for name, parameter in net.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=2e-4, atol=1e-6)


def test_what_routing_does_is_reported(trained):
    """Every real token goes to two experts of each layer, and padding to none."""
    before = 0
    for line in (trained / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert {sum(layer) for layer in row["tokens_per_expert"]} == {2 * (row["tokens"] - before)}
        before = row["tokens"]
        assert row["load_imbalance"] > 1 and row["balance_loss"] > 0 and row["dropped_fraction"] == 0


@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_is_uninterrupted(settings, tmp_path, stop):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_reward(whole, settings("whole"), Silent())
    asked = iter(range(stop, -1, -1))
    train_reward(run, settings(), Silent(), should_stop=lambda: next(asked) == 0)
    assert steps_saved(run)[-1] == stop
    train_reward(run, settings_of(run), Silent(), resume=True)
    assert_same_run(run, whole, 6)
    assert (run / "held_out.jsonl").read_bytes() == (whole / "held_out.jsonl").read_bytes()


def test_it_learns_what_was_preferred_and_says_so(trained):
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    held_out = load_held_out(trained)
    assert last["val_accuracy"] == 1.0 and len(held_out) == 8
    assert last["val_margin"] == pytest.approx((held_out["chosen"] - held_out["rejected"]).mean())
    leads = held_out["chosen"] - held_out["rejected"]
    assert last["val_loss"] == pytest.approx(sum(math.log1p(math.exp(-lead)) for lead in leads) / 8)
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["val_accuracy"] == 1.0


def test_the_scorer_gives_the_rewards_of_the_run(trained, pairs, monkeypatch):
    """In its own order, whatever is scored together, and as the last validation had them."""
    # The run is one of float32; a scorer takes bfloat16 on processors that have units for it.
    monkeypatch.setattr("model.posttraining.scoring.compute_dtype", lambda precision, device: torch.float32)
    scorer = load_reward(trained)
    all_pairs = list(read_pairs(str(pairs)))
    questions = [Question(pair.where, pair.prompt) for pair in all_pairs]
    yes = scorer.score(questions, ["yes"] * len(questions), batch_size=7)
    mixed = scorer.score(questions, ["yes", "no, " * 5] * (len(questions) // 2), batch_size=3)
    assert mixed[::2] == pytest.approx(yes[::2], rel=1e-4)
    held_out = load_held_out(trained)["chosen"].tolist()
    assert sorted(held_out) == pytest.approx(
        sorted(min(yes, key=lambda value: abs(value - one)) for one in held_out), rel=1e-4
    )
    alone = scorer.score(questions[:1], ["yes"])
    assert alone == pytest.approx(yes[:1], rel=1e-4) and scorer.score([], []) == []


def test_what_is_no_reward_model_or_asked_too_much_of_is_told(trained, base):
    with pytest.raises(CheckpointError, match="is no reward model: give the folder that hunyuan reward --out named"):
        load_reward(base)
    with pytest.raises(CheckpointError, match="is a reward model, which judges answers and gives none"):
        Engine.from_folder(trained)
    question = Question("", [{"role": "user", "content": "router?"}])
    with pytest.raises(ConfigError, match=r"a question with its answer has \d+ tokens and the context of .* is 64"):
        load_reward(trained).score([question], ["yes " * 60])


def test_settings_that_make_no_pairs_are_refused(settings, tmp_path):
    with pytest.raises(ConfigError, match=r"training.micro_batch_size is 1: a pair is two sequences"):
        train_reward(tmp_path / "run", settings(training={"micro_batch_size": 1}), Silent())
    with pytest.raises(ConfigError, match=r"reward.epochs is 0"):
        RewardConfig(epochs=0.0)
    with pytest.raises(ConfigError, match=r"reward.center_coefficient is -1"):
        RewardConfig(center_coefficient=-1.0)


def test_calibration_is_the_share_of_pairs_that_are_ranked_right():
    import pandas as pd

    generator = torch.Generator().manual_seed(0)
    lead = torch.rand(4000, generator=generator).double() * 4
    right = torch.rand(4000, generator=generator).double() < torch.sigmoid(lead)
    lead = torch.where(right, lead, -lead)
    held_out = pd.DataFrame({"chosen": lead.numpy(), "rejected": 0.0})
    table = calibration_table(held_out)
    assert table["pairs"].sum() == 4000 and table["probability"].is_monotonic_increasing
    assert ((table["low"] < table["probability"]) & (table["probability"] < table["high"])).mean() >= 0.8
    assert calibration_error(held_out) < 0.03
    too_sure = pd.DataFrame({"chosen": 5 * lead.numpy(), "rejected": 0.0})
    assert calibration_error(too_sure) > 0.1
    assert len(plot_calibration(too_sure, "run").axes) == 2
    assert len(calibration_table(held_out.head(3))) == 1


@pytest.mark.parametrize(("share", "count", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (1.0, 10, 0.7225, 1.0)])
def test_wilsons_interval(share, count, low, high):
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)
