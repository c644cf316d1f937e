"""RMS normalisation after an addition, by the kernels of model/kernels/rms_norm_triton.py, as an operator of torch.

`model.layers.norm.rms_normalize` of the sum is the oracle.
"""

from typing import Any

import torch
from torch import Tensor


def add_rms_norm(hidden: Tensor, addend: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """hidden, addend (..., D), weight (D,) -> their sum and the sum normalised, both in the precision of `hidden`."""
    total, output, _ = _add_rms_norm(hidden.contiguous(), addend.contiguous(), weight, eps)
    return total, output


@torch.library.custom_op("hunyuan::add_rms_norm", mutates_args=())
def _add_rms_norm(hidden: Tensor, addend: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    from model.kernels.rms_norm_triton import forward

    size = hidden.shape[-1]
    total, output, inverse = forward(hidden.view(-1, size), addend.view(-1, size), weight, eps)
    return total.view_as(hidden), output.view_as(hidden), inverse


@_add_rms_norm.register_fake
def _(hidden: Tensor, addend: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    rows = hidden.numel() // hidden.shape[-1]
    return torch.empty_like(hidden), torch.empty_like(hidden), hidden.new_empty(rows, dtype=torch.float32)


@torch.library.custom_op("hunyuan::add_rms_norm_backward", mutates_args=())
def _gradients(
    d_output: Tensor, d_total: Tensor | None, total: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    from model.kernels.rms_norm_triton import backward

    rows = total.view(-1, total.shape[-1])
    before = None if d_total is None else d_total.view_as(rows)
    d_hidden, d_weight = backward(d_output.view_as(rows), before, rows, weight, inverse)
    return d_hidden.view_as(total), d_weight


@_gradients.register_fake
def _(
    d_output: Tensor, d_total: Tensor | None, total: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(total), weight.new_empty(weight.shape, dtype=torch.float32)


def _backward(
    ctx: Any, d_total: Tensor | None, d_output: Tensor | None, _: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    total, weight, inverse = ctx.saved_tensors
    if d_output is None:
        return d_total, d_total, None, None
    d_total = None if d_total is None else d_total.contiguous()
    d_hidden, d_weight = _gradients(d_output.contiguous(), d_total, total, weight, inverse)
    return d_hidden, d_hidden, d_weight.to(weight.dtype), None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    total, _, inverse = output
    ctx.save_for_backward(total, inputs[2], inverse)
    ctx.set_materialize_grads(False)


_add_rms_norm.register_autograd(_backward, setup_context=_save)
