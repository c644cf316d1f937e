"""RMS normalisation after an addition, and its gradients, in one pass each way.

N rows of D values, in tensors that are contiguous. A program holds a row whole. In the backward pass it takes one after the
other and keeps the sum of the weight's gradient over its own rows; the sums of the programs are added last, in one order.
model/kernels/rms_norm.py makes an operator of it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 8 * 132  # of the backward pass: several for each multiprocessor of a large GPU


@triton.jit
def _forward_kernel(hidden, addend, weight, total, output, inverse, size, eps, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, place = column < size, row * size + column
    value = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(addend + place, mask=inside, other=0.0).to(tl.float32)
    rounded = value.to(total.dtype.element_ty)
    tl.store(total + place, rounded, mask=inside)
    value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / size + eps)
    tl.store(inverse + row, scale)
    value *= scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + place, value.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    d_output, d_total, total, weight, inverse, d_sum, parts, rows, size,
    TURNS: tl.constexpr, HAS_TOTAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < size
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    part = tl.zeros((BLOCK,), tl.float32)
    for turn in range(TURNS):
        row = (turn * tl.num_programs(0) + program).to(tl.int64)
        there, place = inside & (row < rows), row * size + column
        gradient = tl.load(d_output + place, mask=there, other=0.0).to(tl.float32)
        scale = tl.load(inverse + row, mask=row < rows, other=0.0)
        normal = tl.load(total + place, mask=there, other=0.0).to(tl.float32) * scale
        part += gradient * normal
        gradient *= factor
        found = scale * (gradient - normal * (tl.sum(gradient * normal, axis=0) / size))
        if HAS_TOTAL:
            found += tl.load(d_total + place, mask=there, other=0.0).to(tl.float32)
        tl.store(d_sum + place, found.to(d_sum.dtype.element_ty), mask=there)
    tl.store(parts + program * size + column, part, mask=inside)


def forward(hidden: Tensor, addend: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """hidden, addend (N, D), weight (D,) -> their sum, the sum normalised, and 1 / rms (N,) in float32."""
    rows, size = hidden.shape
    total, output = torch.empty_like(hidden), torch.empty_like(hidden)
    inverse = torch.empty(rows, dtype=torch.float32, device=hidden.device)
    _forward_kernel[(rows,)](hidden, addend, weight, total, output, inverse, size, eps, **_tile(size))
    return total, output, inverse


def backward(
    d_output: Tensor, d_total: Tensor | None, total: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the normalised sum and of the sum itself (N, D) -> of both that were added (N, D), of the weight (D,)."""
    rows, size = total.shape
    programs = min(rows, PROGRAMS)
    turns = triton.next_power_of_2(triton.cdiv(rows, programs))  # few kernels for many numbers of rows
    d_sum = torch.empty_like(total)
    parts = torch.empty(programs, size, dtype=torch.float32, device=total.device)
    before = total if d_total is None else d_total
    _backward_kernel[(programs,)](
        d_output, before, total, weight, inverse, d_sum, parts, rows, size,
        TURNS=turns, HAS_TOTAL=d_total is not None, **_tile(size),
    )  # fmt: skip
    return d_sum, parts.sum(dim=0)


def _tile(size: int) -> dict[str, int]:
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}
