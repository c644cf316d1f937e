"""SwiGLU (Shazeer, arXiv:2002.05202), gate and up in one product. D hidden, F intermediate."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels import onednn
from model.layers.linear import Linear, project


def swiglu(gate_and_up: Tensor) -> Tensor:
    """(..., 2F) -> (..., F): silu of the first half times the second."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def swiglu_output(
    hidden: Tensor,
    gate_up: Tensor,
    down: Tensor,
    gate_up_scale: Tensor | None = None,
    down_scale: Tensor | None = None,
) -> Tensor:
    """hidden (N, D), gate_up (2F, D), down (D, F) -> (N, D): a dense block, or one expert; scales are those of int8 weights."""
    return project(swiglu(project(hidden, gate_up, scale=gate_up_scale)), down, scale=down_scale)


class SwiGLU(nn.Module):
    """hidden (..., D) -> (..., D): a dense block, or the experts that every token visits."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate_up, down = self.gate_up_proj.weight, self.down_proj.weight
        if torch.is_grad_enabled() and onednn.onednn_applies(hidden, gate_up):  # one expert that takes every row
            rows = hidden.reshape(-1, hidden.shape[-1])
            return onednn.swiglu_experts(rows, gate_up[None], down[None], torch.tensor([len(rows)])).view_as(hidden)
        return swiglu_output(hidden, gate_up, down, self.gate_up_proj.scale, self.down_proj.scale)
