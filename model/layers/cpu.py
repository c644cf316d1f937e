"""Float32 products on a processor, through oneDNN.

torch sends a float32 product to MKL, which on processors of other makers than its own reaches only about three quarters
of what oneDNN does for the same shapes (`hunyuan bench train` prints both ceilings). oneDNN's product has no derivative
in torch, so it is given here, for one weight and for a SwiGLU of stacked experts.

N rows, D in, O out, F intermediate, E experts.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def onednn_applies(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the functions below take these operands: plain float32 on the processor, outside autocast and compilation."""
    return (
        not torch.compiler.is_compiling()
        and hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (N, D) times weight (O, D) transposed -> (N, O), without a derivative."""
    if rows.numel() == 0:
        return rows.new_zeros(rows.shape[0], weight.shape[0])
    return torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return product(hidden, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grads
        hidden, weight = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad
        # The weight's gradient sums over rows; MKL is the better of the two there.
        return (product(grad, weight.t()) if needs_hidden else None, grad.t() @ hidden if needs_weight else None)


class _SwiGLUExperts(torch.autograd.Function):
    """down(silu(gate) * up) for each expert's rows in turn, small enough to stay in cache between the two products."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate_up: Tensor, down: Tensor, ends: tuple[int, ...]) -> Tensor:
        output = hidden.new_zeros(hidden.shape[0], down.shape[1])
        kept = []
        for expert, (start, end) in enumerate(pairwise((0, *ends))):
            if start == end:
                continue
            gate_and_up = product(hidden[start:end], gate_up[expert])
            gate, up = gate_and_up.chunk(2, dim=-1)
            output[start:end] = product(F.silu(gate).mul_(up), down[expert])
            kept.append(gate_and_up)
        ctx.save_for_backward(hidden, gate_up, down, *kept)
        ctx.ends = ends
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad,) = grads
        hidden, gate_up, down, *saved = ctx.saved_tensors
        # An expert without a token has a gradient of zero; only its own slice must be cleared.
        d_hidden = torch.empty_like(hidden)
        d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
        kept = iter(saved)
        for expert, (start, end) in enumerate(pairwise((0, *ctx.ends))):
            if start == end:
                d_gate_up[expert].zero_()
                d_down[expert].zero_()
                continue
            rows, gate_and_up = slice(start, end), next(kept)
            gate, up = gate_and_up.chunk(2, dim=-1)
            activated = F.silu(gate)
            d_act = product(grad[rows], down[expert].t())
            d_gate_and_up = torch.empty_like(gate_and_up)
            d_gate, d_up = d_gate_and_up.chunk(2, dim=-1)
            torch.mul(d_act, activated, out=d_up)
            torch.ops.aten.silu_backward.grad_input(d_act.mul_(up), gate, grad_input=d_gate)
            torch.mm(grad[rows].t(), activated.mul_(up), out=d_down[expert])
            torch.mm(d_gate_and_up.t(), hidden[rows], out=d_gate_up[expert])
            d_hidden[rows] = product(d_gate_and_up, gate_up[expert].t())
        d_hidden[ctx.ends[-1] :] = 0
        return d_hidden, d_gate_up, d_down, None


def linear(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden (..., D), weight (O, D) -> (..., O)."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    return _Linear.apply(rows, weight).view(*hidden.shape[:-1], weight.shape[0])


def swiglu_experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: list[int]) -> Tensor:
    """hidden (N, D) sorted by expert, gate_up (E, 2F, D), down (E, D, F) -> (N, D).

    Expert e takes the rows from ends[e - 1] to ends[e]; rows after the last end belong to no expert and come out as 0.
    """
    return _SwiGLUExperts.apply(hidden, gate_up, down, tuple(ends))
