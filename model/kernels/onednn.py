"""Products of float32 tensors on a processor, through oneDNN, exact or with operands rounded to bfloat16.

torch sends a float32 product to MKL, which on processors of other makers than its own reaches only about three quarters
of what oneDNN does for the same shapes (`hunyuan bench train` measures the better of both). oneDNN's product has no
derivative in torch, so it is given here, for one weight and for a SwiGLU of stacked experts. Both are operators of their
own, so that torch.compile takes them as they are.

Under autocast oneDNN rounds the operands while it packs them for the processor's matrix units (its fpmath mode, which does so
for AMX alone), which sum in float32; the result stays float32. No tensor is cast: casts, and activations in bfloat16, took
what the faster products gave. Products too small to gain by it stay exact. On other processors autocast casts, as torch has it.

N rows, D in, O out, F intermediate, E experts.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL_WEIGHT = 1 << 15  # values; below it setting up oneDNN's product takes longer than MKL's whole product
WORK = 1 << 23  # multiplications; below it the rounding takes longer than the faster units save
ROWS = 32  # an expert's rows are filled up to a multiple of these where operands are rounded, and fewer are not
# Asked once: torch.compile does not trace the questions.
ONEDNN = torch.backends.mkldnn.is_available()
ROUNDS = ONEDNN and torch.cpu._is_amx_tile_supported()


def onednn_applies(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the functions below take these operands: float32 on the processor, under autocast where oneDNN rounds."""
    return hidden.device.type == "cpu" and hidden.dtype == weight.dtype == torch.float32 and ONEDNN and _autocast_fits()


def _autocast_fits() -> bool:
    return not torch.is_autocast_enabled("cpu") or (ROUNDS and torch.get_autocast_dtype("cpu") == torch.bfloat16)


def has_bfloat16_units() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32: with AMX several times, with AVX512-BF16 twice."""
    return ONEDNN and (ROUNDS or torch.cpu._is_avx512_bf16_supported())


def gains(rows: int, weight_values: int) -> bool:
    """Whether products of so many rows with such a weight, forward and backward, are faster with rounded operands."""
    return rows >= ROWS and rows * weight_values >= WORK


def of_autocast(rounded: bool, rows: int, weight_values: int) -> AbstractContextManager[object]:
    """Products with rounded operands where autocast has asked for them and they gain; autocast, which would cast, is off."""
    if rounded and gains(rows, weight_values):
        return _rounding()
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else contextlib.nullcontext()


@contextlib.contextmanager
def _rounding() -> Iterator[None]:
    """Has oneDNN round the operands of float32 products to bfloat16; torch.mm goes there for nothing else."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch puts it there at runtime
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        setting.fp32_precision = before


def linear(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden (..., D), weight (O, D) -> (..., O)."""
    rows, rounded = hidden.reshape(-1, hidden.shape[-1]), torch.is_autocast_enabled("cpu")
    output = _linear(rows, weight, rounded) if torch.is_grad_enabled() or rounded else product(rows, weight)
    return output.view(*hidden.shape[:-1], weight.shape[0])


def swiglu_experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """hidden (N, D) sorted by expert, gate_up (E, 2F, D), down (E, D, F), ends (E,) int -> (N, D).

    Expert e takes the rows from ends[e - 1] to ends[e]; rows after the last end belong to no expert and come out as 0.
    """
    output, _ = _swiglu(hidden, gate_up, down, ends, torch.is_autocast_enabled("cpu"))
    return output


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (N, D) times weight (O, D) transposed -> (N, O), without a derivative."""
    if weight.numel() <= SMALL_WEIGHT:
        return torch.mm(rows, weight.t())
    return torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")


@torch.library.custom_op("hunyuan::linear", mutates_args=())
def _linear(rows: Tensor, weight: Tensor, rounded: bool) -> Tensor:
    with of_autocast(rounded, len(rows), weight.numel()):
        return product(rows, weight)


@_linear.register_fake
def _(rows: Tensor, weight: Tensor, rounded: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


@torch.library.custom_op("hunyuan::linear_weight_gradient", mutates_args=())
def _weight_gradient(grad: Tensor, rows: Tensor, rounded: bool) -> Tensor:
    """It sums over rows; where nothing is rounded MKL is the better of the two there."""
    with of_autocast(rounded, len(rows), grad.shape[1] * rows.shape[1]):
        return grad.t() @ rows


@_weight_gradient.register_fake
def _(grad: Tensor, rows: Tensor, rounded: bool) -> Tensor:
    return rows.new_empty(grad.shape[1], rows.shape[1])


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, weight = ctx.saved_tensors
    needs_rows, needs_weight, _ = ctx.needs_input_grad
    return (
        _linear(grad, weight.t(), ctx.rounded) if needs_rows else None,
        _weight_gradient(grad, rows, ctx.rounded) if needs_weight else None,
        None,
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.rounded = inputs
    ctx.save_for_backward(*tensors)


_linear.register_autograd(_linear_backward, setup_context=_save_inputs)


def _runs(ends: Tensor) -> Iterator[tuple[int, slice]]:
    """Each expert with its rows, of which it may have none."""
    for expert, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        yield expert, slice(start, end)


def _padded(rows: Tensor) -> Tensor:
    """rows (N, D) and as many of zeros as a full multiple takes.

    oneDNN makes machine code for every number of rows that it has not seen, and each step has others. Zeros come out as zeros.
    """
    return F.pad(rows, (0, 0, 0, -len(rows) % ROWS)) if len(rows) % ROWS else rows


@torch.library.custom_op("hunyuan::swiglu_experts", mutates_args=())
def _swiglu(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
    """The output, and gate and up (N, 2F) for the backward pass; expert by expert."""
    output = hidden.new_zeros(hidden.shape[0], down.shape[1])
    gate_and_up = hidden.new_empty(hidden.shape[0], gate_up.shape[1])
    for expert, rows in _runs(ends):
        count, values = rows.stop - rows.start, gate_up[expert].numel()
        if not count:
            continue
        with of_autocast(rounded, count, values):
            if rounded and gains(count, values):
                both = product(_padded(hidden[rows]), gate_up[expert])
                gate_and_up[rows] = both[:count]
            else:
                both = torch.mm(hidden[rows], gate_up[expert].t(), out=gate_and_up[rows])
            gate, up = both.chunk(2, dim=-1)
            output[rows] = product(F.silu(gate).mul_(up), down[expert])[:count]
    return output, gate_and_up


@_swiglu.register_fake
def _(hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
    rows = hidden.shape[0]
    return hidden.new_empty(rows, down.shape[1]), hidden.new_empty(rows, gate_up.shape[1])


@torch.library.custom_op("hunyuan::swiglu_experts_backward", mutates_args=())
def _swiglu_gradients(
    grad: Tensor, hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor, gate_and_up: Tensor, rounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    d_hidden = torch.zeros_like(hidden)
    d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
    for expert, rows in _runs(ends):
        count, values = rows.stop - rows.start, gate_up[expert].numel()
        if not count:
            d_gate_up[expert].zero_(), d_down[expert].zero_()
            continue
        with of_autocast(rounded, count, values):
            taken = (tensor[rows] for tensor in (grad, hidden, gate_and_up))
            d_output, inputs, both = map(_padded, taken) if rounded and gains(count, values) else taken
            gate, up = both.chunk(2, dim=-1)
            activated = F.silu(gate)
            d_activated = product(d_output, down[expert].t())
            d_both = torch.empty_like(both)
            d_gate, d_up = d_both.chunk(2, dim=-1)
            torch.mul(d_activated, activated, out=d_up)
            torch.ops.aten.silu_backward.grad_input(d_activated.mul_(up), gate, grad_input=d_gate)
            torch.mm(d_output.t(), activated.mul_(up), out=d_down[expert])
            torch.mm(d_both.t(), inputs, out=d_gate_up[expert])
            d_hidden[rows] = product(d_both, gate_up[expert].t())[:count]
    return d_hidden, d_gate_up, d_down


@_swiglu_gradients.register_fake
def _(
    grad: Tensor, hidden: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor, gate_and_up: Tensor, rounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(gate_up), torch.empty_like(down)


def _swiglu_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    return *_swiglu_gradients(grad, *ctx.saved_tensors, ctx.rounded), None, None


def _save_gate_and_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.rounded = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


_swiglu.register_autograd(_swiglu_backward, setup_context=_save_gate_and_up)
