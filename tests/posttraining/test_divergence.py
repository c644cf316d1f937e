"""Signs of a policy that is being spoilt: each told once, and not where there is none."""

import json

import pytest

from model.posttraining.divergence import DivergenceWatch

FINE = {
    "kl": 1.0, "answer_length": 10.0, "cut_share": 0.0, "proxy_reward": 0.5, "true_reward": 0.5,
    "reference_answer_length": 10.0, "reference_proxy_reward": 0.4, "reference_true_reward": 0.4,
}  # fmt: skip


def told(*changes, error=0.02, kl_bound=5.0):
    """What is said at each evaluation; the watch is written to JSON and read again in between, as by a resumed run."""
    watch, said = DivergenceWatch(kl_bound), []
    for change in changes:
        said.append(watch.check(FINE | change, error))
        watch = DivergenceWatch(kl_bound, json.loads(json.dumps(watch.state())))
    return said


def test_a_healthy_run_is_told_nothing():
    rising = [{"proxy_reward": r, "true_reward": r} for r in (0.5, 0.6, 0.59, 0.7)]
    assert told(*rising) == [[], [], [], []]


def test_kl_beyond_its_bound_is_told_once_until_it_was_back():
    said = told({"kl": 4.9}, {"kl": 5.1}, {"kl": 6.0}, {"kl": 4.0}, {"kl": 7.0})
    assert [len(sentences) for sentences in said] == [0, 1, 0, 0, 1]
    assert "KL to the reference is 5.1 nats an answer, beyond dpo.kl_bound 5; raise --beta" in said[1][0]


def test_answers_that_grow_are_told_and_long_ones_that_do_not_are_not():
    said = told({"answer_length": 12.0}, {"answer_length": 14.0}, {"answer_length": 16.0, "cut_share": 0.25})
    assert [len(sentences) for sentences in said] == [0, 0, 1]
    assert "10 tokens at the start, 16 now, 25% of them cut" in said[2][0]
    assert told({"answer_length": 20.0}, {"answer_length": 17.0}, {"answer_length": 16.0}) == [[], [], []]


@pytest.mark.parametrize(("error", "count"), [(0.02, 1), (0.2, 0)])
def test_a_reward_that_rises_while_the_true_one_falls_is_told_where_chance_does_not_explain_it(error, count):
    said = told({"true_reward": 0.6}, {"proxy_reward": 0.9, "true_reward": 0.3}, error=error)
    assert [len(sentences) for sentences in said] == [0, count]
    if count:
        assert "being hacked: it rose from 0.5 to 0.9 while the true reward fell from 0.6 to 0.3" in said[1][0]


def test_a_true_reward_that_falls_with_the_proxy_is_not_hacking():
    assert told({"true_reward": 0.6}, {"proxy_reward": 0.3, "true_reward": 0.3})[1] == []


def test_without_a_true_reward_hacking_cannot_be_seen():
    figures = {key: value for key, value in FINE.items() if "true" not in key}
    assert DivergenceWatch(5.0).check(figures | {"proxy_reward": 9.0}) == []
