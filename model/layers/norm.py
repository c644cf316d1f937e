"""Root-mean-square normalisation, computed in float32 whatever the precision around it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels.choice import uses_triton
from model.kernels.rms_norm import add_rms_norm

PART = 1 << 16  # values: a quarter of a MiB, of which three fit into the second cache of most processors


def rms_normalize(hidden: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """hidden (..., D) / rms over D, times weight (D,) where given; float32 inside, the input's precision outside."""
    weight = None if weight is None else weight.float()
    if in_parts(hidden):
        return _RMSNormInParts.apply(hidden, weight, eps)
    return F.rms_norm(hidden.float(), hidden.shape[-1:], weight, eps).to(hidden.dtype)


def in_parts(hidden: Tensor) -> bool:
    """Whether the passes of torch's norm, each over all rows, are replaced: in training on a processor without a compiler."""
    on_cpu = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    return on_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _RMSNormInParts(torch.autograd.Function):
    """The same, a part of the rows at a time, so that what one pass leaves is still in the cache for the next."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        inverse = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
        output = torch.empty_like(rows)
        for part in _parts(rows):
            torch.mul(rows[part], inverse[part], out=output[part])
            if weight is not None:
                output[part].mul_(weight)
        ctx.save_for_backward(rows, weight, inverse)
        return output.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """For normalised n = hidden / rms and its gradient g: (g - n * mean(g n)) / rms, and the sum of grad * n over rows."""
        rows, weight, inverse = ctx.saved_tensors
        grad, size = grads[0].reshape(rows.shape), rows.shape[-1]
        d_rows, d_weight = torch.empty_like(rows), None if weight is None else torch.zeros_like(weight)
        for part in _parts(rows):
            given, normalized = grad[part], rows[part] * inverse[part]
            product = given * normalized
            if weight is None or d_weight is None:
                mean = product.mean(dim=-1)
            else:
                d_weight += product.sum(dim=0)
                mean = torch.mv(product, weight).div_(size)
                given = torch.mul(given, weight, out=product)
            torch.sub(given, normalized.mul_(mean[:, None]), out=d_rows[part])
            d_rows[part].mul_(inverse[part])
        return d_rows.view(grads[0].shape), d_weight, None


def _parts(rows: Tensor) -> Iterator[slice]:
    step = max(1, PART // rows.shape[-1])
    return (slice(start, start + step) for start in range(0, len(rows), step))


class RMSNorm(nn.Module):
    """RMS normalisation with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return rms_normalize(hidden, self.eps, self.weight)

    def after_adding(self, hidden: Tensor, addend: Tensor) -> tuple[Tensor, Tensor]:
        """hidden + addend (..., D), and that normalised."""
        if uses_triton(hidden) and hidden.dtype == addend.dtype:
            return add_rms_norm(hidden, addend, self.weight, self.eps)
        total = hidden + addend
        return total, self(total)
