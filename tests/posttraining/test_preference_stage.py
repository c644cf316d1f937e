"""The stage of preferences: its first loss, its batches, what it measures, and a run that goes on as if never stopped."""

import json
import math

import pytest
import torch
from preference_runs import add_reward, assert_same_run, checkpoint, ending, learn, rows_of, settings_of
from safetensors.torch import load_file
from torch.nn import functional as F

from model import Hunyuan
from model.errors import ConfigError, TrainingError
from model.generation.engine import Engine
from model.posttraining import preferences
from model.posttraining.draws import places, shared
from tests.posttraining.conftest import write_lines


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    add_reward(monkeypatch)


@pytest.fixture(scope="session")
def base(base, tmp_path_factory):
    """The same model, for which every third token ends an answer: else few random answers would come to an end."""
    return ending(base, tmp_path_factory.mktemp("ending") / "run")


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    rows = [{"prompt": f"{number} expert?", "answer": "yes"} for number in range(24)]
    return write_lines(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


@pytest.fixture
def make(base, pairs, prompts):
    return lambda dpo=None, **more: settings_of(base, pairs, prompts, dpo, **more)


OFFLINE = {"online_share": 0.0}


@pytest.mark.parametrize("reference", ["memory", "cached"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_policy_that_is_its_reference_has_a_loss_of_log_2(make, tmp_path, reference, precision):
    dpo = OFFLINE | {"reference": reference, "sft_coefficient": 0.0}
    row = learn(tmp_path / "run", make(dpo, training={"steps": 2, "precision": precision})).rows[0]
    assert row["loss"] == row["preference_loss"] == torch.tensor(2.0).log().item()
    assert row["margin"] == row["chosen_logp_change"] == row["accuracy"] == 0
    assert (tmp_path / "run" / "reference.safetensors").exists() == (reference == "cached")


def test_a_mixed_first_step_has_it_too(make, tmp_path):
    row = learn(tmp_path / "run", make({"sft_coefficient": 0.0}, training={"steps": 1})).rows[0]
    assert row["loss"] == torch.tensor(2.0).log().item() and 0 < row["online_share"] <= 0.5


def test_cached_and_kept_references_give_the_same_run(make, tmp_path):
    for name in ("memory", "cached"):
        learn(tmp_path / name, make(OFFLINE | {"reference": name}))
    assert rows_of(tmp_path / "memory") == rows_of(tmp_path / "cached")


def test_the_first_step_is_that_of_the_written_out_loss(make, base, tmp_path):
    """Loss and weights after a step of plain gradient descent's direction: AdamW's first step is the sign of the gradient."""
    settings = make(OFFLINE | {"sft_coefficient": 0.3, "average": 0.0}, training={"steps": 1, "max_grad_norm": 1e9})
    seen = []
    original = preferences.Preferences._batches

    def kept(self, drawn):
        seen.append([each.pair for each in drawn])
        return original(self, drawn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences.Preferences, "_batches", kept)
        row = learn(tmp_path / "run", settings).rows[0]
    net = Hunyuan.from_checkpoint(base, dtype=torch.float32)

    def logp(prompt, answer):
        ids = torch.tensor([prompt + answer])
        logps = net(ids[:, :-1]).logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None])[0, :, 0]
        return logps[len(prompt) - 1 :].sum()

    chosen = [logp(pair.prompt_ids, pair.chosen_ids) for pair in seen[0]]
    rejected = [logp(pair.prompt_ids, pair.rejected_ids) for pair in seen[0]]
    tokens = sum(len(pair.chosen_ids) for pair in seen[0])
    preference = sum(
        -F.logsigmoid(0.1 * ((c - c.detach()) - (r - r.detach()))) for c, r in zip(chosen, rejected, strict=True)
    )
    loss = preference / 4 + 0.3 * -sum(chosen) / tokens
    assert row["loss"] == pytest.approx(float(loss), abs=1e-5)
    assert row["sft_loss"] == pytest.approx(float(-sum(chosen) / tokens), abs=1e-5)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for name, p in net.named_parameters() if ".router." not in name])
    assert row["grad_norm"] == pytest.approx(float(norm), rel=0.05)  # the routers' have the balance loss as well


def test_micro_batches_add_up_to_the_batch(make, tmp_path):
    unbalanced = {"router_aux_loss_coef": 0.0}  # the balance of a part is not a part of the balance
    rows = [
        learn(tmp_path / str(size), make(training={"micro_batch_size": size, "steps": 1}, model=unbalanced)).rows[0]
        for size in (2, 4, 8)
    ]
    for row in rows[1:]:
        for key in ("loss", "grad_norm", "sft_loss", "chosen_length"):
            assert row[key] == pytest.approx(rows[0][key], rel=1e-4), key


def test_routing_is_dropless_unless_the_models_own_is_asked_for(make, tmp_path):
    recycling = {"moe_routing": "recycle", "capacity_factor": 0.5}
    assert learn(tmp_path / "a", make(model=recycling, training={"steps": 1})).rows[0]["dropped_fraction"] == 0
    asked = make({"moe_routing": "model"}, model=recycling, training={"steps": 1})
    assert learn(tmp_path / "b", asked).rows[0]["dropped_fraction"] > 0


def test_padding_is_in_no_count_of_tokens(make, tmp_path):
    row = learn(tmp_path / "run", make(training={"steps": 1})).rows[0]
    layers = [sum(layer) for layer in row["tokens_per_expert"]]
    assert set(layers) == {2 * row["tokens"]}  # top-2: every real token twice in each layer


def test_every_offline_pair_is_drawn_once_an_epoch_and_online_ones_are_the_policys(make, tmp_path):
    assert sorted(places(10, 0, 10, 3, 0)) == sorted(places(10, 10, 10, 3, 0)) == list(range(10))
    assert (
        places(10, 0, 10, 3, 0) != places(10, 10, 10, 3, 0) and places(4, 3, 10, 3, 0) == places(10, 0, 10, 3, 0)[3:7]
    )
    assert [shared(8, share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [0, 1, 4, 7, 8]
    rows = learn(tmp_path / "run", make()).rows
    for row in rows:
        assert row["online_share"] <= 0.5 and 0 <= row["unusable_share"] <= 1 and row["online_length"] <= 6
    assert any(row["online_share"] == 0.5 for row in rows)


def test_pairs_that_a_round_lacks_are_offline_ones_or_end_the_run(make, monkeypatch, tmp_path):
    add_reward(monkeypatch, score=lambda row, text: 1.0)
    assert {row["online_share"] for row in learn(tmp_path / "mixed", make()).rows} == {0.0}
    with pytest.raises(TrainingError, match="step 1 has no pair: all answers"):
        learn(tmp_path / "online", make({"online_share": 1.0}))


def test_rewards_that_no_answer_has_are_left_out(make, monkeypatch, tmp_path):
    """JSON has no NaN: a strict reader takes every line."""
    add_reward(monkeypatch, score=lambda row, text: math.nan)
    learn(tmp_path / "run", make())

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert len(rows) == 6 and all("online_length" in row and "online_reward" not in row for row in rows)
    assert "kl" in rows[-1] and "proxy_reward" not in rows[-1]
    json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize(("share", "steps"), [(0.0, 10), (0.5, 19), (1.0, 6)])
def test_without_a_length_the_offline_pairs_are_read_once_or_else_the_prompts(make, tmp_path, share, steps):
    """38 pairs and 21 prompts to learn from, four pairs a step: of mixed ones two are offline."""
    settings = make({"online_share": share}, training={"steps": 0, "evaluate_every": 0})
    recorder = learn(tmp_path / "run", settings, stop_after=1)
    assert recorder.plan.steps == steps


def test_a_round_of_fewer_pairs_than_steps_gives_them_again(make, monkeypatch, tmp_path):
    """Online alone there is nothing else to learn from: one pair for the two steps of a round does not end the run."""
    original = preferences.play

    def play(*given, **named):
        played = original(*given, **named)
        played.pairs = played.pairs[:1]
        return played

    monkeypatch.setattr(preferences, "play", play)
    rows = learn(tmp_path / "run", make({"online_share": 1.0}, training={"steps": 4})).rows
    assert [row["online_share"] for row in rows] == [1.0] * 4


def test_a_line_has_the_figures_of_its_own_round(make, monkeypatch, tmp_path):
    """On a GPU a step is looked at late: not so late that the next round is there."""
    settings = make({"online_every": 1}, training={"evaluate_every": 0, "checkpoint_every": 0})
    at_once = learn(tmp_path / "at-once", settings).rows
    monkeypatch.setattr("model.training.step.Launched.is_under_way", True)
    later = learn(tmp_path / "later", settings).rows
    names = "step", "loss", "online_reward", "unusable_share", "online_length"
    assert [[row[name] for name in names] for row in later] == [[row[name] for name in names] for row in at_once]
    assert len({row["online_reward"] for row in later}) > 2


def test_kl_is_the_mean_log_ratio_of_own_answers(make, base, tmp_path):
    task, samples = None, []
    original = preferences.Preferences.evaluate

    def evaluate(self, net):
        nonlocal task
        task = self
        seed = preferences.round_seed(self.training.seed, 0, 3)
        samples[:] = [group[0] for group in self.measure.asking.answers(net, self.measure.prompts, 1, seed)]
        return original(self, net)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences.Preferences, "evaluate", evaluate)
        row = learn(tmp_path / "run", make(training={"steps": 3})).rows[-1]
    nets = [Hunyuan.from_checkpoint(folder, dtype=torch.float32) for folder in (tmp_path / "run", base)]

    def logp(net, prompt, answer):
        ids = torch.tensor([prompt.ids + answer.ids])
        logps = net(ids[:, :-1]).logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None])[0, :, 0]
        return float(logps[len(prompt.ids) - 1 :].sum())

    ratios = [logp(nets[0], p, a) - logp(nets[1], p, a) for p, a in zip(task.measure.prompts, samples, strict=True)]
    assert row["kl"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-3) and row["kl"] != 0
    assert row["answer_length"] == sum(len(answer.ids) for answer in samples) / 3


def test_the_average_is_a_model_of_its_own(make, base, tmp_path):
    learn(tmp_path / "run", make({"average": 0.5}, training={"checkpoint_every": 1, "keep_checkpoints": 9, "steps": 3}))
    each = [load_file(checkpoint(tmp_path / "run", step) / "model.safetensors") for step in (1, 2, 3)]
    averaged = Engine.from_folder(tmp_path / "run" / "average").net.state_dict()
    for name, value in averaged.items():
        expected = 0.25 * each[0][name] + 0.25 * each[1][name] + 0.5 * each[2][name]
        assert torch.allclose(value, expected, atol=1e-6), name
    assert not torch.equal(averaged["norm.weight"], each[2]["norm.weight"])


def test_a_run_that_stops_within_a_round_goes_on_to_the_bit(make, tmp_path):
    settings = make()
    learn(tmp_path / "whole", settings)
    learn(tmp_path / "parts", settings, stop_after=3)
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["status"] == "interrupted"
    learn(tmp_path / "parts", settings, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 6)


def test_what_the_reference_costs_is_told(make, tmp_path):
    notes = learn(tmp_path / "run", make(training={"steps": 1})).notes
    assert any("the reference stays in memory" in note and "4 bytes a parameter" in note for note in notes)
    notes = learn(tmp_path / "offline", make(OFFLINE, training={"steps": 1})).notes
    assert any("pairs are computed once and kept" in note for note in notes)


def test_the_summary_and_the_lines_have_the_figures(make, tmp_path):
    rows = learn(tmp_path / "run", make()).rows
    always = {
        "chosen_reward",
        "rejected_reward",
        "margin",
        "accuracy",
        "chosen_logp_change",
        "online_share",
        "unusable_share",
    }
    assert all(always <= set(row) and math.isfinite(row["margin"]) for row in rows)
    evaluated = {
        "kl",
        "proxy_reward",
        "true_reward",
        "answer_length",
        "val_loss",
        "average_kl",
        "reference_true_reward",
    }
    assert [row["step"] for row in rows if evaluated <= set(row)] == [3, 6]


@pytest.mark.parametrize(
    ("dpo", "words"),
    [
        ({"online_share": 1.5}, "online_share is 1.5"),
        ({"online_share": 0.5, "reward": ""}, "online pairs need prompts and a reward"),
        ({"offline": []}, "there are no offline pairs"),
        ({"reference": "cached"}, "cached is for offline pairs alone"),
        ({"kind": "ppo"}, "dpo.kind is 'ppo': choose one of sigmoid"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "label_smoothing is for the kinds sigmoid and robust"),
        ({"label_smoothing": 0.5}, "half of the labels"),
        ({"samples": 1}, "at least 2 answers make a pair"),
        ({"beta": 0.0}, "dpo.beta is 0.0: it must be above 0"),
        ({"average": 1.0}, "dpo.average is 1.0"),
        ({"betta": 0.1}, "did you mean 'beta'"),
    ],
)
def test_settings_that_cannot_be_used_are_told(make, dpo, words):
    with pytest.raises(ConfigError, match=words):
        make(dpo)
