"""The linear map of every projection: torch's own, or oneDNN's where that is the faster (model/kernels/onednn.py)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels import onednn

SMALL_WEIGHT = 1 << 16  # values; below it setting up a product in bfloat16 takes longer than casting the weight


class Linear(nn.Linear):
    """hidden (..., D) -> (..., O)."""

    def forward(self, input: Tensor) -> Tensor:
        return project(input, self.weight, self.bias)


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden (..., D), weight (O, D), bias (O,) -> (..., O)."""
    if not torch.is_grad_enabled() and hidden.numel() == hidden.shape[-1] and streams(hidden):
        output = product_of_a_row(hidden.reshape(-1), weight).view(*hidden.shape[:-1], -1)
    elif onednn.onednn_applies(hidden, weight):
        output = onednn.linear(hidden, weight)
    else:
        return F.linear(hidden, weight, bias)
    return output if bias is None else output + bias


def streams(hidden: Tensor) -> bool:
    """Whether a single row has a product of its own: on a processor, and wherever a program is compiled."""
    return hidden.device.type == "cpu" or torch.compiler.is_compiling()


def product_of_a_row(row: Tensor, weight: Tensor) -> Tensor:
    """row (D,), weight (O, D) -> (O,), where nothing is kept: each weight is read once, and that is all the time it takes."""
    if torch.compiler.is_compiling():  # one loop over the weight, with what stands around it inside
        return (weight.float() * row.float()).sum(dim=-1).to(row.dtype)
    if weight.numel() <= SMALL_WEIGHT:
        weight = weight.float()
    return torch.mv(weight, row.to(weight.dtype)).to(row.dtype)
