"""Intervals of scores: Wilson's against numbers worked out elsewhere, the bootstrap against its normal limit, pairs."""

import math
import random

import pytest

from model.evaluation.intervals import bootstrap, interval, paired, wilson

# Newcombe 1998 (Statistics in Medicine 17, 857), method 3, to four digits.
WILSON = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}


@pytest.mark.parametrize(("counts", "ends"), WILSON.items())
def test_wilsons_interval_has_published_ends_which_solve_its_equation(counts, ends):
    right, n = counts
    found = wilson(right, n)
    assert found == pytest.approx(ends, abs=5.1e-5)
    for share in (end for end in found if end > 0):
        assert abs(right / n - share) == pytest.approx(1.959964 * math.sqrt(share * (1 - share) / n), rel=1e-5)
    assert wilson(n - right, n) == pytest.approx((1 - found[1], 1 - found[0]))


def test_shares_of_right_answers_have_wilsons_and_other_means_a_bootstrap():
    assert interval([1.0, 0.0, 1]) == wilson(2, 3)
    assert interval([0.5, 0.0, 1.0]) == bootstrap([0.5, 0.0, 1.0])
    assert all(map(math.isnan, interval([])))


def test_the_bootstrap_of_a_mean_is_its_normal_interval():
    draw = random.Random(0)
    values = [draw.gauss(5, 2) for _ in range(400)]
    low, high = bootstrap(values)
    mean = sum(values) / 400
    error = 1.96 * (sum((v - mean) ** 2 for v in values) / 399) ** 0.5 / 20
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.04)
    assert bootstrap(values) == (low, high)
    assert bootstrap(values, lambda drawn: sum(drawn) / len(drawn)) == pytest.approx((low, high), abs=0.06)


def test_pairs_are_surer_than_two_samples():
    draw = random.Random(1)
    hard = [draw.random() for _ in range(300)]
    theirs = [float(draw.random() > h) for h in hard]
    ours = [1.0 if t or draw.random() < 0.1 else 0.0 for t in theirs]
    difference, low, high = paired(ours, theirs)
    assert difference == pytest.approx(sum(ours) / 300 - sum(theirs) / 300) and 0 < low < difference < high
    separate = interval(ours)[1] - interval(ours)[0]
    assert high - low < separate
    assert paired(ours, ours) == (0.0, 0.0, 0.0)
