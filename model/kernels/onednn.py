"""Float32 products on a processor, through oneDNN.

torch sends a float32 product to MKL, which on processors of other makers than its own reaches only about three quarters
of what oneDNN does for the same shapes (`hunyuan bench train` measures the better of both). oneDNN's product has no
derivative in torch, so it is given here, for one weight and for a SwiGLU of stacked experts. Both are operators of their
own, so that torch.compile takes them as they are.

N rows, D in, O out, F intermediate, E experts.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL_WEIGHT = 1 << 15  # values; below it setting up oneDNN's product takes longer than MKL's whole product
ONEDNN = torch.backends.mkldnn.is_available()  # asked once: torch.compile does not trace the question


def onednn_applies(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the functions below take these operands: plain float32 on the processor, outside autocast."""
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and ONEDNN
        and not torch.is_autocast_enabled("cpu")
    )


def linear(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden (..., D), weight (O, D) -> (..., O)."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    output = _linear(rows, weight) if torch.is_grad_enabled() else product(rows, weight)
    return output.view(*hidden.shape[:-1], weight.shape[0])


def swiglu_experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """hidden (N, D) sorted by expert, gate_up (E, 2F, D), down (E, D, F), ends (E,) int -> (N, D).

    Expert e takes the rows from ends[e - 1] to ends[e]; rows after the last end belong to no expert and come out as 0.
    """
    output, _ = _swiglu(hidden, gate_up, down, ends)
    return output


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (N, D) times weight (O, D) transposed -> (N, O), without a derivative."""
    if weight.numel() <= SMALL_WEIGHT:
        return torch.mm(rows, weight.t())
    return torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")


@torch.library.custom_op("hunyuan::linear", mutates_args=())
def _linear(rows: Tensor, weight: Tensor) -> Tensor:
    return product(rows, weight)


@_linear.register_fake
def _(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    rows, weight = ctx.saved_tensors
    needs_rows, needs_weight = ctx.needs_input_grad
    # The weight's gradient sums over rows; MKL is the better of the two there.
    return (_linear(grad, weight.t()) if needs_rows else None, grad.t() @ rows if needs_weight else None)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


_linear.register_autograd(_linear_backward, setup_context=_save_inputs)


def _runs(ends: Tensor) -> Iterator[tuple[int, slice]]:
    """Each expert that has rows, with its rows."""
    for expert, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if start < end:
            yield expert, slice(start, end)


@torch.library.custom_op("hunyuan::swiglu_experts", mutates_args=())
def _swiglu(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and gate and up (N, 2F) for the backward pass; expert by expert."""
    output = hidden.new_zeros(hidden.shape[0], down.shape[1])
    gate_and_up = hidden.new_empty(hidden.shape[0], gate_up.shape[1])
    for expert, rows in _runs(ends):
        both = torch.mm(hidden[rows], gate_up[expert].t(), out=gate_and_up[rows])
        gate, up = both.chunk(2, dim=-1)
        output[rows] = product(F.silu(gate).mul_(up), down[expert])
    return output, gate_and_up


@_swiglu.register_fake
def _(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    rows = hidden.shape[0]
    return hidden.new_empty(rows, down.shape[1]), hidden.new_empty(rows, gate_up.shape[1])


@torch.library.custom_op("hunyuan::swiglu_experts_backward", mutates_args=())
def _swiglu_gradients(
    grad: Tensor, hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor, gate_and_up: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    d_hidden = torch.zeros_like(hidden)
    d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
    starved = torch.diff(ends, prepend=ends.new_zeros(1)) == 0
    d_gate_up[starved], d_down[starved] = 0, 0  # without a row an expert has no gradient
    for expert, rows in _runs(ends):
        gate, up = gate_and_up[rows].chunk(2, dim=-1)
        activated = F.silu(gate)
        d_activated = product(grad[rows], down[expert].t())
        d_both = torch.empty_like(gate_and_up[rows])
        d_gate, d_up = d_both.chunk(2, dim=-1)
        torch.mul(d_activated, activated, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_activated.mul_(up), gate, grad_input=d_gate)
        torch.mm(grad[rows].t(), activated.mul_(up), out=d_down[expert])
        torch.mm(d_both.t(), hidden[rows], out=d_gate_up[expert])
        d_hidden[rows] = product(d_both, gate_up[expert].t())
    return d_hidden, d_gate_up, d_down


@_swiglu_gradients.register_fake
def _(
    grad: Tensor, hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor, gate_and_up: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(gate_up), torch.empty_like(down)


def _swiglu_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    hidden, gate_up, down, ends, gate_and_up = ctx.saved_tensors
    return *_swiglu_gradients(grad, hidden, gate_up, down, ends, gate_and_up), None


def _save_gate_and_up(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


_swiglu.register_autograd(_swiglu_backward, setup_context=_save_gate_and_up)
