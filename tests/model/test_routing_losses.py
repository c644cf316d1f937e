"""The losses that keep routing healthy, by hand."""

import math

import pytest
import torch

from model.moe.losses import load_balance_loss, router_z_loss
from model.moe.router import route


@pytest.mark.parametrize("experts", [2, 5, 16])
def test_load_balance_loss_is_1_when_balanced_and_e_when_collapsed(experts):
    balanced = 3.0 * torch.eye(experts).repeat(4, 1)  # every expert is loved by 4 tokens
    assert load_balance_loss(route(balanced, 1)).item() == pytest.approx(1.0)
    collapsed = torch.zeros(7, experts)
    collapsed[:, -1] = 40.0
    assert load_balance_loss(route(collapsed, 1)).item() == pytest.approx(experts)


@pytest.mark.parametrize(
    ("probabilities", "top_k", "expected"),
    [
        ([[0.8, 0.2], [0.6, 0.4]], 1, 2 * (1.0 * 0.7 + 0.0 * 0.3)),
        ([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], 1, 2 * (2 / 3 * 0.5 + 1 / 3 * 0.5)),
        ([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]], 2, 3 * (1 / 4 * 0.3 + 2 / 4 * 0.3 + 1 / 4 * 0.4)),
    ],
)
@pytest.mark.parametrize("policy", ["dropless", "drop"])
def test_load_balance_loss_by_hand(probabilities, top_k, expected, policy):
    """E * sum_e(fraction of choices * mean probability), whatever a capacity does to the choices afterwards."""
    logits = torch.tensor(probabilities).log()
    found = load_balance_loss(route(logits, top_k, policy=policy, capacity=1))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_load_balance_loss_pushes_probability_off_the_loaded_expert():
    logits = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.0]], requires_grad=True)
    load_balance_loss(route(logits, 1)).backward()
    assert (logits.grad[:, 0] > 0).all()  # a step of descent lowers expert 0 for every token
    assert (logits.grad[:, 2] < 0).all()  # and raises the expert that nobody chose


def test_z_loss_by_hand():
    """Partitions 1 + 1 and 3 + 1."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert router_z_loss(logits).item() == pytest.approx((math.log(2) ** 2 + math.log(4) ** 2) / 2)
