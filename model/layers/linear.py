"""The linear map of every projection: torch's own, or oneDNN's where that is the faster (model/kernels/onednn.py)."""

from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels import onednn


class Linear(nn.Linear):
    """hidden (..., D) -> (..., O)."""

    def forward(self, input: Tensor) -> Tensor:
        return project(input, self.weight, self.bias)


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden (..., D), weight (O, D), bias (O,) -> (..., O)."""
    if not onednn.onednn_applies(hidden, weight):
        return F.linear(hidden, weight, bias)
    output = onednn.linear(hidden, weight)
    return output if bias is None else output + bias
