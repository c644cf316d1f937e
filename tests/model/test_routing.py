"""Routing policies: their invariants over random loads, against a plain loop, and the randomness of recycling.

T tokens, E experts, K = moe_topk, C places per expert.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import HunyuanConfig
from model.moe.dispatch import combine, dispatch, plan_dispatch
from model.moe.layer import MoE
from model.moe.place_keys import place_keys, routing_key
from model.moe.router import recycle, route, update_expert_bias

LIMITED = ("drop", "recycle")


@st.composite
def loads(draw):
    """Router logits (T, E), skewed by up to e^4, with a top-k, a capacity and the keys of the places."""
    experts = draw(st.integers(1, 9))
    top_k, tokens = draw(st.integers(1, min(3, experts))), draw(st.integers(1, 40))
    factor = draw(st.sampled_from([0.25, 0.5, 1.0, 1.25, 2.0]))
    config = HunyuanConfig.from_name("toy", num_experts=experts, moe_topk=top_k, capacity_factor=factor)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    skew = draw(st.integers(0, 4)) * torch.linspace(1, 0, experts)
    logits = torch.randn(tokens, experts, generator=generator) + skew
    capacity = config.capacity(tokens)
    return (
        logits,
        top_k,
        capacity,
        place_keys(routing_key(draw(st.integers(0, 2**63 - 1))), 1, experts * capacity)[0],
        factor,
    )


def place_in_a_loop(chosen, num_experts, capacity, keys, policy):
    """First choices before second ones, in the order of the tokens; then overflow to the free places by their keys."""
    index, taken, over = chosen.clone(), [0] * num_experts, []
    for k in range(chosen.shape[1]):
        for t in range(chosen.shape[0]):
            expert = int(chosen[t, k])
            if taken[expert] < capacity:
                taken[expert] += 1
            else:
                over.append((t, k))
                index[t, k] = num_experts
    if policy == "recycle":
        free = [e * capacity + c for e in range(num_experts) for c in range(taken[e], capacity)]
        for (t, k), place in zip(over, sorted(free, key=lambda place: keys[place].item()), strict=False):
            index[t, k] = place // capacity
    return index


@settings(deadline=None, max_examples=60)
@given(loads())
def test_limited_policies_equal_a_loop_and_keep_their_promises(load):
    logits, top_k, capacity, keys, factor = load
    tokens, experts = logits.shape
    chosen = route(logits, top_k).expert_index
    for policy in LIMITED:
        found = route(logits, top_k, policy=policy, capacity=capacity, place_keys=keys)
        assert torch.equal(found.expert_index, place_in_a_loop(chosen, experts, capacity, keys, policy))
        load_per_expert = torch.bincount(found.expert_index.flatten(), minlength=experts + 1)
        assert torch.equal(found.tokens_per_expert, load_per_expert[:experts])
        assert found.tokens_per_expert.max() <= capacity
        assert found.dropped == load_per_expert[experts]
        moved = (found.expert_index != chosen) & (found.expert_index < experts)
        kept = found.expert_index == chosen
        assert found.recycled == moved.sum()
        assert kept.sum() + found.recycled + found.dropped == tokens * top_k
        assert torch.equal(found.choices_per_expert, torch.bincount(chosen.flatten(), minlength=experts))
        assert kept.sum() == found.choices_per_expert.clamp(max=capacity).sum()  # only overflow moves
        if policy == "recycle":
            assert found.dropped == max(0, tokens * top_k - capacity * experts)
            assert found.dropped == 0 or factor < 1
        else:
            assert found.recycled == 0


@settings(deadline=None, max_examples=30)
@given(loads())
def test_every_policy_with_room_for_all_is_dropless(load):
    logits, top_k, *_ = load
    capacity = logits.shape[0] * top_k
    free = route(logits, top_k)
    keys = torch.rand(logits.shape[1] * capacity)
    assert free.dropped == free.recycled == 0
    for policy in LIMITED:
        bound = route(logits, top_k, policy=policy, capacity=capacity, place_keys=keys)
        assert all(torch.equal(one, other) for one, other in zip(free, bound, strict=True))


@settings(deadline=None, max_examples=60)
@given(loads(), st.sampled_from(["dropless", *LIMITED]))
def test_weights_are_probabilities_of_the_experts_that_compute(load, policy):
    """Top-1: raw; top-k: renormalised over the token's experts; a dropped choice weighs 0 and its share is not given away."""
    logits, top_k, capacity, keys, _ = load
    found = route(logits, top_k, policy=policy, capacity=capacity, place_keys=keys)
    chosen = logits.topk(top_k).indices
    for t, row in enumerate(logits.softmax(-1)):
        experts = found.expert_index[t].tolist()
        shares = [row[e if e < len(row) else c].item() for e, c in zip(experts, chosen[t], strict=True)]
        total = sum(shares) if top_k > 1 else 1.0
        wanted = [share / total if e < len(row) else 0.0 for e, share in zip(experts, shares, strict=True)]
        assert found.expert_weight[t].tolist() == pytest.approx(wanted, rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(loads(), st.sampled_from(["dropless", *LIMITED]))
def test_dispatch_brings_each_token_to_its_experts_and_back(load, policy):
    logits, top_k, capacity, keys, _ = load
    tokens, experts = logits.shape
    routing = route(logits, top_k, policy=policy, capacity=capacity, place_keys=keys)
    plan = plan_dispatch(routing, may_drop=policy != "dropless")
    hidden = torch.arange(1.0, tokens + 1)[:, None].repeat(1, 2)  # a row says which token it is
    rows, start = dispatch(hidden, plan), 0
    for expert, end in enumerate(plan.ends.tolist()):
        members = (routing.expert_index == expert).any(-1).nonzero().flatten() + 1
        assert set(rows[start:end, 0].int().tolist()) == set(members.tolist())
        start = end
    assert (rows[start:] == 0).all() and len(rows) - start == routing.dropped
    rows[start:] = torch.nan  # what a grouped product may leave there
    back = combine(rows, plan, torch.ones_like(routing.expert_weight))
    visits = (routing.expert_index < experts).sum(-1, keepdim=True)
    assert torch.equal(back, hidden * visits)


def test_recycling_is_random_in_proportion_to_free_places():
    """One token too many for expert 0; the others have 1, 3 and 6 free places. Chi-square, 2 degrees of freedom."""
    capacity, draws = 6, 3000
    chosen = torch.tensor([0] * 7 + [1] * 5 + [2] * 3)[:, None]
    counts = torch.zeros(4)
    for keys in place_keys(routing_key(0), draws, 4 * capacity):
        counts[recycle(chosen, 4, capacity, keys)[6]] += 1

    def chi_square(shares):
        expected = torch.tensor(shares) * draws
        return ((counts[1:] - expected) ** 2 / expected).sum()

    assert counts[0] == 0
    assert chi_square([0.1, 0.3, 0.6]) < 18.4  # exceeded once in 10,000
    assert chi_square([1 / 3, 1 / 3, 1 / 3]) > 100


def test_recycling_needs_keys_and_repeats_with_them():
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, 0, 0])
    with pytest.raises(ValueError, match="place_keys"):
        route(logits, 1, policy="recycle", capacity=5)

    def places(seed):
        keys = place_keys(routing_key(seed), 1, 20)[0]
        return route(logits, 1, policy="recycle", capacity=5, place_keys=keys).expert_index

    assert torch.equal(places(1), places(1)) and not torch.equal(places(1), places(2))


def test_the_selection_bias_balances_and_leaves_weights_alone():
    """Auxiliary-loss-free balancing (arXiv:2408.15664) on logits that love the first experts."""
    logits = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)) + torch.linspace(2, 0, 8)
    bias = torch.zeros(8)
    before = route(logits, 2).choices_per_expert
    for _ in range(300):
        update_expert_bias(bias, route(logits, 2, expert_bias=bias).choices_per_expert, rate=0.002)
    found = route(logits, 2, expert_bias=bias)
    assert before.max() > 1.5 * before.float().mean() and found.choices_per_expert.max() < 1.1 * before.float().mean()
    chosen = logits.softmax(-1).gather(1, found.expert_index)
    torch.testing.assert_close(found.expert_weight, chosen / chosen.sum(-1, keepdim=True))


def test_the_selection_bias_moves_by_its_rate_toward_the_mean():
    """One row per layer, each by its own mean: 4, 2 and 0 choices have the mean 2."""
    bias = torch.zeros(2, 3)
    update_expert_bias(bias, torch.tensor([[4, 2, 0], [1, 1, 7]]), rate=0.5)
    assert bias.tolist() == [[-0.5, 0.0, 0.5], [0.5, 0.5, -0.5]]


@pytest.fixture
def compiled():
    torch.compiler.reset()
    yield lambda function, backend: torch.compile(function, fullgraph=True, backend=backend)
    torch.compiler.reset()


@pytest.mark.parametrize("policy", ["dropless", *LIMITED])
@pytest.mark.parametrize("top_k", [1, 2])
def test_routing_is_one_graph(policy, top_k, compiled):
    logits, keys = torch.randn(12, 4), torch.rand(4 * 3)
    options = {"policy": policy, "capacity": 3, "place_keys": keys}
    expected, found = route(logits, top_k, **options), compiled(route, "eager")(logits, top_k, **options)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("policy", ["dropless", *LIMITED])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_mixture_in_training_is_one_graph(policy, bfloat16, compiled):
    """In bfloat16 through the grouped product, as on an accelerator; in float32 through oneDNN."""
    config = HunyuanConfig.from_name("toy", hidden_size=16, intermediate_size=24, num_experts=4, moe_routing=policy)
    layer, hidden, cotangent = MoE(config).train(), torch.randn(12, 16), torch.randn(12, 16)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    keys, parameters = torch.rand(4 * config.capacity(12)), list(layer.parameters())
    results = []
    for function in (layer, compiled(layer, "aot_eager")):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output, aux, stats = function(hidden, keys)
        results.append((output, aux, *stats, *torch.autograd.grad((output * cotangent).sum() + aux, parameters)))
    for one, other in zip(*results, strict=True):
        assert (one.float() - other.float()).norm() <= 1e-2 * other.float().norm()


@pytest.mark.parametrize("policy", ["dropless", *LIMITED])
@pytest.mark.parametrize("top_k", [1, 2])
def test_nothing_waits_for_the_device(policy, top_k):
    """A tensor on the meta device has a shape and no values: to ask for one, as a wait would, is an error there."""
    logits = torch.randn(12, 4, device="meta", requires_grad=True)
    hidden = torch.randn(12, 8, device="meta", requires_grad=True)
    routing = route(logits, top_k, policy=policy, capacity=3, place_keys=torch.rand(12, device="meta"))
    plan = plan_dispatch(routing, may_drop=True)
    output = combine(dispatch(hidden, plan), plan, routing.expert_weight)
    output.backward(torch.randn_like(output))
    assert logits.grad.shape == (12, 4) and hidden.grad.shape == output.shape == (12, 8)
