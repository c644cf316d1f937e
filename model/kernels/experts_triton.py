"""What stands between the products of experts, in one pass each: rows gathered and summed back, and SwiGLU with its gradient.

T tokens, D hidden, F intermediate, N rows sorted by expert. Rows after the last expert's end are neither read nor written.
`order`, `position` and `ends` are those of model/kernels/routing_triton.py; statistics and sums are float32 inside.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 8, 512
SUM_ROWS, SUM_COLUMNS = 16, 256
GRADIENT_COLUMNS = 1024  # one row a program: 48 registers a thread; with four rows it were 238, at 0.7 of the bandwidth


@triton.jit
def _gather_kernel(
    hidden, order, ends, rows, size, experts, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    kept = row < tl.load(ends + experts - 1)
    token = (tl.load(order + row, mask=kept, other=0) // K).to(tl.int64)
    mask = kept[:, None] & (column < size)[None, :]
    values = tl.load(hidden + token[:, None] * size + column[None, :], mask=mask)
    tl.store(rows + row.to(tl.int64)[:, None] * size + column[None, :], values, mask=mask)


@triton.jit
def _sum_kernel(
    rows, position, addend, d_logits, router_weight, output, tokens, size, experts,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr, TURNS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = token < tokens
    there = (column < size)[None, :]
    at = token.to(tl.int64)[:, None] * size + column[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for turn in tl.static_range(TURNS):  # the router's part of the gradient: d_logits @ router_weight
        expert = turn * EXPERTS + tl.arange(0, EXPERTS)
        known = expert < experts
        left = tl.load(
            d_logits + token[:, None] * experts + expert[None, :], mask=inside[:, None] & known[None, :], other=0.0
        )
        weight = tl.load(
            router_weight + expert[:, None] * size + column[None, :], mask=known[:, None] & there, other=0.0
        )
        total = tl.dot(left, weight.to(tl.float32), total, input_precision="tf32")
    for k in tl.static_range(K):
        row = tl.load(position + token * K + k, mask=inside, other=-1)
        row_at = row.to(tl.int64)[:, None] * size + column[None, :]
        total += tl.load(rows + row_at, mask=(row >= 0)[:, None] & there, other=0.0).to(tl.float32)
    mask = inside[:, None] & there
    if HAS_ADDEND:
        total += tl.load(addend + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(output + at, total.to(output.dtype.element_ty), mask=mask)


@triton.jit
def _swiglu_kernel(
    both, weight, order, ends, activated, rows, size, experts,
    ROUTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    kept = row < rows
    if ROUTED:
        kept = row < tl.load(ends + experts - 1)
    mask = kept[:, None] & (column < size)[None, :]
    at = row.to(tl.int64)[:, None] * (2 * size) + column[None, :]
    gate = tl.load(both + at, mask=mask, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * tl.load(both + at + size, mask=mask, other=0.0).to(tl.float32)
    if ROUTED:
        choice = tl.load(order + row, mask=kept, other=0)
        value *= tl.load(weight + choice, mask=kept, other=0.0)[:, None]
    at = row.to(tl.int64)[:, None] * size + column[None, :]
    tl.store(activated + at, value.to(activated.dtype.element_ty), mask=mask)


@triton.jit
def _swiglu_gradient_kernel(
    both, d_activated, weight, order, ends, d_both, activated, d_weight, size, experts,
    ROUTED: tl.constexpr, TURNS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, share, d_share = tl.program_id(0), 1.0, 0.0
    choice = row
    if ROUTED:
        if row >= tl.load(ends + experts - 1):
            return
        choice = tl.load(order + row)
        share = tl.load(weight + choice)
    row = row.to(tl.int64)
    gates, ups, gradients = both + row * 2 * size, both + row * 2 * size + size, d_activated + row * size
    d_gates, d_ups, values = d_both + row * 2 * size, d_both + row * 2 * size + size, activated + row * size
    kind = d_both.dtype.element_ty
    for turn in range(TURNS):
        column = turn * COLUMNS + tl.arange(0, COLUMNS)
        mask = column < size
        gate = tl.load(gates + column, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(ups + column, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(gradients + column, mask=mask, other=0.0).to(tl.float32)
        slope = tl.sigmoid(gate)
        silu = gate * slope
        value = silu * up
        if ROUTED:
            d_share += tl.sum(gradient * value)
            gradient *= share
            value *= share
        d_gate = gradient * up * (slope + silu * (1.0 - slope))
        tl.store(d_gates + column, d_gate.to(kind), mask=mask)
        tl.store(d_ups + column, (gradient * silu).to(kind), mask=mask)
        tl.store(values + column, value.to(kind), mask=mask)
    if ROUTED:
        tl.store(d_weight + choice, d_share)


def gather_rows(hidden: Tensor, order: Tensor, ends: Tensor, top_k: int) -> Tensor:
    """hidden (T, D) -> (N, D), each token once for each of its experts, sorted by expert."""
    size, columns = hidden.shape[1], min(COLUMNS, triton.next_power_of_2(hidden.shape[1]))
    rows = torch.empty(len(order), size, dtype=hidden.dtype, device=hidden.device)
    grid = (triton.cdiv(len(order), ROWS), triton.cdiv(size, columns))
    _gather_kernel[grid](hidden, order, ends, rows, size, len(ends), K=top_k, ROWS=ROWS, COLUMNS=columns)
    return rows


def sum_rows(
    rows: Tensor,
    position: Tensor,
    addend: Tensor | None = None,
    d_logits: Tensor | None = None,
    router_weight: Tensor | None = None,
) -> Tensor:
    """rows (N, D), position (T, K) -> (T, D): the sum over each token's experts, plus `addend` (T, D) where there is one.

    Where this is the gradient of the hidden states, plus the router's part, d_logits (T, E) @ router_weight (E, D).
    """
    (tokens, top_k), size = position.shape, rows.shape[1]
    output = torch.empty(tokens, size, dtype=rows.dtype, device=rows.device)
    columns = min(SUM_COLUMNS, max(16, triton.next_power_of_2(size)))
    experts = 0 if router_weight is None else len(router_weight)
    grid = (triton.cdiv(tokens, SUM_ROWS), triton.cdiv(size, columns))
    _sum_kernel[grid](
        rows, position, addend, d_logits, router_weight, output, tokens, size, experts,
        K=top_k, ROWS=SUM_ROWS, COLUMNS=columns, EXPERTS=16, TURNS=triton.cdiv(experts, 16), HAS_ADDEND=addend is not None,
    )  # fmt: skip
    return output


def swiglu(
    both: Tensor, weight: Tensor | None = None, order: Tensor | None = None, ends: Tensor | None = None
) -> Tensor:
    """gate and up (N, 2F) -> (N, F); of routed experts times the weight (T, K) of the row's choice."""
    rows, size = both.shape[0], both.shape[1] // 2
    columns = min(COLUMNS, triton.next_power_of_2(size))
    activated = torch.empty(rows, size, dtype=both.dtype, device=both.device)
    _swiglu_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(size, columns))](
        both, weight, order, ends, activated, rows, size, 0 if ends is None else len(ends),
        ROUTED=ends is not None, ROWS=ROWS, COLUMNS=columns,
    )  # fmt: skip
    return activated


def swiglu_gradient(
    both: Tensor,
    d_activated: Tensor,
    weight: Tensor | None = None,
    order: Tensor | None = None,
    ends: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """d_activated (N, F) -> d_both (N, 2F), the activation (N, F) computed anew, and d_weight (T, K).

    Of routed experts `d_activated` is the gradient before the weight, so that its product with the activation, summed over a
    row, is the gradient of the row's weight (SonicMoE, arXiv:2512.14080): no expert's output is needed. d_weight of a dropped
    choice is not written.
    """
    rows, size = d_activated.shape
    columns = min(GRADIENT_COLUMNS, triton.next_power_of_2(size))
    d_both, activated = torch.empty_like(both), torch.empty_like(d_activated)
    d_weight = None if weight is None else torch.empty_like(weight)
    _swiglu_gradient_kernel[(rows,)](
        both, d_activated, weight, order, ends, d_both, activated, d_weight, size, 0 if ends is None else len(ends),
        ROUTED=ends is not None, TURNS=triton.cdiv(size, columns), COLUMNS=columns,
    )  # fmt: skip
    return d_both, activated, d_weight
