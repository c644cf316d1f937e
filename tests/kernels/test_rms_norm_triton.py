"""The kernels of the addition and the norm after it, against float64: the sum, the norm, every gradient."""

import pytest
import torch

from model.kernels import rms_norm

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2}  # of the norm of what is compared
SIZES = [(1, 1), (3, 24), (37, 100), (5, 1024), (2, 1025)]  # rows, values of a row
NAMES = ("sum", "normalised", "d_hidden", "d_addend", "d_weight")
EPS = 1e-5


def operands(rows, size, dtype, device):
    generator = torch.Generator().manual_seed(rows + size)
    values = [torch.randn(rows, size, generator=generator) for _ in range(4)]
    hidden, addend, d_total, d_output = (value.to(device, dtype) for value in values)
    weight = 1 + 0.5 * torch.randn(size, generator=generator)
    return hidden, addend, weight.to(device), d_total, d_output


def through(function, hidden, addend, weight, d_total, d_output):
    """What `function` gives, and the gradients by autograd; without d_total that of the normalised sum alone."""
    leaves = [value.detach().clone().requires_grad_() for value in (hidden, addend, weight)]
    outputs = function(*leaves)
    grads = (None, d_output) if d_total is None else (d_total, d_output)
    used = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    torch.autograd.backward([output for output, _ in used], [grad for _, grad in used])
    return *(output.detach() for output in outputs), *(leaf.grad for leaf in leaves)


def exact(dtype):
    """In float64, but for the sum, which is rounded once to the precision of the residual stream."""

    def function(hidden, addend, weight):
        total = hidden + addend
        total = total + (total.detach().to(dtype).double() - total.detach())
        return total, weight * total / (total.square().mean(-1, keepdim=True) + EPS).sqrt()

    return function


def compare(found, expected, dtype):
    for name, one, other in zip(NAMES, found, expected, strict=True):
        scale = max(other.double().norm(), 1.0)  # of one value alone the gradient is almost 0
        assert (one.double() - other.double()).norm() <= TOLERANCE[dtype] * scale, name


def kernel(hidden, addend, weight):
    return rms_norm.add_rms_norm(hidden, addend, weight, EPS)


@pytest.mark.parametrize("with_total", [True, False], ids=["residual", "norm-alone"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_sum_norm_and_gradients(device, rows, size, dtype, with_total):
    hidden, addend, weight, d_total, d_output = operands(rows, size, dtype, device)
    d_total = d_total if with_total else None
    found = through(kernel, hidden, addend, weight, d_total, d_output)
    doubles = [None if value is None else value.double() for value in (hidden, addend, weight, d_total, d_output)]
    compare(found, through(exact(dtype), *doubles), dtype)
    assert [value.dtype for value in found] == [dtype] * 4 + [torch.float32]


def test_more_rows_than_programs(kernels, device, monkeypatch):
    monkeypatch.setattr(kernels("rms_norm"), "PROGRAMS", 4)  # 11 rows: the last turn is not full
    values = operands(11, 48, torch.float32, device)
    oracle = through(exact(torch.float32), *(value.double() for value in values))
    compare(through(kernel, *values), oracle, torch.float32)


def test_nothing_is_read_beyond_a_row(kernels, device):
    """Rows of 24 in a tile of 32: behind the last row lies NaN."""
    hidden, addend, weight, d_total, d_output = (
        torch.cat((value.flatten(), value.new_full((64,), float("nan"))))[: value.numel()].view(value.shape)
        for value in operands(3, 24, torch.float32, device)
    )
    module = kernels("rms_norm")
    total, output, inverse = module.forward(hidden, addend, weight, EPS)
    found = module.backward(d_output, d_total, total, weight, inverse)
    assert all(value.isfinite().all() for value in (total, output, inverse, *found))


def test_the_operator_is_one_of_torch(device):
    """Its shapes, its gradients and its place in a graph, as torch checks them."""
    if device.type != "cuda":
        pytest.skip("an operator's schema is checked where its kernel runs by itself")
    hidden, addend, weight, _, _ = operands(5, 24, torch.float32, device)
    args = (hidden.requires_grad_(), addend.requires_grad_(), weight.requires_grad_(), EPS)
    torch.library.opcheck(torch.ops.hunyuan.add_rms_norm.default, args)


def test_in_a_compiled_graph(device):
    torch.compiler.reset()
    hidden, addend, weight, d_total, d_output = operands(6, 24, torch.float32, device)
    compiled = torch.compile(kernel, fullgraph=True, backend="aot_eager")
    compare(
        through(compiled, hidden, addend, weight, d_total, d_output),
        through(kernel, hidden, addend, weight, d_total, d_output),
        torch.float32,
    )
