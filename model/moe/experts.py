"""Routed experts: SwiGLUs with stacked weights, each over its own run of rows.

N rows sorted by expert, E experts, D hidden, F intermediate. `grouped_experts` is the path in use, `loop_experts` its oracle
(tests/oracles/test_experts.py). On a processor experts train through oneDNN where it takes them (model/kernels/onednn.py), and
where nothing is kept for a backward pass those that have rows take their turns, `in_turn`, in any precision.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.device import matmul_dtype
from model.kernels import onednn
from model.kernels.mixture import Mixture, mixture, mixture_applies
from model.layers.mlp import swiglu, swiglu_output

Weights = tuple[
    Tensor, ...
]  # of one expert: gate and up (2F, D), down (D, F); of int8 weights then their scales, (2F,) and (D,)


class Experts(nn.Module):
    """hidden (N, D) sorted by expert, ends (E,) -> (N, D); rows after the last end are undefined."""

    alone = True  # whether all experts are here (not so in model/parallel/exchange.py)
    gate_up_scale: Tensor | None  # (E, 2F) of int8 weights
    down_scale: Tensor | None  # (E, D)

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.register_buffer("gate_up_scale", None)
        self.register_buffer("down_scale", None)

    def forward(self, hidden: Tensor, ends: Tensor) -> Tensor:
        if reads_choices(hidden):
            return in_turn(hidden, ends, self.weights)
        return self.products(hidden, self.gate_up, self.down, ends)

    def products(self, hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
        """The same with given weights, (E, 2F, D) and (E, D, F), in the way that is the fastest here."""
        if onednn.onednn_applies(hidden, gate_up):
            return onednn.swiglu_experts(hidden, gate_up, down, ends)
        dtype = matmul_dtype(hidden)
        aligned = all(size * dtype.itemsize % 16 == 0 for size in down.shape[1:])
        # A grouped product of a processor wants rows of a multiple of 16 bytes.
        if hidden.device.type == "cpu" and not aligned and self.down_scale is None:
            return loop_experts(hidden.to(dtype), gate_up, down, ends)
        return grouped_experts(hidden, gate_up, down, ends, self.gate_up_scale, self.down_scale)

    def has_operator(self, hidden: Tensor) -> bool:
        """Whether `mixture` is there for these tokens (T, D)."""
        return mixture_applies(hidden, self.gate_up)

    def mixture(
        self,
        hidden: Tensor,
        router_weight: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
        place_order: Tensor | None,
        *,
        top_k: int,
        capacity: int | None,
        sum_to_one: bool,
    ) -> Mixture:
        """The whole layer around these experts, by the kernels of a GPU (model/kernels/mixture.py)."""
        weights = self.gate_up, self.down
        routing = bias, place_order
        return mixture(
            hidden, router_weight, weights, shared, *routing, top_k=top_k, capacity=capacity, sum_to_one=sum_to_one
        )

    def weights(self, expert: int | Tensor) -> Weights:
        """Of one expert, by its number or by a tensor (1,) that holds it: a compiled program reads them where they lie."""
        stacks: list[Tensor] = [self.gate_up, self.down]
        if self.gate_up_scale is not None and self.down_scale is not None:
            stacks += [self.gate_up_scale, self.down_scale]
        if isinstance(expert, int):
            return tuple([stack[expert] for stack in stacks])
        return tuple([stack.index_select(0, expert)[0] for stack in stacks])


def reads_choices(hidden: Tensor) -> bool:
    """The one switch of a processor that answers: the host is the device, so it may look which experts were chosen."""
    return hidden.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_turn(hidden: Tensor, ends: Tensor, weights: Callable[[int], Weights]) -> Tensor:
    """hidden (N, D) sorted by expert, ends (E,) -> (N, D), one expert after the other; rows after the last end are 0."""
    output = torch.zeros_like(hidden)
    for expert, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if start < end:
            output[start:end] = swiglu_output(hidden[start:end], *weights(expert))
    return output


def of_one_token(
    hidden: Tensor, experts: Sequence[int | Tensor], expert_weight: Tensor, weights: Callable[[int | Tensor], Weights]
) -> Tensor:
    """hidden (1, D), expert_weight (1, K) -> (1, D): the weighted sum over its K experts, with nothing to sort."""
    first, *others = expert_weight.to(hidden.dtype).split(1, dim=1)
    output = swiglu_output(hidden, *weights(experts[0])) * first
    for expert, weight in zip(experts[1:], others, strict=True):
        output = torch.addcmul(output, swiglu_output(hidden, *weights(expert)), weight)
    return output


def grouped_experts(
    hidden: Tensor,
    gate_up: Tensor,
    down: Tensor,
    ends: Tensor,
    gate_up_scale: Tensor | None = None,
    down_scale: Tensor | None = None,
) -> Tensor:
    """hidden (N, D), gate_up (E, 2F, D), down (E, D, F), ends (E,) int32 -> (N, D) by two grouped products.

    gate_up_scale (E, 2F) and down_scale (E, D) are those of int8 weights, whose integers are exact in bfloat16.
    """
    dtype = matmul_dtype(hidden)
    hidden, gate_up, down = hidden.to(dtype), gate_up.to(dtype), down.to(dtype)
    both = F.grouped_mm(hidden, gate_up.transpose(1, 2), offs=ends)
    if gate_up_scale is None or down_scale is None:
        return F.grouped_mm(swiglu(both), down.transpose(1, 2), offs=ends)
    row = torch.arange(len(hidden), device=hidden.device, dtype=ends.dtype)
    expert = torch.searchsorted(ends, row, right=True).clamp(max=len(ends) - 1)  # of every row
    both = (both * gate_up_scale[expert]).to(dtype)
    output = F.grouped_mm(swiglu(both), down.transpose(1, 2), offs=ends)
    return (output * down_scale[expert]).to(dtype)


def loop_experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """The same, one expert after the other in plain products: slow and obvious."""
    outputs, start = [], 0
    for expert, end in enumerate(ends.tolist()):
        outputs.append(swiglu(hidden[start:end] @ gate_up[expert].t()) @ down[expert].t())
        start = end
    outputs.append(torch.zeros_like(hidden[start:]))
    return torch.cat(outputs)
