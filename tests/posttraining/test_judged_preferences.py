"""A run of `hunyuan reward` as the judge of a policy's answers: its scores, what it cannot score, a run that goes on."""

import math

import pytest
import torch
from preference_runs import add_reward, assert_same_run, ending, learn, settings_of

from hunyuan_cli.options.posttraining import stage_settings
from model.data.instructions.preferences import Question
from model.posttraining.reward import RewardModel
from model.posttraining.reward_config import training_defaults
from model.posttraining.reward_training import train_reward
from model.posttraining.rewards import Answer, find_reward
from model.posttraining.scoring import load_reward
from model.tokenizer.chat_template import ChatTemplate
from model.training.events import Silent
from model.transformer import Hunyuan
from tests.posttraining.conftest import TINY, write_lines

CPU = torch.device("cpu")
ASKED = [Question(f"p.jsonl, line {n}", [{"role": "user", "content": f"{n} router?"}]) for n in range(1, 5)]


@pytest.fixture(scope="module")
def speaking(base, tmp_path_factory):
    """A model many of whose random answers come to an end."""
    return ending(base, tmp_path_factory.mktemp("ending") / "run")


@pytest.fixture(scope="module")
def judge(speaking, pairs, tmp_path_factory):
    """A short run of the reward model."""
    folder = tmp_path_factory.mktemp("judge") / "run"
    sizes = {"micro_batch_size": 4, "global_batch_tokens": 384, "learning_rate": 5e-3, "steps": 3}
    changes = {"data": {"sources": [str(pairs)], "validation_fraction": 0.2}, "training": TINY | sizes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
        train_reward(folder, stage_settings("reward", folder, speaking, None, changes, training_defaults), Silent())
    return folder


@pytest.fixture
def prompts(tmp_path):
    return write_lines(tmp_path / "prompts.jsonl", [{"prompt": f"{number} expert?"} for number in range(24)])


def said(*texts):
    return [Answer([1], text, True) for text in texts]


def by_hand(judge, question, text):
    """The same head on the same model, a row alone and without padding, in float32."""
    scorer = load_reward(judge)
    prompt, answer = scorer.renderer.answer(question, text)
    model = RewardModel(Hunyuan(scorer.model.net.config))
    model.load_state_dict(scorer.model.state_dict())
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        return float(model.eval()(ids, torch.tensor([ids.shape[1]])))


def test_scores_are_those_of_the_model_by_hand(judge, monkeypatch):
    monkeypatch.setattr("model.posttraining.scoring.compute_dtype", lambda *_: torch.float32)
    texts = ["yes", "no, " * 5, "router", "yes"]
    reward = find_reward(str(judge), CPU)
    reward.check(ASKED)
    found = reward(ASKED, said(*texts))
    expected = [by_hand(judge, question, text) for question, text in zip(ASKED, texts, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5) and len(set(found)) > 2


def test_an_answer_that_the_context_or_the_template_cannot_hold_has_no_reward(judge):
    """A policy's text may be more tokens to the judge: one such answer ends no run."""
    reward = find_reward(str(judge), CPU)
    scores = reward(ASKED[:3], said("yes", "yes " * 60, "no"))
    assert [math.isnan(score) for score in scores] == [False, True, False]
    source = (
        "{% for m in messages %}{% if not m.content %}{{ raise_exception('say something') }}{% endif %}{{ m.content }}"
    )
    source += "{{ '<|endoftext|>' }}{% endfor %}"
    reward._scorer.renderer.template = ChatTemplate(source, {"eos_token": "<|endoftext|>"}, name="refusing")
    scores = reward(ASKED[:2], said("", "yes"))
    assert [math.isnan(score) for score in scores] == [True, False]


def test_a_stage_that_is_judged_by_a_run_goes_on_to_the_bit(speaking, pairs, prompts, judge, tmp_path):
    dpo = {"reward": str(judge), "true_reward": str(judge)}
    settings = settings_of(speaking, pairs, prompts, dpo)
    rows = learn(tmp_path / "whole", settings).rows
    assert any(row["online_share"] == 0.5 for row in rows)
    assert all(row["online_reward"] == row["online_true_reward"] for row in rows)
    learn(tmp_path / "parts", settings, stop_after=3)
    learn(tmp_path / "parts", settings, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 6)


def test_the_folder_of_a_reward_is_found_from_any_other(speaking, pairs, prompts, judge, monkeypatch, tmp_path):
    monkeypatch.chdir(judge.parent)
    assert settings_of(speaking, pairs, prompts, {"reward": judge.name}).dpo.reward == str(judge)
    (tmp_path / "exact").mkdir()
    monkeypatch.chdir(tmp_path)
    assert settings_of(speaking, pairs, prompts, {"reward": "exact"}).dpo.reward == "exact"  # a check goes before it


def test_memory_for_reference_average_and_judge_is_asked_for(speaking, pairs, prompts, judge, monkeypatch, tmp_path):
    asked = []

    class Enough(Exception):
        pass

    def check(model, config, device, *, beside, of_what):
        asked.append((beside, of_what))
        raise Enough

    monkeypatch.setattr("model.posttraining.stage.check_memory", check)
    cases = [({"reward": str(judge)}, 3), ({"average": 0.0}, 1), ({}, 2), ({"reward": str(judge), "average": 0.0}, 2)]
    add_reward(monkeypatch, key="prompt")
    for number, (dpo, models) in enumerate(cases):
        with pytest.raises(Enough):
            learn(tmp_path / str(number), settings_of(speaking, pairs, prompts, {"true_reward": ""} | dpo))
        weights = sum(parameter.nbytes for parameter in Hunyuan.from_checkpoint(speaking).parameters())
        assert asked[-1][0] == models * weights
    assert [words for _, words in asked] == [
        "the reference, the average and reward models",
        "the reference",
        "the reference and the average",
        "the reference and reward models",
    ]
