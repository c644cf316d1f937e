"""What stands between the products of experts, and the whole mixture as one operator, against float64 with every gradient.

Memory that nothing has written is NaN throughout: what is read and must not be shows up in a result.
"""

import pytest
import torch
from torch.nn import functional as F

from model.config import HunyuanConfig
from model.kernels import mixture as operator
from model.moe.layer import MoE
from model.moe.place_keys import place_keys, routing_key

T, E, D, FF = 45, 4, 24, 40
POLICIES = {
    "dropless": {},
    "drop": {"moe_routing": "drop", "capacity_factor": 0.5},
    "recycle-0.5": {"moe_routing": "recycle", "capacity_factor": 0.5},
    "recycle-1.25": {"moe_routing": "recycle", "capacity_factor": 1.25},
}


@pytest.fixture(autouse=True)
def poison():
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def plan(device):
    """Seven choices of four tokens, two of them dropped: rows after the fifth are nobody's."""
    order = torch.tensor([4, 0, 6, 3, 5, -1, -1, -1], dtype=torch.int32)
    position = torch.tensor([[1, -1], [-1, 3], [0, 4], [2, -1]], dtype=torch.int32)
    return order.to(device), position.to(device), torch.tensor([2, 2, 5], dtype=torch.int32, device=device)


@pytest.mark.parametrize("size", [8, 600])
def test_rows_are_gathered_and_summed_back(kernels, device, size):
    order, position, ends = plan(device)
    hidden, addend = torch.randn(4, size, device=device), torch.randn(4, size, device=device)
    rows = kernels("experts").gather_rows(hidden, order, ends, 2)
    assert torch.equal(rows[:5], hidden[order[:5].long() // 2]) and rows[5:].isnan().all()
    visits = (position >= 0).sum(-1, keepdim=True)
    summed = kernels("experts").sum_rows(rows, position, addend)
    torch.testing.assert_close(summed, hidden * visits + addend)
    d_logits, router = torch.randn(4, 19, device=device), torch.randn(19, size, device=device)
    summed = kernels("experts").sum_rows(rows, position, None, d_logits, router)
    torch.testing.assert_close(summed, hidden * visits + d_logits @ router, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [8, 1300])
def test_swiglu_of_weighted_rows_and_its_gradients(kernels, device, size, dtype):
    order, position, ends = plan(device)
    both, gradient = torch.randn(8, 2 * size, device=device), torch.randn(8, size, device=device)
    both[5:], gradient[5:] = torch.nan, torch.nan
    both, gradient, weight = both.to(dtype), gradient.to(dtype), torch.rand(4, 2, device=device)
    exact, exact_weight = both[:5].double().requires_grad_(), weight.double().requires_grad_()
    gate, up = exact.chunk(2, -1)
    value = F.silu(gate) * up * exact_weight.flatten()[order[:5].long()][:, None]
    d_exact, d_exact_weight = torch.autograd.grad(value, (exact, exact_weight), gradient[:5].double())
    activated = kernels("experts").swiglu(both, weight, order, ends)
    d_both, again, d_weight = kernels("experts").swiglu_gradient(both, gradient, weight, order, ends)
    bound = 1e-6 if dtype == torch.float32 else 8e-3  # of one rounding; the interpreter cuts off
    assert relative(activated[:5], value) < bound and relative(again[:5], value) < bound
    assert relative(d_both[:5], d_exact) < bound
    assert relative(torch.where(position >= 0, d_weight, 0), d_exact_weight) < 1e-5
    assert activated[5:].isnan().all() and d_both[5:].isnan().all() and again[5:].isnan().all()


def test_swiglu_of_a_dense_block(kernels, device):
    both, gradient = torch.randn(11, 26, device=device), torch.randn(11, 13, device=device)
    exact = both.double().requires_grad_()
    gate, up = exact.chunk(2, -1)
    value = F.silu(gate) * up
    (d_exact,) = torch.autograd.grad(value, exact, gradient.double())
    assert relative(kernels("experts").swiglu(both), value) < 1e-6
    d_both, again, d_weight = kernels("experts").swiglu_gradient(both, gradient)
    assert relative(d_both, d_exact) < 1e-6 and relative(again, value) < 1e-6 and d_weight is None


def layer_of(policy, device, **changes):
    torch.manual_seed(1)
    sizes = {"hidden_size": D, "intermediate_size": FF, "num_experts": E}
    coefficients = {"router_aux_loss_coef": 0.3, "router_z_loss_coef": 0.1}
    config = HunyuanConfig.from_name("toy", **sizes, **coefficients, **POLICIES[policy], **changes)
    layer = MoE(config)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
        parameter.data = parameter.data.bfloat16().float()
    hidden = torch.randn(T, D) + 2.5 * layer.router.weight[0].detach()  # expert 0 is loved too much
    keys = place_keys(routing_key(0), 1, E * config.capacity(T))[0]
    return layer.to(device).train(), hidden.bfloat16().float().to(device), keys.to(device)


def results(layer, hidden, keys, cotangent):
    """Output, losses, statistics, and the gradient of every parameter and of the hidden states."""
    hidden = hidden.clone().requires_grad_()
    output, aux, stats = layer(hidden, keys)
    tensors = [hidden, *layer.parameters()]
    gradients = torch.autograd.grad((output * cotangent).sum() + aux, tensors)
    return [output, aux, *gradients], stats


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("changes", [{}, {"moe_topk": 2}, {"num_shared_expert": 0}, {"convention": "hunyuan-a13b"}])
def test_the_operator_equals_the_plain_layer(kernels, device, policy, changes, monkeypatch):
    layer, hidden, keys = layer_of(policy, device, **changes)
    cotangent = torch.randn(T, D, device=device)
    monkeypatch.setattr(operator, "FUSED", False)
    expected, wanted = results(layer, hidden, keys, cotangent)
    monkeypatch.setattr(operator, "FUSED", True)
    monkeypatch.setattr(operator, "uses_triton", lambda tensor: True)
    with torch.autocast(device.type, torch.bfloat16):
        found, stats = results(layer, hidden, keys, cotangent)
    assert all(torch.equal(one, other) for one, other in zip(stats[1:], wanted[1:], strict=True))
    names = ["output", "aux", "hidden", *dict(layer.named_parameters())]
    for name, one, other in zip(names, found, expected, strict=True):
        assert one.isfinite().all() and relative(one, other) < 2e-2, name


def test_an_expert_without_rows_has_no_gradient(kernels, device, monkeypatch):
    layer, hidden, keys = layer_of("dropless", device)
    layer.router.weight.data.zero_()
    layer.router.weight.data[:, 0], hidden[:, 0] = torch.tensor([0.0, 9.0, 0.0, 0.0]), 1.0  # all tokens to one
    monkeypatch.setattr(operator, "uses_triton", lambda tensor: True)
    with torch.autocast(device.type, torch.bfloat16):
        output, _, stats = layer(hidden, keys)
    output.sum().backward()
    assert stats.tokens_per_expert.tolist() == [0, T, 0, 0]
    for parameter in (layer.experts.gate_up, layer.experts.down):
        assert parameter.grad[1].any() and not parameter.grad[[0, 2, 3]].any()


def test_the_operator_is_one_graph(kernels, device, monkeypatch):
    layer, hidden, keys = layer_of("recycle-1.25", device)
    monkeypatch.setattr(operator, "uses_triton", lambda tensor: True)
    cotangent, backend = torch.randn(T, D, device=device), "inductor" if device.type == "cuda" else "aot_eager"
    torch.compiler.reset()
    with torch.autocast(device.type, torch.bfloat16):
        expected, _ = results(layer, hidden, keys, cotangent)
        found, _ = results(torch.compile(layer, fullgraph=True, backend=backend), hidden, keys, cotangent)
    torch.compiler.reset()
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 1e-2
