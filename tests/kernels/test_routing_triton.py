"""Routing in kernels against the plain router and its sort: choices, places, order, statistics and the gradient of logits."""

import pytest
import torch

from model.config import HunyuanConfig
from model.moe.dispatch import plan_dispatch
from model.moe.losses import load_balance_loss, router_z_loss
from model.moe.place_keys import place_keys, routing_key
from model.moe.router import route

CASES = [  # tokens, experts, top-k
    (1, 1, 1),
    (37, 2, 1),
    (300, 16, 1),
    (131, 5, 3),
    (40, 256, 8),
    (65, 16, 2),
]
POLICIES = [("dropless", 1.0), ("drop", 0.5), ("drop", 1.0), ("recycle", 0.5), ("recycle", 1.0), ("recycle", 1.25)]
every_policy = pytest.mark.parametrize(("policy", "factor"), POLICIES, ids=[f"{p}-{f}" for p, f in POLICIES])


def logits_of(tokens, experts, device, skew=2.0):
    generator = torch.Generator().manual_seed(tokens)
    return (torch.randn(tokens, experts, generator=generator) + skew * torch.linspace(1, 0, experts)).to(device)


def both(kernels, logits, top_k, policy, factor, bias=None, convention="report"):
    """What the kernels found, and what the plain router finds for the same logits."""
    experts = logits.shape[1]
    config = HunyuanConfig.from_name("toy", num_experts=experts, moe_topk=top_k, capacity_factor=factor)
    capacity = config.capacity(len(logits))
    keys = place_keys(routing_key(3), 1, experts * capacity)[0].to(logits.device)
    found = kernels("routing").place_logits(
        logits.detach(),
        bias,
        keys.argsort() if policy == "recycle" else None,
        top_k=top_k,
        capacity=None if policy == "dropless" else capacity,
        sum_to_one=top_k > 1 or convention == "hunyuan-a13b",
    )
    return found, route(
        logits,
        top_k,
        policy=policy,
        capacity=capacity,
        place_keys=keys,
        expert_bias=bias,
        convention=convention,
    )


@every_policy
@pytest.mark.parametrize(("tokens", "experts", "top_k"), CASES)
def test_every_choice_has_the_place_of_the_sort(kernels, device, tokens, experts, top_k, policy, factor):
    logits = logits_of(tokens, experts, device)
    found, wanted = both(kernels, logits, top_k, policy, factor)
    plan = plan_dispatch(wanted, may_drop=True)
    assert torch.equal(found.chosen.long(), wanted.chosen)
    assert torch.equal(found.final.long(), wanted.expert_index)
    torch.testing.assert_close(found.weight, wanted.expert_weight)
    assert torch.equal(found.ends, plan.ends)
    total = int(found.ends[-1])
    assert torch.equal(found.order[:total].long(), plan.order[:total])
    position = torch.where(wanted.expert_index.flatten() < experts, plan.inverse, -1)
    assert torch.equal(found.position.flatten().long(), position)
    counts = [wanted.choices_per_expert, wanted.tokens_per_expert, wanted.dropped[None], wanted.recycled[None]]
    assert torch.equal(found.counts, torch.cat(counts))
    torch.testing.assert_close(found.mean_probability, wanted.probabilities.mean(0))
    torch.testing.assert_close(found.z_loss, router_z_loss(logits))


def test_a_selection_bias_chooses_and_does_not_weigh(kernels, device):
    logits, bias = logits_of(50, 6, device), torch.linspace(0, 2, 6).to(device)
    found, wanted = both(kernels, logits, 2, "dropless", 1.0, bias)
    assert torch.equal(found.final.long(), wanted.expert_index)
    torch.testing.assert_close(found.weight, wanted.expert_weight)


@every_policy
@pytest.mark.parametrize("convention", ["report", "hunyuan-a13b"])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(37, 2, 1), (131, 5, 3), (40, 130, 2)])
def test_the_gradient_of_logits(kernels, device, tokens, experts, top_k, policy, factor, convention):
    """Through the weights, the balance loss and the z loss, by autograd in float64."""
    logits = logits_of(tokens, experts, device).requires_grad_()
    found, wanted = both(kernels, logits, top_k, policy, factor, convention=convention)
    exact = logits.detach().double().requires_grad_()
    shares = exact.softmax(-1)
    slots = torch.where(wanted.expert_index < experts, wanted.expert_index, wanted.chosen)
    weight = shares.gather(1, slots)
    if top_k > 1 or convention == "hunyuan-a13b":
        weight = weight / weight.sum(-1, keepdim=True)
    d_weight = torch.randn(tokens, top_k, device=device)
    kept = wanted.expert_index < experts
    balance = load_balance_loss(wanted._replace(probabilities=shares))
    loss = (weight * d_weight * kept).sum() + 0.3 * balance + 0.1 * torch.logsumexp(exact, -1).square().mean()
    (expected,) = torch.autograd.grad(loss, exact)
    d_mean = 0.3 * experts * wanted.choices_per_expert / wanted.expert_index.numel()
    gradient = kernels("router_gradient").logits_gradient(
        logits.detach(),
        found.chosen,
        found.final,
        torch.where(kept, d_weight, torch.nan).contiguous(),  # what is said of a dropped choice is not read
        d_mean,
        torch.tensor(0.1, device=device),
        sum_to_one=top_k > 1 or convention == "hunyuan-a13b",
    )
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("tokens", "size", "experts"), [(1, 8, 2), (70, 200, 5), (65, 64, 130)])
def test_products_of_the_router_are_those_of_float32(kernels, device, tokens, size, experts):
    hidden, weight = torch.randn(tokens, size, device=device).bfloat16(), torch.randn(experts, size, device=device)
    logits = kernels("routing").router_logits(hidden, weight)
    torch.testing.assert_close(logits.double(), hidden.double() @ weight.double().t(), rtol=1e-5, atol=3e-5)
    d_logits = torch.randn(tokens, experts, device=device)
    gradient = kernels("router_gradient").router_weight_gradient(d_logits, hidden)
    torch.testing.assert_close(gradient.double(), d_logits.double().t() @ hidden.double(), rtol=1e-5, atol=3e-5)
