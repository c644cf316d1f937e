"""Float32 products whose operands oneDNN rounds to bfloat16, against the same rounding written out in float64.

Only AMX units have oneDNN round. Elsewhere autocast casts, which tests/oracles/test_experts.py holds.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.kernels import onednn
from model.kernels.cross_entropy import linear_cross_entropy
from model.layers.attention import SMALL_HEAD, causal_attention
from model.layers.linear import Linear
from model.moe.experts import Experts, loop_experts

pytestmark = pytest.mark.usefixtures("every_product_gains")
rounding_units = pytest.mark.skipif(not onednn.ROUNDS, reason="this processor has no AMX units")
WORK = onednn.WORK
SETTING = torch.backends.mkldnn.matmul


@pytest.fixture
def every_product_gains(monkeypatch):
    """Also those of these sizes; but for a few rows."""
    monkeypatch.setattr(onednn, "WORK", 0)


def rounded(tensor):
    return tensor.detach().bfloat16().double()


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def relative(found, expected):
    assert found.dtype == torch.float32 and found.isfinite().all()
    return (found.double() - expected).norm() / expected.norm().clamp(min=1e-12)


@rounding_units
@pytest.mark.parametrize("rows", [1, 33, 130])
@pytest.mark.parametrize(("inner", "outer"), [(40, 56), (192, 200)], ids=["small", "large"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_linear_map_and_its_gradients(rows, inner, outer, transposed):
    """A single row is too few to round."""
    generator = torch.Generator().manual_seed(rows)
    hidden, weight, grad = (
        torch.randn(size, generator=generator) for size in ((rows, inner), (outer, inner), (rows, outer))
    )
    if transposed:
        hidden, weight, grad = (tensor.t().contiguous().t() for tensor in (hidden, weight, grad))
    hidden.requires_grad_(), weight.requires_grad_()
    with autocast():
        output = onednn.linear(hidden, weight)
    found = [output, *torch.autograd.grad(output, (hidden, weight), grad)]
    h, w, g = (rounded(t) if rows > 1 else t.detach().double() for t in (hidden, weight, grad))
    for one, expected in zip(found, (h @ w.t(), g @ w, g.t() @ h), strict=True):
        assert relative(one, expected) < 1e-5


def rounded_swiglu(hidden, gate_up, down, grad):
    """One expert's output and its gradients, in float64 but for the rounding of operands, if they are of enough rows."""
    round_ = rounded if len(hidden) >= onednn.ROWS else lambda tensor: tensor.detach().double()
    x, w, v, g = map(round_, (hidden, gate_up, down, grad))
    gate, up = (x @ w.t()).chunk(2, dim=-1)
    share = gate.sigmoid()
    activated = gate * share
    d_activated = g @ v
    d_gate = d_activated * up * (share + activated * (1 - share))
    d_both = round_(torch.cat((d_gate, d_activated * activated), dim=-1))
    inner = round_(activated * up)
    return inner @ v.t(), d_both @ w, d_both.t() @ x, g.t() @ inner


ENDS = {  # of 150 rows: multiples of onednn.ROWS, none, few, and rows that belong to nobody
    "uneven": [64, 64, 97, 150],
    "few": [1, 32, 63, 96],
    "full": [64, 128, 128, 128],
    "one expert": [0, 0, 0, 150],
    "nobody": [0, 0, 0, 0],
}


@rounding_units
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("width", "inner"), [(24, 40), (37, 33), (192, 200)])
def test_experts_and_their_gradients(ends, width, inner):
    """Rows of nobody hold NaN on the way in and must not be read."""
    generator = torch.Generator().manual_seed(ends[2])
    hidden, grad = torch.randn(150, width, generator=generator), torch.randn(width, 150, generator=generator).t()
    gate_up = torch.randn(4, 2 * inner, width, generator=generator, requires_grad=True)
    down = torch.randn(4, width, inner, generator=generator, requires_grad=True)
    hidden[ends[-1] :], grad[ends[-1] :] = torch.nan, torch.nan
    hidden.requires_grad_()
    with autocast():
        output = onednn.swiglu_experts(hidden, gate_up, down, torch.tensor(ends))
    d_hidden, d_gate_up, d_down = torch.autograd.grad(output, (hidden, gate_up, down), grad)
    assert (output[ends[-1] :] == 0).all() and (d_hidden[ends[-1] :] == 0).all()
    start = 0
    for expert, end in enumerate(ends):
        rows = slice(start, end)
        expected = rounded_swiglu(hidden[rows], gate_up[expert], down[expert], grad[rows])
        found = output[rows], d_hidden[rows], d_gate_up[expert], d_down[expert]
        assert all(relative(*pair) < 1e-3 for pair in zip(found, expected, strict=True))
        start = end


@rounding_units
@pytest.mark.parametrize(("rows", "rounds"), [(WORK // (192 * 200), False), (WORK // (192 * 200) + 1, True)])
def test_small_products_stay_exact(monkeypatch, rows, rounds):
    monkeypatch.setattr(onednn, "WORK", WORK)
    hidden, weight, grad = torch.randn(rows, 192), torch.randn(200, 192), torch.randn(rows, 200)
    tensors = hidden.requires_grad_(), weight.requires_grad_()
    with autocast():
        output = onednn.linear(*tensors)
    found = [output, *torch.autograd.grad(output, tensors, grad)]
    h, w, g = hidden.double(), weight.double(), grad.double()
    for one, expected in zip(found, (h @ w.t(), g @ w, g.t() @ h), strict=True):
        assert (relative(one, expected) > 1e-4) == rounds


@rounding_units
def test_the_loss_and_its_gradients():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, generator=generator).requires_grad_() for size in ((130, 48), (300, 48)))
    labels = torch.randint(300, (130,), generator=generator)
    labels[::7] = -100
    with autocast():
        loss = linear_cross_entropy(hidden, weight, labels)
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    h, w = rounded(hidden), rounded(weight)
    expected = F.cross_entropy(h @ w.t(), labels)
    assert relative(loss, expected) < 1e-6
    logits = (h @ w.t()).requires_grad_()
    (d_logits,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    d_logits = rounded(d_logits)
    assert relative(d_hidden, d_logits @ w) < 1e-4
    assert relative(d_weight, d_logits.t() @ h) < 1e-4


@pytest.mark.parametrize("works", [True, False])
def test_the_setting_is_left_as_it_was(works):
    before = SETTING.fp32_precision
    with autocast():
        if works:
            onednn.linear(torch.ones(3, 4), torch.ones(5, 4))
        else:
            with pytest.raises(RuntimeError):
                onednn.linear(torch.ones(3, 4), torch.ones(5, 6))
        assert torch.is_autocast_enabled("cpu")
    assert SETTING.fp32_precision == before


def test_products_outside_autocast_stay_exact():
    hidden, weight = torch.randn(130, 192), torch.randn(200, 192)
    with autocast():
        Linear(192, 200)(hidden)
    for found in (onednn.linear(hidden, weight.requires_grad_()), hidden @ weight.t()):
        assert relative(found.detach(), hidden.double() @ weight.detach().double().t()) < 1e-6


@pytest.mark.parametrize(("rounds", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_what_a_layer_makes_under_autocast(monkeypatch, rounds, dtype):
    """Where oneDNN rounds, nothing is cast; elsewhere torch casts."""
    monkeypatch.setattr(onednn, "ROUNDS", rounds)
    with autocast():
        assert Linear(8, 16)(torch.ones(3, 8)).dtype == dtype
        assert onednn.onednn_applies(torch.ones(3, 8), torch.ones(16, 8)) == rounds
    with torch.autocast("cpu", torch.float16):
        assert not onednn.onednn_applies(torch.ones(3, 8), torch.ones(16, 8))


@pytest.mark.parametrize(("width", "inner"), [(24, 40), (5, 3), (24, 3), (5, 40)])
def test_experts_of_any_size_under_autocast_that_casts(monkeypatch, width, inner):
    """The grouped product wants rows of a multiple of 16 bytes: a model that trains in float32 should train in bfloat16."""
    monkeypatch.setattr(onednn, "ROUNDS", False)
    experts, ends = Experts(3, width, inner), torch.tensor([4, 4, 11], dtype=torch.int32)
    nn.init.normal_(experts.gate_up), nn.init.normal_(experts.down)
    hidden, grad = torch.randn(11, width, requires_grad=True), torch.randn(11, width)
    tensors = hidden, experts.gate_up, experts.down
    expected = torch.autograd.grad(loop_experts(*tensors, ends), tensors, grad)
    with autocast():
        output = experts(hidden, ends)
    assert output.dtype == torch.bfloat16
    for one, other in zip(torch.autograd.grad(output, tensors, grad.bfloat16()), expected, strict=True):
        assert (one - other).norm() < 3e-2 * other.norm()


@pytest.mark.parametrize(("size", "exact"), [(SMALL_HEAD // 2, True), (SMALL_HEAD, False)])
def test_small_heads_attend_in_float32(size, exact):
    queries, keys, values = torch.randn(3, 2, 4, 9, size)
    expected = causal_attention(queries, keys, values)
    with autocast():
        found = causal_attention(queries, keys, values)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected) == exact
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
