"""Root-mean-square normalisation, computed in float32 whatever the precision around it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels.choice import uses_triton
from model.kernels.rms_norm import add_rms_norm


def rms_normalize(hidden: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """hidden (..., D) / rms over D, times weight (D,) where given; float32 inside, the input's precision outside."""
    weight = None if weight is None else weight.float()
    return F.rms_norm(hidden.float(), hidden.shape[-1:], weight, eps).to(hidden.dtype)


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
