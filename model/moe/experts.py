"""Routed experts: SwiGLUs with stacked weights, each over its own run of rows.

N rows sorted by expert, E experts, D hidden, F intermediate. `grouped_experts` is the path in use, `loop_experts` its oracle
(tests/oracles/test_experts.py). Float32 on a processor goes through oneDNN (model/kernels/onednn.py).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.device import matmul_dtype
from model.kernels import onednn
from model.layers.mlp import swiglu


class Experts(nn.Module):
    """hidden (N, D) sorted by expert, ends (E,) -> (N, D); rows after the last end are undefined."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, hidden: Tensor, ends: Tensor) -> Tensor:
        if onednn.onednn_applies(hidden, self.gate_up):
            return onednn.swiglu_experts(hidden, self.gate_up, self.down, ends)
        return grouped_experts(hidden, self.gate_up, self.down, ends)

    def weights(self, expert: int) -> tuple[Tensor, Tensor]:
        """Gate and up (2F, D), and down (D, F), of one expert."""
        return self.gate_up[expert], self.down[expert]


def grouped_experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """hidden (N, D), gate_up (E, 2F, D), down (E, D, F), ends (E,) int32 -> (N, D) by two grouped products."""
    dtype = matmul_dtype(hidden)
    hidden, gate_up, down = hidden.to(dtype), gate_up.to(dtype), down.to(dtype)
    activated = swiglu(F.grouped_mm(hidden, gate_up.transpose(1, 2), offs=ends))
    return F.grouped_mm(activated, down.transpose(1, 2), offs=ends)


def loop_experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """The same, one expert after the other in plain products: slow and obvious."""
    outputs, start = [], 0
    for expert, end in enumerate(ends.tolist()):
        outputs.append(swiglu(hidden[start:end] @ gate_up[expert].t()) @ down[expert].t())
        start = end
    outputs.append(torch.zeros_like(hidden[start:]))
    return torch.cat(outputs)
