"""The linear map of every projection: torch's own, or oneDNN's where that is the faster (model/kernels/onednn.py)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels import onednn
from model.layers.int8 import project_int8

SMALL_WEIGHT = 1 << 16  # values; below it setting up a product in bfloat16 takes longer than casting the weight


class Linear(nn.Linear):
    """hidden (..., D) -> (..., O)."""

    scale: Tensor | None  # (O,) of int8 weights (model/layers/int8.py)

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.register_buffer("scale", None)

    def forward(self, input: Tensor) -> Tensor:
        return project(input, self.weight, self.bias, self.scale)


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """hidden (..., D), weight (O, D), bias (O,) -> (..., O); `scale` (O,) is that of an int8 weight."""
    if scale is not None:
        output = project_int8(hidden, weight, scale)
    elif not torch.is_grad_enabled() and hidden.numel() == hidden.shape[-1] and streams(hidden):
        output = product_of_a_row(hidden.reshape(-1), weight).view(*hidden.shape[:-1], -1)
    elif onednn.onednn_applies(hidden, weight):
        output = onednn.linear(hidden, weight)
    else:
        return F.linear(hidden, weight, bias)
    return output if bias is None else output + bias


def project_together(hidden: Tensor, layers: Sequence[Linear]) -> Sequence[Tensor]:
    """What each of the layers, all with a bias or none, makes of hidden (..., D): (..., O) of each."""
    aligned = all(layer.out_features % 8 == 0 for layer in layers)  # else a part of the gradient starts off 16 bytes
    if len(layers) == 1 or not aligned or not stacks(hidden):
        return [layer(hidden) for layer in layers]
    return project_stacked(hidden, layers).split([layer.out_features for layer in layers], dim=-1)


def project_stacked(hidden: Tensor, layers: Sequence[Linear]) -> Tensor:
    """The same side by side, by one product: (..., sum of O)."""
    if len(layers) == 1:
        output: Tensor = layers[0](hidden)
        return output
    weight = torch.cat(tuple(layer.weight for layer in layers))
    bias = None if layers[0].bias is None else torch.cat(tuple(layer.bias for layer in layers))
    return F.linear(hidden, weight, bias)


def stacks(hidden: Tensor) -> bool:
    """Whether layers that read the same rows share one product: in training on a GPU, which a narrow one leaves half idle.

    Their weights are copied for it, which is little against the rows of a training step and much against those of decoding.
    """
    return hidden.is_cuda and torch.is_grad_enabled()


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
