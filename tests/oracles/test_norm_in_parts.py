"""RMS normalisation a part of the rows at a time, against torch's in float64: output and every gradient."""

import pytest
import torch
from torch.nn import functional as F

from model.layers import norm

SHAPES = [(1, 3), (7, 5), (2, 9, 3, 16), (0, 8), (3, 300)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("part", [1, 40, 1 << 16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_output_and_gradients(monkeypatch, shape, weighted, part, scale):
    """The hidden states and the cotangent lie in memory the other way round."""
    monkeypatch.setattr(norm, "PART", part)
    generator = torch.Generator().manual_seed(len(shape))
    hidden, grad = (torch.randn(shape[::-1], generator=generator).permute(*range(len(shape))[::-1]) for _ in range(2))
    hidden = (hidden * scale).requires_grad_()
    weight = torch.randn(shape[-1], generator=generator).requires_grad_() if weighted else None
    tensors = (hidden, weight) if weighted else (hidden,)
    assert norm.in_parts(hidden)
    output = norm.rms_normalize(hidden, 1e-5, weight)
    found = [output, *torch.autograd.grad(output, tensors, grad)]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected_output = F.rms_norm(exact[0], shape[-1:], exact[1] if weighted else None, 1e-5)
    expected = [expected_output, *torch.autograd.grad(expected_output, exact, grad.double())]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and one.shape == other.shape
        torch.testing.assert_close(
            one.double(), other, rtol=1e-4, atol=1e-5 * max(other.abs().flatten().tolist(), default=0)
        )


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_of_both_may_need_no_gradient(frozen):
    tensors = [torch.randn(4, 6), torch.randn(6)]
    tensors[1 - frozen].requires_grad_()
    norm.rms_normalize(tensors[0], 1e-5, tensors[1]).sum().backward()
    assert tensors[frozen].grad is None and tensors[1 - frozen].grad.isfinite().all()


def test_answers_and_other_precisions_keep_torchs_own():
    hidden = torch.ones(2, 4)
    assert norm.in_parts(hidden) and not norm.in_parts(hidden.bfloat16()) and not norm.in_parts(hidden.double())
    with torch.no_grad():
        assert not norm.in_parts(hidden)
