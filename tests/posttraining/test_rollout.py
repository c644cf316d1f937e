"""Answers of a policy and the pairs of them."""

import pytest
import torch
from preference_runs import lettered

from model import Hunyuan
from model.data.instructions.preferences import Question
from model.posttraining import rollout
from model.posttraining.rewards import Answer
from model.posttraining.rollout import Asking, Prompt, mean, play
from model.tokenizer.folder import load_folder_tokenizer


@pytest.fixture(scope="module")
def speaking(base):
    net = Hunyuan.from_checkpoint(base, dtype=torch.float32)
    return net, Asking(load_folder_tokenizer(base), frozenset(range(0, 300, 3)), 40, max_new_tokens=8)


PROMPTS = [Prompt(Question("", [], row={"answer": ""}), ids) for ids in ([5, 6, 7], [8, 9], [10, 11, 12, 13])]


def test_answers_follow_from_the_seed_and_the_place_alone(speaking):
    net, asking = speaking
    first = asking.answers(net, PROMPTS, 3, seed=7)
    assert asking.answers(net, PROMPTS, 3, seed=7) == first != asking.answers(net, PROMPTS, 3, seed=8)
    assert [answer.ids for answer in asking.answers(net, PROMPTS[:1], 2, seed=7)[0]] == [a.ids for a in first[0][:2]]
    for group in first:
        for answer in group:
            assert 1 <= len(answer.ids) <= 8 and answer.ended == (answer.ids[-1] % 3 == 0)
            assert not any(token % 3 == 0 for token in answer.ids[:-1])


def test_there_is_room_for_no_more_than_the_length():
    asking = Asking(None, (), 10, max_new_tokens=6)  # type: ignore[arg-type]
    assert [asking.room([1] * count) for count in (2, 4, 7)] == [6, 6, 3]


class Reward:
    name = "test"

    def __init__(self, score):
        self.score = score

    def __call__(self, questions, answers):
        return [self.score(question.row, answer.text) for question, answer in zip(questions, answers, strict=True)]


def test_a_round_pairs_the_best_with_the_worst(speaking):
    net, asking = speaking
    answers = asking.answers(net, PROMPTS, 6, seed=3)
    played = play(asking, net, PROMPTS, 6, 3, Reward(lettered), Reward(lambda row, text: 2.0))
    for pair in played.pairs:
        group = next(g for p, g in zip(PROMPTS, answers, strict=True) if p.ids == pair.prompt_ids)
        ended = [answer for answer in group if answer.ended]
        chosen = next(answer for answer in group if answer.ids == pair.chosen_ids)
        rejected = next(answer for answer in group if answer.ids == pair.rejected_ids)
        assert chosen.ended and lettered({}, chosen.text) == max(lettered({}, answer.text) for answer in ended)
        worst = min(lettered({}, answer.text) for answer in ended)
        assert not rejected.ended or (len(ended) == 6 and lettered({}, rejected.text) == worst)
    flat = [answer for group in answers for answer in group]
    assert played.pairs and played.unusable == 1 - len(played.pairs) / 3 and played.true_reward == 2.0
    assert played.reward == mean([lettered({}, answer.text) for answer in flat])
    assert played.length == mean([len(answer.ids) for answer in flat])
    assert played.cut == mean([not answer.ended for answer in flat])


@pytest.mark.parametrize(
    ("answers", "rewards", "pair"),
    [
        ([("good", True), ("bad", True)], [1.0, 0.0], ("good", "bad")),
        ([("good", False), ("bad", True)], [1.0, 0.0], ("bad", "good")),  # cut: never chosen, however good
        ([("good", False), ("bad", False)], [1.0, 0.0], None),
        ([("good", True), ("bad", True)], [1.0, 1.0], None),
        ([("good", True), ("bad", True)], [float("nan"), 1.0], None),
        ([("none", False), ("good", True)], [float("nan"), 1.0], ("good", "none")),  # cut, and no reward for it
        ([("good", True), ("none", False)], [1.0, float("nan")], ("good", "none")),
        ([("none", False), ("none", True)], [float("nan"), float("nan")], None),
    ],
)
def test_cut_answers_are_rejected_and_never_chosen(monkeypatch, answers, rewards, pair):
    said = [Answer([ord(letter) for letter in text], text, ended) for text, ended in answers]
    monkeypatch.setattr(rollout.Asking, "answers", lambda *_: [said])
    asking = Asking(None, (), 40)  # type: ignore[arg-type]
    played = play(asking, None, PROMPTS[:1], 2, 0, lambda questions, given: rewards)  # type: ignore[arg-type]
    texts = [("".join(map(chr, each.chosen_ids)), "".join(map(chr, each.rejected_ids))) for each in played.pairs]
    assert texts == ([] if pair is None else [pair])
