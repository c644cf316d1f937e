"""The reward model reads the last token by its length; its loss against the formula."""

import math

import pytest
import torch

from model.posttraining.reward import RewardModel, reward_loss
from tests.oracles.small_models import build, random_ids

IDS = random_ids(4, 9, seed=6)
LENGTHS = torch.tensor([9, 4, 1, 6])


def scored(net):
    return RewardModel(net, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["GQA", "many", "dense"])
def test_the_reward_is_read_from_the_last_token_of_the_length(name):
    net = build(name)
    model = scored(net)
    found = model(IDS, LENGTHS)
    assert (
        found.shape == (4,) and found.dtype == torch.float32 and model.head.weight.shape == (1, net.config.hidden_size)
    )
    read = []
    net.norm.register_forward_hook(lambda module, inputs, output: read.append(output))
    for row, length in enumerate(LENGTHS.tolist()):
        net(IDS[row : row + 1, :length])
        expected = (
            read[-1][0, -1] @ model.head.weight[0]
        )  # the final norm's output, as the head of the vocabulary has it
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


def test_neither_padding_nor_any_token_decides_which_is_the_last():
    """Padding that is like the last token, and other padding."""
    model = scored(build())
    expected = model(IDS, LENGTHS)
    for padding in (0, 17, int(IDS[1, 3])):
        padded = IDS.where(torch.arange(9) < LENGTHS[:, None], padding)
        torch.testing.assert_close(model(padded, LENGTHS), expected, rtol=1e-5, atol=1e-5)


def test_routing_losses_are_those_of_the_tokens_within_the_lengths():
    model = scored(build("GQA").train())
    padded = IDS.where(torch.arange(9) < LENGTHS[:, None], 0)
    one, other = (model.score(ids, LENGTHS)[1] for ids in (IDS, padded))
    torch.testing.assert_close(one, other)
    assert not torch.isclose(one, model.score(IDS, torch.full((4,), 9))[1])


def test_the_head_is_float32_over_a_bfloat16_model():
    model = RewardModel(build("GQA").bfloat16())
    assert model(IDS, LENGTHS).dtype == model.head.weight.dtype == torch.float32


def test_the_head_is_drawn_from_the_generator():
    one, other = scored(build()), scored(build())
    assert torch.equal(one.head.weight, other.head.weight)


def test_every_weight_below_the_head_learns_but_that_of_the_vocabulary():
    model = scored(build("untied").train())
    rewards, aux_loss, _ = model.score(IDS, LENGTHS)
    (reward_loss(rewards[:2], rewards[2:]).loss + aux_loss).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["net.lm_head.weight"]


def test_the_loss_is_the_formula():
    chosen, rejected = torch.tensor([1.0, 0.5, -2.0]), torch.tensor([0.0, 0.5, 1.0])
    found = reward_loss(chosen, rejected, margin=torch.tensor([0.5, 0.0, 1.0]), center_coefficient=0.01)
    ranking = [math.log1p(math.exp(-lead)) for lead in (0.5, 0.0, -4.0)]
    assert float(found.loss) == pytest.approx(sum(ranking) / 3 + 0.01 * (1 + 1 + 1) / 3)
    assert float(found.accuracy) == pytest.approx(1 / 3)  # a tie is none
    assert float(found.margin) == pytest.approx((1 + 0 - 3) / 3)
    assert float(reward_loss(chosen, rejected, margin=1.0).loss) > float(reward_loss(chosen, rejected).loss)


def test_the_loss_of_bfloat16_and_of_far_rewards_is_finite_float32():
    chosen = torch.tensor([-4000.0, 3.0]).bfloat16().requires_grad_()
    found = reward_loss(chosen, torch.tensor([4000.0, 3.0]).bfloat16(), center_coefficient=0.1)
    found.loss.backward()
    assert found.loss.dtype == torch.float32 and found.loss.isfinite() and chosen.grad.isfinite().all()
