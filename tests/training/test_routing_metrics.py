"""The routing keys of a line of metrics, and the watch that tells of a collapse."""

import pytest
import torch

from model.moe.layer import MoEStats
from model.training.metrics import PATIENCE, RoutingWatch, load_imbalance, merge_stats, routing_metrics


def stats(*choices, dropped=0, recycled=0, balance=1.0):
    """One micro-batch's routing, stacked over the layers in `choices`."""
    layers = len(choices)
    return MoEStats(
        torch.full((layers,), balance), torch.tensor(choices), torch.tensor(choices),
        torch.full((layers,), dropped), torch.full((layers,), recycled),
    )  # fmt: skip


HEALTHY = stats([10, 10, 10, 10], [10, 10, 10, 10])
COLLAPSED = stats([10, 10, 10, 10], [40, 0, 0, 0])


@pytest.mark.parametrize(
    ("choices", "expected"), [([[5, 5, 5, 5]], 1.0), ([[20, 0, 0, 0]], 4.0), ([[20, 0, 0, 0], [5, 5, 5, 5]], 2.5)]
)
def test_load_imbalance_is_the_greatest_over_the_mean(choices, expected):
    assert load_imbalance(torch.tensor(choices)) == pytest.approx(expected)


def test_micro_batches_are_summed_and_their_balance_loss_averaged_over_tokens():
    merged = merge_stats([stats([3, 1], dropped=1, balance=1.0), stats([0, 4], recycled=2, balance=2.0)], [3, 1], 4)
    assert merged.choices_per_expert.tolist() == [[3, 5]]
    assert (merged.balance_loss.tolist(), merged.dropped.tolist(), merged.recycled.tolist()) == ([1.25], [1], [2])
    assert merge_stats([], [], 1) is None


def test_fractions_are_of_all_choices_of_all_layers():
    row = routing_metrics(stats([10, 30], [20, 20], dropped=8, recycled=2, balance=1.25))
    assert row == {
        "balance_loss": 1.25, "dropped_fraction": 0.2, "recycled_fraction": 0.05, "load_imbalance": 1.25,
        "tokens_per_expert": [[10, 30], [20, 20]],
    }  # fmt: skip


def test_a_dense_model_has_no_routing():
    row = routing_metrics(None)
    assert (row["dropped_fraction"], row["recycled_fraction"], row["load_imbalance"]) == (0.0, 0.0, 1.0)
    assert row["tokens_per_expert"] == []
    assert RoutingWatch(PATIENCE - 1).check(None) is None


def test_a_collapse_is_told_once_after_patience():
    watch = RoutingWatch()
    told = [watch.check(COLLAPSED) for _ in range(3 * PATIENCE)]
    assert [index for index, warning in enumerate(told, start=1) if warning] == [PATIENCE]
    assert "3 of 4 experts of layer 1 get less than 10% of the mean load" in told[PATIENCE - 1]
    assert "raise model.router_aux_loss_coef" in told[PATIENCE - 1]


def test_one_healthy_step_starts_the_count_again():
    watch = RoutingWatch()
    steps = [COLLAPSED] * (PATIENCE - 1) + [HEALTHY] + [COLLAPSED] * PATIENCE
    told = [watch.check(step) for step in steps]
    assert [index for index, warning in enumerate(told, start=1) if warning] == [2 * PATIENCE]


@pytest.mark.parametrize(
    ("load", "starved"),
    [
        ([38, 2, 0, 0], True),
        ([20, 20, 0, 0], True),  # half of the experts
        ([20, 10, 10, 0], False),  # one expert of four
        ([40, 38, 1, 1], True),  # under a tenth of the mean, 20
        ([40, 36, 2, 2], False),  # a tenth
    ],
)
def test_what_counts_as_starved(load, starved):
    watch = RoutingWatch()
    watch.check(stats(load))
    assert watch.unhealthy == int(starved)
