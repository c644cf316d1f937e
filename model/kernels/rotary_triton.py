"""Heads turned by their positions and normalised, and the gradients, in one pass each way.

A row of P values is one head of one token. Its two halves are pairs. A program holds ROWS rows, for all of whose values it
computes in float32. model/kernels/rotary.py makes an operator of it.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32  # of a program


class Part(NamedTuple):
    """Where the heads lie in the columns of one product."""

    column: int  # of the first head
    heads: int


@triton.jit
def _turned(values, place, cos, sin, angle, there, HALF: tl.constexpr):
    """Both halves of the rows at `place`, turned."""
    first = tl.load(values + place, mask=there, other=0.0).to(tl.float32)
    second = tl.load(values + place + HALF, mask=there, other=0.0).to(tl.float32)
    c = tl.load(cos + angle, mask=there, other=0.0)
    s = tl.load(sin + angle + HALF, mask=there, other=0.0)
    return first * c - second * s, second * c + first * s, c, s


@triton.jit
def _forward_kernel(
    projected, cos, sin, weight, output, rows, heads, tokens, width, column, eps,
    HALF: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    row, pair = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    there = (row < rows)[:, None] & (pair < HALF)[None, :]
    token = row // heads
    place = (token * width + column + row % heads * 2 * HALF)[:, None] + pair[None, :]
    angle = (token % tokens * 2 * HALF)[:, None] + pair[None, :]
    first, second, _, _ = _turned(projected, place, cos, sin, angle, there, HALF)
    if NORM:
        scale = tl.rsqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)[:, None]
        first, second = first * scale, second * scale
    if WEIGHTED:
        first *= tl.load(weight + pair, mask=pair < HALF, other=0.0)[None, :]
        second *= tl.load(weight + HALF + pair, mask=pair < HALF, other=0.0)[None, :]
    place = (row * 2 * HALF)[:, None] + pair[None, :]
    tl.store(output + place, first.to(output.dtype.element_ty), mask=there)
    tl.store(output + place + HALF, second.to(output.dtype.element_ty), mask=there)


@triton.jit
def _backward_kernel(
    gradient, projected, cos, sin, weight, d_projected, parts, rows, heads, tokens, width, column, eps,
    of_batch, of_token, of_head,
    HALF: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    row, pair = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    there = (row < rows)[:, None] & (pair < HALF)[None, :]
    token, head = row // heads, row % heads
    place = (token * width + column + head * 2 * HALF)[:, None] + pair[None, :]
    angle = (token % tokens * 2 * HALF)[:, None] + pair[None, :]
    first, second, c, s = _turned(projected, place, cos, sin, angle, there, HALF)
    of_output = (token // tokens * of_batch + token % tokens * of_token + head * of_head)[:, None] + pair[None, :]
    d_first = tl.load(gradient + of_output, mask=there, other=0.0).to(tl.float32)
    d_second = tl.load(gradient + of_output + HALF, mask=there, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)[:, None]
        first, second = first * scale, second * scale
        if WEIGHTED:
            part = parts + tl.program_id(0) * 2 * HALF + pair
            tl.store(part, tl.sum(d_first * first, axis=0), mask=pair < HALF)
            tl.store(part + HALF, tl.sum(d_second * second, axis=0), mask=pair < HALF)
            d_first *= tl.load(weight + pair, mask=pair < HALF, other=0.0)[None, :]
            d_second *= tl.load(weight + HALF + pair, mask=pair < HALF, other=0.0)[None, :]
        along = tl.sum(d_first * first + d_second * second, axis=1)[:, None] / (2 * HALF)
        d_first, d_second = scale * (d_first - first * along), scale * (d_second - second * along)
    tl.store(d_projected + place, (d_first * c + d_second * s).to(d_projected.dtype.element_ty), mask=there)
    tl.store(d_projected + place + HALF, (d_second * c - d_first * s).to(d_projected.dtype.element_ty), mask=there)


def forward(
    projected: Tensor, part: Part, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float, *, norm: bool
) -> Tensor:
    """projected (B, S, W) contiguous, cos and sin (S, 1, P) -> (B, S, heads, P), normalised where `norm`, times weight (P,)."""
    batch, tokens, width = projected.shape
    output = projected.new_empty(batch, tokens, part.heads, cos.shape[-1])
    rows = batch * tokens * part.heads
    _forward_kernel[(triton.cdiv(rows, ROWS),)](
        projected, cos, sin, cos if weight is None else weight, output, rows, part.heads, tokens, width, part.column, eps,
        **_tile(cos.shape[-1], norm, weight),
    )  # fmt: skip
    return output


def backward(
    gradient: Tensor, projected: Tensor, part: Part, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float,
    d_projected: Tensor, *, norm: bool,
) -> Tensor | None:  # fmt: skip
    """Writes its columns of d_projected (B, S, W) from the gradient (B, S, heads, P) of any strides; weight's (P,)."""
    batch, tokens, width = projected.shape
    if gradient.stride(-1) != 1:
        gradient = gradient.contiguous()
    rows, size = batch * tokens * part.heads, cos.shape[-1]
    programs = triton.cdiv(rows, ROWS)
    parts = None if weight is None else torch.empty(programs, size, dtype=torch.float32, device=projected.device)
    _backward_kernel[(programs,)](
        gradient, projected, cos, sin, cos if weight is None else weight, d_projected, cos if parts is None else parts,
        rows, part.heads, tokens, width, part.column, eps, *gradient.stride()[:3], **_tile(size, norm, weight),
    )  # fmt: skip
    return None if parts is None else parts.sum(dim=0)


def _tile(size: int, norm: bool, weight: Tensor | None) -> dict[str, int | bool]:
    half = size // 2
    block = triton.next_power_of_2(half)
    return {
        "HALF": half,
        "BLOCK": block,
        "ROWS": ROWS,
        "NORM": norm,
        "WEIGHTED": weight is not None,
        "num_warps": 4 if ROWS * block <= 2048 else 8,
    }
