"""The linear map of every projection: torch's own, or oneDNN's where that is the faster (model/layers/cpu.py)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import cpu


class Linear(nn.Linear):
    """hidden (..., D) -> (..., O)."""

    def forward(self, input: Tensor) -> Tensor:
        if not cpu.onednn_applies(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        output = cpu.linear(input, self.weight)
        return output if self.bias is None else output + self.bias


def matmul_dtype(tensor: Tensor) -> torch.dtype:
    """The precision in which products of this tensor are computed: autocast's where it is on, else its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
