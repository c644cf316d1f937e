"""AdamW on split weights, its plain path: the halves, the update against torch's AdamW, and the rounding of moments."""

import pytest
import torch
from torch import nn

from model.kernels.adamw import Rates, join, noise, round_stochastically, split
from model.training.split_adamw import SplitAdamW

RATES = Rates(0.9, 0.95, 1e-8)
SIZES = ((1, 1), (127, 1), (41, 25))


def whole(made, parameter):
    low = made.state[parameter].get("low")
    return parameter.detach() if low is None else join(parameter.detach(), low)


def network(device="cpu"):
    """Parameters of awkward sizes in two groups: weights that are split, a router and vectors that are not."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: nn.Parameter(torch.randn(*size, generator=generator).to(device))  # noqa: E731
    weights = {f"layers.{i}.weight": draw(*size) for i, size in enumerate(SIZES)}
    others = {"mlp.router.weight": draw(3, 5), "norm.weight": draw(7)}
    return [
        {"names": list(weights), "params": list(weights.values()), "lr_scale": 0.5, "weight_decay": 0.1},
        {"names": list(others), "params": list(others.values()), "lr_scale": 1.0, "weight_decay": 0.0},
    ]


def optimizer(groups, *, split_weights=True, moments=torch.float32, max_grad_norm=1e9):
    made = SplitAdamW(
        groups, rates=RATES, max_grad_norm=max_grad_norm, split_weights=split_weights, moments=moments, seed=5
    )
    made.begin()
    return made


def give_gradients(groups, step, scale=1.0):
    generator = torch.Generator().manual_seed(step)
    for group in groups:
        for parameter in group["params"]:
            gradient = scale * torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.bfloat16().to(parameter.device, parameter.dtype)


def wholes(made):
    return [whole(made, parameter) for _, parameter, _ in made.places()]


def test_the_halves_are_the_weight():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=generator).to(torch.int32)
    weight = bits.view(torch.float32)
    weight = weight[weight.isfinite()]
    high, low = split(weight)
    assert (high.dtype, low.dtype) == (torch.bfloat16, torch.int16)
    assert join(high, low).view(torch.int32).equal(weight.view(torch.int32))
    assert ((high.float() - weight).abs() <= (weight.bfloat16().float() - weight).abs()).all()  # to the nearest


def test_split_weights_move_as_whole_ones_do():
    """Against torch's AdamW on float32 weights, from the same gradients, with and without clipping."""
    for limit in (1e9, 0.3):
        groups, reference = network(), network()
        made = optimizer(groups, max_grad_norm=limit)
        theirs = torch.optim.AdamW(
            [g | {"lr": 0.01 * g["lr_scale"]} for g in reference], betas=RATES[:2], eps=RATES.epsilon
        )
        parameters = [p for g in reference for p in g["params"]]
        for step in range(5):
            give_gradients(groups, step)
            give_gradients(reference, step)
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            torch.testing.assert_close(made.update(0.01, torch.tensor(1.0)), norm)
            theirs.step()
        for found, parameter in zip(wholes(made), parameters, strict=True):
            torch.testing.assert_close(found, parameter.detach(), rtol=1e-6, atol=1e-7)
    assert groups[0]["params"][2].dtype == torch.bfloat16 and groups[1]["params"][0].dtype == torch.float32


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_nothing_is_written_once_a_step_is_not_finite(broken):
    groups = network()
    made = optimizer(groups)
    give_gradients(groups, 0)
    made.update(0.01, torch.tensor(1.0))
    before = [(w, made.state[p]["exp_avg"].clone()) for w, (_, p, _) in zip(wholes(made), made.places(), strict=True)]
    give_gradients(groups, 1)
    if broken == "gradient":
        groups[0]["params"][1].grad[3] = float("inf")
    made.update(0.01, torch.tensor(float("nan") if broken == "loss" else 1.0))
    give_gradients(groups, 2)
    made.update(0.01, torch.tensor(1.0))  # finite again, too late
    assert made.goes_on == 0 and made.done == 1
    for (weight, moment), found, (_, p, _) in zip(before, wholes(made), made.places(), strict=True):
        assert found.equal(weight) and made.state[p]["exp_avg"].equal(moment)


def test_several_micro_batches_add_up_in_float32():
    groups = network()
    made = optimizer(groups)
    weight = groups[0]["params"][2]
    total = torch.zeros(weight.shape)
    for micro in range(3):
        give_gradients(groups, micro)
        total += weight.grad.float()
        made.collect()
    made.update(0.01, torch.tensor(1.0))
    torch.testing.assert_close(made.state[weight]["exp_avg"], 0.1 * total)


def test_rounding_is_right_on_average():
    value = torch.full((200_000,), 1.0 + 0.3 * 2**-7)
    bits = noise(seed=1, step=2, first=0, count=len(value), device=value.device)
    for shift in (0, 16):
        rounded = round_stochastically(value, (bits >> shift) & 0xFFFF).float()
        assert set(rounded.tolist()) == {1.0, 1.0 + 2**-7}
        assert abs(float((rounded > 1).float().mean()) - 0.3) < 0.005  # five standard errors
    again = noise(seed=1, step=2, first=100, count=10, device=value.device)
    assert again.equal(bits[100:110])  # a function of the place
    assert not noise(seed=1, step=3, first=100, count=10, device=value.device).equal(again)


def test_bfloat16_moments_follow_float32_ones():
    groups, reference = network(), network()
    made, exact = optimizer(groups, moments=torch.bfloat16), optimizer(reference)
    for step in range(200):
        for one in (groups, reference):
            give_gradients(one, step)
        made.update(0.001, torch.tensor(1.0))
        exact.update(0.001, torch.tensor(1.0))
    state = made.state[groups[0]["params"][2]]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    second = exact.state[reference[0]["params"][2]]["exp_avg_sq"]
    assert abs(float((state["exp_avg_sq"].float() / second).mean()) - 1) < 0.003
    moved = [(a - b).abs().mean() for a, b in zip(wholes(made), wholes(optimizer(network())), strict=True)]
    apart = [(a - b).abs().mean() for a, b in zip(wholes(made), wholes(exact), strict=True)]
    assert all(a < 0.05 * m for a, m in zip(apart[2:3], moved[2:3], strict=True))
