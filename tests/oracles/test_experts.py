"""The experts' fast paths against the plain loop over experts: outputs and every gradient, at awkward sizes.

Cotangents are random: torch refuses the stride-0 gradient of a sum in the grouped product's backward.
"""

import pytest
import torch
from torch.nn import functional as F

from model.kernels import onednn
from model.layers.mlp import SwiGLU
from model.moe.experts import Experts, grouped_experts, loop_experts

D, FF = 24, 40  # the grouped product wants rows of a multiple of 16 bytes; the loop and oneDNN take any
CASES = {  # rows, and where each expert's end
    "even": (12, [3, 6, 9, 12]),
    "uneven": (37, [1, 20, 21, 37]),
    "first-and-last-empty": (9, [0, 5, 9, 9]),
    "one-row": (1, [0, 0, 1, 1]),
    "one-expert-has-all": (17, [0, 17, 17, 17]),
    "rows-after-the-end": (19, [3, 3, 10, 14]),
    "all-dropped": (5, [0, 0, 0, 0]),
}
every_case = pytest.mark.parametrize(("rows", "ends"), CASES.values(), ids=CASES)


def relative(error, reference):
    return (error.double() - reference.double()).norm() / reference.double().norm().clamp(min=1e-12)


def operands(rows, width=D, inner=FF, dtype=torch.float32, experts=4):
    generator = torch.Generator().manual_seed(rows)
    shapes = (rows, width), (experts, 2 * inner, width), (experts, width, inner)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def results(function, tensors, cotangent):
    """The output and the gradient of each operand."""
    output = function(*tensors)
    return [output, *torch.autograd.grad(output, tensors, cotangent.to(output.dtype))]


def masked(function, ends):
    """`function` with rows after the last end cut off on both sides, as dispatch and combine do."""

    def run(hidden, gate_up, down):
        kept = (torch.arange(len(hidden)) < ends[-1])[:, None]
        output = function(torch.where(kept, hidden, 0), gate_up, down, torch.tensor(ends, dtype=torch.int32))
        return torch.where(kept, output, 0)

    return run


def assert_same(found, expected, bound):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.isfinite().all()
        assert relative(one, other) < bound


@every_case
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
def test_grouped_product_equals_the_float32_loop(rows, ends, dtype, bound):
    tensors, cotangent = operands(rows, dtype=dtype), torch.randn(rows, D)
    expected = results(masked(loop_experts, ends), [t.detach().float().requires_grad_() for t in tensors], cotangent)
    found = results(masked(grouped_experts, ends), tensors, cotangent)
    assert {t.dtype for t in found} == {dtype}
    assert_same(found, expected, bound)


@every_case
@pytest.mark.parametrize(("width", "inner"), [(D, FF), (5, 3), (1, 7)])
def test_onednn_experts_equal_the_loop(rows, ends, width, inner):
    """The cotangent lies in memory the other way round: kernels must not assume contiguous gradients."""
    tensors, cotangent = operands(rows, width, inner), torch.randn(width, rows).t()
    expected = results(masked(loop_experts, ends), tensors, cotangent)
    found = results(lambda *t: onednn.swiglu_experts(*t, torch.tensor(ends)), tensors, cotangent)
    assert (found[0][ends[-1] :] == 0).all()
    assert_same(found, expected, 1e-5)


@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize("transposed", [False, True])
def test_onednn_linear_equals_torch(shape, transposed):
    hidden, weight, cotangent = torch.randn(shape), torch.randn(11, 5), torch.randn(*shape[:-1], 11)
    if transposed:
        hidden, weight, cotangent = (t.mT.contiguous().mT for t in (hidden, weight, cotangent))
    tensors = [hidden.requires_grad_(), weight.requires_grad_()]
    assert_same(results(onednn.linear, tensors, cotangent), results(F.linear, tensors, cotangent), 1e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_onednn_linear_with_one_frozen_operand(frozen):
    tensors, cotangent = [torch.randn(4, 3), torch.randn(2, 3)], torch.randn(4, 2)
    tensors[1 - frozen].requires_grad_()
    onednn.linear(*tensors).backward(cotangent)
    assert tensors[frozen].grad is None
    expected = cotangent @ tensors[1] if frozen == 1 else cotangent.t() @ tensors[0]
    torch.testing.assert_close(tensors[1 - frozen].grad, expected)


def test_a_dense_block_is_one_expert_with_every_row():
    """SwiGLU written out: down(silu(gate x) * up x), through oneDNN in float32 and through torch in float64."""
    mlp, hidden = SwiGLU(6, 10), torch.randn(2, 3, 6)
    gate, up = mlp.gate_up_proj.weight.double().chunk(2)
    x = hidden.double()
    inner = (x @ gate.t()) * (x @ gate.t()).sigmoid() * (x @ up.t())
    expected = inner @ mlp.down_proj.weight.double().t()
    torch.testing.assert_close(mlp(hidden).double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mlp.double()(x), expected)


@pytest.mark.parametrize("rounds", [True, False])
def test_which_path_an_expert_takes(monkeypatch, rounds):
    """Float32 goes to oneDNN, under autocast where oneDNN rounds; everything else to the grouped product."""
    monkeypatch.setattr(onednn, "ROUNDS", rounds)
    experts, taken = Experts(2, 8, 8), []
    torch.nn.init.normal_(experts.gate_up), torch.nn.init.normal_(experts.down)
    monkeypatch.setattr(onednn, "swiglu_experts", lambda hidden, *_: taken.append("onednn"))
    monkeypatch.setattr("model.moe.experts.grouped_experts", lambda hidden, *_: taken.append("grouped"))
    hidden, ends = torch.randn(4, 8), torch.tensor([2, 4], dtype=torch.int32)
    experts(hidden, ends)
    with torch.autocast("cpu", torch.bfloat16):
        experts(hidden, ends)
    experts(hidden.bfloat16(), ends)
    assert taken == ["onednn", "onednn" if rounds else "grouped", "grouped"]


def test_autocast_computes_experts_in_bfloat16():
    tensors, ends = operands(12), torch.tensor([3, 6, 9, 12], dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):
        output = grouped_experts(*tensors, ends)
    assert output.dtype == torch.bfloat16
    assert relative(output, loop_experts(*tensors, ends)) < 2e-2
