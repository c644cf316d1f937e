"""Losses of rows of logits and their gradient in one kernel: each row is read twice and written once, by one program.

V vocabulary. A row of 32,768 bfloat16 logits is 64 KiB: the second reading finds it in the cache of the chip.
`model.kernels.cross_entropy.loss_and_gradient` is the oracle, and serves where Triton is not.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192  # logits at a time


@triton.jit
def _kernel(
    logits, labels, scales, losses, stride, size, BLOCKS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    counted = label >= 0
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for index in range(BLOCKS):  # the online softmax (Milakov and Gimelshein, arXiv:1805.02867)
        place = index * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(logits + place, mask=place < size, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(value, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(value - higher), axis=0)
        top = higher
    known = counted & (label < size)  # any other has no logit: its loss is NaN
    target = tl.load(logits + tl.where(known, label, 0), mask=known, other=float("nan")).to(tl.float32)
    tl.store(losses + row, tl.where(counted, tl.log(total) + top - target, 0.0))
    if GRADIENT:
        scale = tl.where(counted, tl.load(scales + row), 0.0)
        for index in range(BLOCKS):
            place = index * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(logits + place, mask=place < size, other=float("-inf")).to(tl.float32)
            share = tl.exp(value - top) / total
            gradient = scale * tl.where(place == label, share - 1.0, share)
            tl.store(logits + place, gradient.to(logits.dtype.element_ty), mask=place < size)


def loss_and_gradient_(logits: Tensor, labels: Tensor, scale: Tensor, *, gradient: bool) -> Tensor:
    """logits (T, V) of any precision, labels (T,) int64 -> the losses (T,) in float32.

    A negative label has the loss 0, one of V or more NaN.
    With `gradient` the logits are overwritten by that of scale . losses, where scale (T,) float32 is what each loss weighs.
    """
    losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
    size = logits.shape[1]
    block = min(BLOCK, triton.next_power_of_2(size))
    sizes = {"BLOCKS": triton.cdiv(size, block), "BLOCK": block}
    _kernel[(len(labels),)](
        logits, labels, scale.contiguous(), losses, logits.stride(0), size, GRADIENT=gradient, **sizes, num_warps=8
    )
    return losses
