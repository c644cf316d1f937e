"""The linear map of every projection: torch's own, or oneDNN's where that is the faster (model/layers/cpu.py)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import cpu


class Linear(nn.Linear):
    """hidden (..., D) -> (..., O)."""

    def forward(self, input: Tensor) -> Tensor:
        return project(input, self.weight, self.bias)


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden (..., D), weight (O, D), bias (O,) -> (..., O)."""
    if not cpu.onednn_applies(hidden, weight):
        return F.linear(hidden, weight, bias)
    output = cpu.linear(hidden, weight)
    return output if bias is None else output + bias


def matmul_dtype(tensor: Tensor) -> torch.dtype:
    """The precision in which products of this tensor are computed: autocast's where it is on, else its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
