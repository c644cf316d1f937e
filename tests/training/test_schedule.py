"""Learning rates: the shape over the steps, and the report's ratio between routed experts and the rest."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model.config import HunyuanConfig
from model.training.config import TrainingConfig
from model.training.schedule import (
    anneal_start,
    batch_learning_rate,
    expert_lr_scale,
    learning_rate_ratio,
    warmup_steps,
)

fractions = st.floats(0.0, 0.45)
ratios = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(sorted)


@st.composite
def schedules(draw):
    final, decay = draw(ratios)
    config = TrainingConfig(
        warmup_fraction=draw(fractions), anneal_fraction=draw(fractions), final_ratio=final, decay_ratio=decay
    )
    return config, draw(st.integers(1, 400))


def curve(config, steps):
    return [learning_rate_ratio(config, step, steps) for step in range(steps)]


@given(schedules())
def test_it_rises_to_the_peak_and_never_rises_again(schedule):
    config, steps = schedule
    ratios = curve(config, steps)
    peak = ratios.index(max(ratios))
    assert max(ratios) == 1.0
    assert min(ratios) >= 0.0
    assert ratios[:peak] == sorted(ratios[:peak])
    assert all(after <= before + 1e-12 for before, after in pairwise(ratios[peak:]))


@given(schedules())
def test_the_last_step_has_the_final_ratio(schedule):
    config, steps = schedule
    assume(anneal_start(config, steps) < steps)
    assert curve(config, steps)[-1] == config.final_ratio


@given(st.floats(0.02, 0.45), st.floats(0.02, 0.45), ratios)
def test_phases_meet_without_a_jump(warmup_fraction, anneal_fraction, ratios):
    final, decay = ratios
    config = TrainingConfig(
        warmup_fraction=warmup_fraction, anneal_fraction=anneal_fraction, final_ratio=final, decay_ratio=decay
    )
    steps = 2000
    steepest = 1 / (0.02 * steps) + 1.571 / (0.1 * steps)  # of a warm-up or annealing, and of a cosine
    assert max(abs(after - before) for before, after in pairwise([0.0, *curve(config, steps)])) < steepest


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1 / 40),  # warm-up: the first 4%
        (39, 1.0),
        (40, 1.0),  # cosine from the peak
        (40 + 455, 0.65),  # half-way of the long decay: the mean of 1 and 0.3
        (950, 0.3 - 0.2 / 50),  # annealing: the last 5%
        (999, 0.1),  # to a tenth of the peak
    ],
)
def test_phases_of_a_thousand_steps(step, expected):
    assert learning_rate_ratio(TrainingConfig(), step, 1000) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 20])
def test_the_shortest_runs_have_a_rate_at_every_step(steps):
    assert all(0 < ratio <= 1 for ratio in curve(TrainingConfig(), steps))


def scale(num_experts=16, moe_topk=1, **training):
    model = HunyuanConfig.from_name("toy", num_experts=num_experts, moe_topk=moe_topk)
    return expert_lr_scale(model, TrainingConfig(**training))


def test_sixteen_experts_learn_at_the_reports_0_31():
    assert scale() == pytest.approx(0.31, abs=0.005)


@pytest.mark.parametrize(
    ("experts", "top_k", "batch_noise_ratio", "expected"),
    [
        (16, 1, 0.26, 0.31),
        (16, 1, 1e-9, 0.25),  # 1 / sqrt(n)
        (16, 4, 1e-9, 0.5),  # n = experts / top-k
        (64, 1, 1e-9, 0.125),
        (16, 1, 1.0, 2 / (4 + 0.25)),  # lr(B) is at its maximum, 1
        (4, 4, 0.5, 1.0),  # every expert sees every token
    ],
)
def test_expert_rate_follows_the_batch_that_an_expert_sees(experts, top_k, batch_noise_ratio, expected):
    found = scale(experts, top_k, batch_noise_ratio=batch_noise_ratio)
    assert found == pytest.approx(expected, abs=0.005 if expected == 0.31 else 1e-4)


def test_a_configured_scale_overrides_the_rule():
    assert scale(expert_lr_scale=0.7) == 0.7


@given(st.floats(1e-6, 1e6))
def test_best_rate_is_highest_where_batch_and_noise_are_equal(ratio):
    assert batch_learning_rate(1.0) == 1.0
    assert batch_learning_rate(ratio) <= 1.0
    assert batch_learning_rate(ratio) == pytest.approx(batch_learning_rate(1 / ratio), rel=1e-9)


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"),
    [(100, 0.07, 7), (100, 0.04, 4), (101, 0.07, 8), (10**9, 0.07, 70_000_000), (10, 0.0, 0)],
)
def test_the_warm_up_is_the_fraction_that_was_written(steps, warmup, expected):
    config = TrainingConfig(warmup_fraction=warmup)
    assert warmup_steps(config, steps) == expected
    if expected:
        rising = [learning_rate_ratio(config, step, steps) for step in (expected - 2, expected - 1)]
        assert rising == pytest.approx([(expected - 1) / expected, 1.0])


@pytest.mark.parametrize(
    ("steps", "anneal", "expected"), [(100, 0.29, 71), (100, 0.05, 95), (19, 0.05, 19), (200, 0.07, 186)]
)
def test_annealing_is_the_fraction_that_was_written(steps, anneal, expected):
    """0.29 * 100 is 28.999999999999996 in binary."""
    assert anneal_start(TrainingConfig(anneal_fraction=anneal), steps) == expected
