"""The gradient of routing: from the weights of the choices and the two routing losses to the router's logits and its weight.

T tokens, D hidden, E experts, K choices a token. `index` and `chosen` are those of model/kernels/routing_triton.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.routing_triton import _softmax

TOKENS, COLUMNS, EXPERTS = 64, 64, 64
PROGRAMS = 256  # at least so many, where there are tokens enough: two for each multiprocessor of a large GPU


@triton.jit
def _logits_gradient_kernel(
    logits, chosen, index, d_weight, d_mean, d_z, d_logits, tokens, experts,
    K: tl.constexpr, TOKENS: tl.constexpr, EP: tl.constexpr, SUM_TO_ONE: tl.constexpr,
    HAS_MEAN: tl.constexpr, HAS_Z: tl.constexpr,
):  # fmt: skip
    row, expert = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, EP)
    inside = row < tokens
    share, partition = _softmax(logits, row, expert, tokens, experts)
    d_share = tl.zeros((TOKENS, EP), tl.float32)
    if HAS_MEAN:
        d_share += (tl.load(d_mean + expert, mask=expert < experts, other=0.0) / tokens)[None, :]
    all_shares, inner = tl.zeros((TOKENS,), tl.float32), tl.zeros((TOKENS,), tl.float32)
    if SUM_TO_ONE:
        for k in tl.static_range(K):
            final = tl.load(index + row * K + k, mask=inside, other=experts)
            kept = final < experts
            slot = tl.where(kept, final, tl.load(chosen + row * K + k, mask=inside, other=0))
            own = tl.sum(tl.where(expert[None, :] == slot[:, None], share, 0.0), axis=1)
            all_shares += own
            inner += own * tl.load(d_weight + row * K + k, mask=kept, other=0.0)
        inner = inner / all_shares
    for k in tl.static_range(K):
        final = tl.load(index + row * K + k, mask=inside, other=experts)
        kept = final < experts
        slot = tl.where(kept, final, tl.load(chosen + row * K + k, mask=inside, other=0))
        gradient = tl.load(d_weight + row * K + k, mask=kept, other=0.0)
        if SUM_TO_ONE:
            gradient = (gradient - inner) / all_shares
        d_share += tl.where(expert[None, :] == slot[:, None], gradient[:, None], 0.0)
    gradient = share * (d_share - tl.sum(share * d_share, axis=1)[:, None])
    if HAS_Z:
        gradient += (2.0 * tl.load(d_z) / tokens) * partition[:, None] * share
    at = row[:, None] * experts + expert[None, :]
    tl.store(d_logits + at, gradient, mask=inside[:, None] & (expert < experts)[None, :])


@triton.jit
def _weight_gradient_kernel(
    d_logits, hidden, parts, tokens, size, experts,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """Of one run of tokens: parts[run] = d_logits.T @ hidden."""
    run, experts_block = tl.program_id(1), tl.program_id(2)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    expert = experts_block * EXPERTS + tl.arange(0, EXPERTS)
    total = tl.zeros((EXPERTS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (run * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < tokens)[:, None]
        left_at = row[:, None] * experts + expert[None, :]
        left = tl.load(d_logits + left_at, mask=inside & (expert < experts)[None, :], other=0.0)
        rows_at = row.to(tl.int64)[:, None] * size + column[None, :]
        values = tl.load(hidden + rows_at, mask=inside & (column < size)[None, :], other=0.0).to(tl.float32)
        total = tl.dot(tl.trans(left), values, total, input_precision="tf32x3")
    at = (run * experts + expert[:, None]) * size + column[None, :]
    tl.store(parts + at, total, mask=(expert < experts)[:, None] & (column < size)[None, :])


def logits_gradient(
    logits: Tensor,
    chosen: Tensor,
    index: Tensor,
    d_weight: Tensor,
    d_mean: Tensor | None,
    d_z: Tensor | None,
    *,
    sum_to_one: bool,
) -> Tensor:
    """d_weight (T, K), d_mean (E,) of the mean probabilities, d_z () of the z loss -> d_logits (T, E), all float32.

    What d_weight says of a dropped choice is not read.
    """
    tokens, experts = logits.shape
    ep = max(16, triton.next_power_of_2(experts))
    rows = min(128, max(16, 4096 // ep))
    d_logits = torch.empty_like(logits)
    _logits_gradient_kernel[(triton.cdiv(tokens, rows),)](
        logits, chosen, index, d_weight, d_mean, d_z, d_logits, tokens, experts,
        K=index.shape[1], TOKENS=rows, EP=ep, SUM_TO_ONE=sum_to_one, HAS_MEAN=d_mean is not None, HAS_Z=d_z is not None,
    )  # fmt: skip
    return d_logits


def router_weight_gradient(d_logits: Tensor, hidden: Tensor) -> Tensor:
    """d_logits (T, E) float32, hidden (T, D) -> (E, D) float32, summed in one order."""
    (tokens, experts), size = d_logits.shape, hidden.shape[1]
    each = min(EXPERTS, max(16, triton.next_power_of_2(experts)))
    columns, turns = triton.cdiv(size, COLUMNS), triton.cdiv(tokens, TOKENS)
    runs = min(turns, triton.cdiv(PROGRAMS, columns))
    steps = triton.cdiv(turns, runs)
    parts = torch.empty(runs, experts, size, dtype=torch.float32, device=hidden.device)
    _weight_gradient_kernel[(columns, runs, triton.cdiv(experts, each))](
        d_logits, hidden, parts, tokens, size, experts,
        STEPS=steps, ROWS=TOKENS, COLUMNS=COLUMNS, EXPERTS=each, num_stages=4,
    )  # fmt: skip
    return parts.sum(0)
