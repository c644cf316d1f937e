"""A processor that keeps for the backward pass what an accelerator keeps: for tests that count memory.

Products go past oneDNN, and RMS norm is one operation that keeps its input and 1 / rms, as the fused kernel does, where the
processor's keeps the normalised values as well.
"""

import types

import torch
from torch.utils._python_dispatch import _disable_current_modes

from model.device import matmul_dtype
from model.kernels import cross_entropy as loss
from model.kernels import mixture
from model.layers import attention, linear, norm


class FusedRMSNorm(torch.autograd.Function):
    """torch.ops.aten._fused_rms_norm of an accelerator by what it keeps and makes: one tensor each way, no others."""

    @staticmethod
    def forward(ctx, hidden, shape, weight, eps):
        with _disable_current_modes():
            inverse = hidden.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
            output = hidden * inverse * (1 if weight is None else weight)
        inverse = inverse.clone()  # seen again by the modes
        ctx.save_for_backward(hidden, weight, inverse)
        return output.clone()

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, inverse = ctx.saved_tensors
        with _disable_current_modes():
            normalised = hidden * inverse
            scaled = grad if weight is None else grad * weight
            d_hidden = inverse * (scaled - normalised * (scaled * normalised).mean(dim=-1, keepdim=True))
            d_weight = None if weight is None else (grad * normalised).flatten(0, -2).sum(dim=0)
        return d_hidden.clone(), None, None if d_weight is None else d_weight.clone(), None


class SplitAndTurn(torch.autograd.Function):
    """model/kernels/rotary.py by what it keeps and makes."""

    @staticmethod
    def forward(ctx, projected, cos, sin, weight, heads, kv_heads):
        size = cos.shape[-1]
        ctx.save_for_backward(projected, weight, cos, sin)
        columns = [heads * size, kv_heads * size, kv_heads * size][: 3 if kv_heads else 1]
        parts = projected.split(columns, dim=-1)
        made = [part.unflatten(-1, (-1, size)).clone(memory_format=torch.contiguous_format) for part in parts]
        return *made, *(projected.new_empty(0) for _ in range(3 - len(made)))

    @staticmethod
    def backward(ctx, *grads):
        projected, weight, _, _ = ctx.saved_tensors
        d_weight = None if weight is None else torch.zeros_like(weight)
        return torch.zeros_like(projected), None, None, d_weight, None, None


def split_and_turn(projected, rope, weight, eps, *, heads, kv_heads):
    return SplitAndTurn.apply(projected.contiguous(), *rope, weight, heads, kv_heads)


def like_an_accelerator(monkeypatch):
    """Until the monkeypatch is undone."""
    monkeypatch.setattr("model.kernels.onednn.onednn_applies", lambda *_: False)
    monkeypatch.setattr(norm, "F", types.SimpleNamespace(rms_norm=FusedRMSNorm.apply))
    monkeypatch.setattr(attention, "repeats_heads", lambda queries, mask: queries.dtype == torch.float32)
    monkeypatch.setattr(attention, "split_and_turn", split_and_turn)
    for module in (attention, linear):
        monkeypatch.setattr(module, "stacks", lambda hidden: True)
    monkeypatch.setattr(attention, "uses_triton", lambda tensor: True)
    for module in (norm, mixture):
        monkeypatch.setattr(module, "uses_triton", lambda tensor: matmul_dtype(tensor) == torch.bfloat16)
    monkeypatch.setattr("model.transformer.residual_dtype", matmul_dtype)
    monkeypatch.setattr(loss, "_losses_of", losses_in_place)
    monkeypatch.setattr(loss, "_add_product", lambda total, left, right: total.add_(1))


def losses_in_place(logits, labels, count, *, gradient):
    """What the kernel keeps and makes: losses, and gradients in the place of the logits."""
    return torch.ones(len(labels)), logits
