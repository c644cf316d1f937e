"""The whole mixture layer against a literal double sum over tokens and their experts, with the gradient of every parameter.

    out(x) = shared(x) + sum_k weight_k * expert_k(x)

Where each choice goes comes from the router, which tests/model/test_routing.py holds against an oracle of its own.
"""

import pytest
import torch
from torch.nn import functional as F

from model.config import HunyuanConfig
from model.moe.layer import MoE, Router
from model.moe.place_keys import place_keys, routing_key
from model.moe.router import route

T, E, D = 22, 4, 16
SMALL = HunyuanConfig.from_name(
    "toy", hidden_size=D, intermediate_size=24, num_experts=E, router_aux_loss_coef=0.3, router_z_loss_coef=0.1
)
POLICIES = {
    "dropless": {"moe_routing": "dropless"},
    "drop-0.5": {"moe_routing": "drop", "capacity_factor": 0.5},
    "drop-1": {"moe_routing": "drop", "capacity_factor": 1.0},
    "recycle-0.5": {"moe_routing": "recycle", "capacity_factor": 0.5},
    "recycle-1": {"moe_routing": "recycle", "capacity_factor": 1.0},
    "recycle-1.25": {"moe_routing": "recycle", "capacity_factor": 1.25},
}


def mixture(config):
    torch.manual_seed(1)
    layer = MoE(config).train()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    hidden = torch.randn(T, D) + 2.5 * layer.router.weight[0].detach()  # expert 0 is loved too much
    keys = place_keys(routing_key(0), 1, E * config.capacity(T))[0]
    return layer, hidden.requires_grad_(), keys


def swiglu(x, gate_up, down):
    gate, up = gate_up.chunk(2)
    return down @ (F.silu(gate @ x) * (up @ x))


def double_sum(layer, hidden, keys):
    """The output (T, D) and the auxiliary loss, one token and one expert at a time."""
    c = layer.config
    logits = hidden @ layer.router.weight.t()
    probabilities = logits.softmax(-1)
    routing = route(logits, c.moe_topk, policy=c.moe_routing, capacity=c.capacity(T), place_keys=keys)
    chosen = logits.topk(c.moe_topk).indices
    rows = []
    for t, x in enumerate(hidden):
        experts = routing.expert_index[t].tolist()
        shares = [probabilities[t, e if e < E else first] for e, first in zip(experts, chosen[t], strict=True)]
        scale = sum(shares) if c.moe_topk > 1 else 1.0
        out = torch.zeros(D)
        if c.num_shared_expert:
            out = swiglu(x, layer.shared_mlp.gate_up_proj.weight, layer.shared_mlp.down_proj.weight)
        for e, share in zip(experts, shares, strict=True):
            if e < E:
                out = out + share / scale * swiglu(x, layer.experts.gate_up[e], layer.experts.down[e])
        rows.append(out)
    fractions = torch.bincount(chosen.flatten(), minlength=E) / chosen.numel()
    aux = c.router_aux_loss_coef * E * (fractions * probabilities.mean(0)).sum()
    aux = aux + c.router_z_loss_coef * logits.exp().sum(-1).log().square().mean()
    return torch.stack(rows), aux, routing


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize("path", ["onednn", "grouped"])
def test_mixture_equals_the_double_sum(policy, top_k, shared, path, monkeypatch):
    if path == "grouped":
        monkeypatch.setattr("model.kernels.onednn.onednn_applies", lambda *_: False)
    config = SMALL.replace(moe_topk=top_k, num_shared_expert=shared, **POLICIES[policy])
    layer, hidden, keys = mixture(config)
    output, aux, stats = layer(hidden, keys)
    expected, expected_aux, routing = double_sum(layer, hidden, keys)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(aux, expected_aux)

    lost, moved = int(stats.dropped), int(stats.recycled)
    assert (lost, moved) == ((routing.expert_index == E).sum(), routing.recycled)
    assert (lost > 0) == (policy in ("drop-0.5", "drop-1", "recycle-0.5"))  # the case is what its name says
    assert (moved > 0) == policy.startswith("recycle")
    assert stats.choices_per_expert.sum() == T * top_k

    cotangent, tensors = torch.randn(T, D), dict(layer.named_parameters()) | {"hidden": hidden}
    found, wanted = (
        torch.autograd.grad((out * cotangent).sum() + loss, list(tensors.values()))
        for out, loss in ((output, aux), (expected, expected_aux))
    )
    for name, one, other in zip(tensors, found, wanted, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm(), name


def test_capacity_holds_in_training_alone():
    """An answer must not depend on who else is in the batch: in evaluation every policy is dropless."""
    layer, hidden, keys = mixture(SMALL.replace(**POLICIES["drop-0.5"]))
    trained, _, stats = layer(hidden, keys)
    output, _, eval_stats = layer.eval()(hidden, None)
    layer.config = SMALL
    assert stats.dropped > 0 and eval_stats.dropped == 0 and not torch.equal(output, trained)
    assert torch.equal(output, layer(hidden, None)[0])


@torch.no_grad()
def test_the_router_is_float32_under_bfloat16():
    """bfloat16 keeps 8 bits: logits that differ in the tenth would tie, and the choice with them."""
    router, hidden = Router(SMALL), torch.randn(50, D)
    torch.nn.init.normal_(router.weight)
    exact = hidden.double() @ router.weight.double().t()
    with torch.autocast("cpu", torch.bfloat16):
        logits = router(hidden)
        assert F.linear(hidden, router.weight).dtype == torch.bfloat16  # autocast is at work
    assert logits.dtype == router(hidden.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_selection_bias_steers_the_layer():
    """Auxiliary-loss-free balancing (arXiv:2408.15664): the bias moves choices, and the weights stay probabilities."""
    layer, hidden, _ = mixture(SMALL.replace(expert_bias_update_rate=0.01))
    assert "router.expert_bias" in layer.state_dict() and "router.expert_bias" not in dict(layer.named_parameters())
    layer.router.expert_bias[2] = 2.0  # above every probability
    assert layer(hidden, None)[2].choices_per_expert.tolist() == [0, 0, T, 0]
