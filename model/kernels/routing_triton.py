"""Routing of a whole batch in a few small kernels: no sort, no scatter, no wait for the device.

Each block of tokens counts its choices per expert; a scan over blocks says where each block begins in each expert's run; and a
block's own running count places its choices. model/moe/router.py and model/moe/dispatch.py are the oracles.

T tokens, D hidden, E experts, K choices a token, N = T * K, C places per expert. Choices are numbered t * K + k.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SCAN_ROWS, SCAN_COLUMNS = 128, 16
FREE_BLOCK, FREE_TILE = 1024, 8192
LOGIT_TOKENS, LOGIT_COLUMNS, LOGIT_EXPERTS = 64, 64, 64


class Placement(NamedTuple):
    """Where a batch goes. Rows of `order` after the last end are undefined."""

    logits: Tensor  # (T, E) float32
    chosen: Tensor  # (T, K) int32, the router's choices
    final: Tensor  # (T, K) int32, the experts that compute; E where a choice is dropped
    weight: Tensor  # (T, K) float32, 0 where a choice is dropped
    order: Tensor  # (N,) int32, the choices by expert, then by token
    position: Tensor  # (T, K) int32, the row of each choice in that order; -1 where it is dropped
    ends: Tensor  # (E,) int32, rows of expert e end here
    mean_probability: Tensor  # (E,) float32
    z_loss: Tensor  # () float32, mean squared log-partition of the logits
    counts: Tensor  # (2E + 2,) int64: choices per expert, tokens per expert, dropped, recycled


@triton.jit
def _logits_kernel(
    hidden, weight, logits, tokens, size, experts,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.program_id(1) * EXPERTS + tl.arange(0, EXPERTS)
    total = tl.zeros((ROWS, EXPERTS), tl.float32)
    for step in range(STEPS):
        column = step * COLUMNS + tl.arange(0, COLUMNS)
        inside = (column < size)[None, :]
        rows_at = row.to(tl.int64)[:, None] * size + column[None, :]
        values = tl.load(hidden + rows_at, mask=(row < tokens)[:, None] & inside, other=0.0).to(tl.float32)
        weights_at = expert[:, None] * size + column[None, :]
        weights = tl.load(weight + weights_at, mask=(expert < experts)[:, None] & inside, other=0.0).to(tl.float32)
        # Three products of tensor cores, which together keep 22 bits of each weight.
        total = tl.dot(values, tl.trans(weights), total, input_precision="tf32x3")
    at = row[:, None] * experts + expert[None, :]
    tl.store(logits + at, total, mask=(row < tokens)[:, None] & (expert < experts)[None, :])


@triton.jit
def _softmax(logits, row, expert, tokens, experts):
    """Probabilities (rows, experts) and log-partitions (rows,); 0 for an expert that is not there."""
    at = row[:, None] * experts + expert[None, :]
    there = (expert < experts)[None, :]
    value = tl.load(logits + at, mask=(row < tokens)[:, None] & there, other=0.0)
    value = tl.where(there, value, float("-inf"))
    top = tl.max(value, axis=1)
    power = tl.exp(value - top[:, None])
    total = tl.sum(power, axis=1)
    return power / total[:, None], tl.log(total) + top


@triton.jit
def _choose_kernel(
    logits, bias, chosen, weight, histogram, mean_parts, z_parts, tokens, experts, blocks,
    K: tl.constexpr, KP: tl.constexpr, TOKENS: tl.constexpr, EP: tl.constexpr,
    HAS_BIAS: tl.constexpr, BY_TURN: tl.constexpr, SUM_TO_ONE: tl.constexpr,
):  # fmt: skip
    """The K first experts of every token. `histogram`: of each block, or where BY_TURN of all first choices, then second."""
    block = tl.program_id(0)
    row, expert, turn = block * TOKENS + tl.arange(0, TOKENS), tl.arange(0, EP), tl.arange(0, KP)
    inside = row < tokens
    share, partition = _softmax(logits, row, expert, tokens, experts)
    tl.store(z_parts + block, tl.sum(tl.where(inside, partition * partition, 0.0), axis=0))
    tl.store(mean_parts + block * EP + expert, tl.sum(tl.where(inside[:, None], share, 0.0), axis=0))
    score = share
    if HAS_BIAS:
        score += tl.load(bias + expert, mask=expert < experts, other=0.0)[None, :]
    score = tl.where((expert < experts)[None, :], score, float("-inf"))
    picks, weights = tl.zeros((TOKENS, KP), tl.int32), tl.zeros((TOKENS, KP), tl.float32)
    count = tl.zeros((EP,), tl.int32)
    for k in tl.static_range(K):
        pick = tl.minimum(tl.argmax(score, axis=1), experts - 1).to(
            tl.int32
        )  # the first of equals; a number for NaN too
        hit = expert[None, :] == pick[:, None]
        score = tl.where(hit, float("-inf"), score)
        picks = tl.where(turn[None, :] == k, pick[:, None], picks)
        weights = tl.where(turn[None, :] == k, tl.sum(tl.where(hit, share, 0.0), axis=1)[:, None], weights)
        found = tl.sum((hit & inside[:, None]).to(tl.int32), axis=0)
        if BY_TURN:
            tl.store(histogram + (k * blocks + block) * EP + expert, found)
        count += found
    if not BY_TURN:
        tl.store(histogram + block * EP + expert, count)
    if SUM_TO_ONE:
        weights = weights / tl.sum(weights, axis=1)[:, None]
    at, there = row[:, None] * K + turn[None, :], inside[:, None] & (turn < K)[None, :]
    tl.store(chosen + at, picks, mask=there)
    tl.store(weight + at, weights, mask=there)


@triton.jit
def _scan_kernel(
    histogram, totals, mean_parts, z_parts, mean, z_loss, lanes, blocks, tokens, experts,
    TURNS: tl.constexpr, EP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MEANS: tl.constexpr,
):  # fmt: skip
    """Each lane's counts become those of the lanes before it; with MEANS the blocks' parts of two means are summed too."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    before = tl.zeros((COLUMNS,), tl.int32)
    mean_total, z_total = tl.zeros((COLUMNS,), tl.float32), tl.zeros((), tl.float32)
    for turn in range(TURNS):
        lane = turn * ROWS + tl.arange(0, ROWS)
        at = lane[:, None] * EP + column[None, :]
        count = tl.load(histogram + at, mask=(lane < lanes)[:, None], other=0)
        tl.store(histogram + at, tl.cumsum(count, axis=0) - count + before[None, :], mask=(lane < lanes)[:, None])
        before += tl.sum(count, axis=0)
        if MEANS:
            mean_total += tl.sum(tl.load(mean_parts + at, mask=(lane < blocks)[:, None], other=0.0), axis=0)
            z_total += tl.sum(tl.load(z_parts + lane, mask=lane < blocks, other=0.0), axis=0)
    tl.store(totals + column, before)
    if MEANS:
        tl.store(mean + column, mean_total / tokens, mask=column < experts)
        if tl.program_id(0) == 0:
            tl.store(z_loss, z_total / tokens)


@triton.jit
def _is_free(place_order, totals, at, capacity, places):
    place = tl.load(place_order + at, mask=at < places, other=0).to(tl.int32)
    expert = place // capacity
    return expert, (at < places) & (place - expert * capacity >= tl.load(totals + expert))


@triton.jit
def _free_kernel(
    place_order, totals, free, capacity, places, TURNS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    """The experts of the free places, in their random order: `place_order` without the places that are taken."""
    start = tl.program_id(0) * BLOCK
    before = tl.zeros((), tl.int32)
    for turn in range(TURNS):
        if turn * TILE < start:
            at = turn * TILE + tl.arange(0, TILE)
            _, is_free = _is_free(place_order, totals, at, capacity, places)
            before += tl.sum((is_free & (at < start)).to(tl.int32), axis=0)
    expert, is_free = _is_free(place_order, totals, start + tl.arange(0, BLOCK), capacity, places)
    count = is_free.to(tl.int32)
    tl.store(free + before + tl.cumsum(count, axis=0) - count, expert, mask=is_free)


@triton.jit
def _limit_kernel(
    logits, chosen, before, totals, free, index, weight, histogram, tokens, experts, capacity, blocks,
    K: tl.constexpr, KP: tl.constexpr, TOKENS: tl.constexpr, EP: tl.constexpr,
    RECYCLE: tl.constexpr, SUM_TO_ONE: tl.constexpr,
):  # fmt: skip
    """Choices over capacity: the i-th, all first choices before second ones, takes the i-th free place, or is dropped."""
    block = tl.program_id(0)
    row, expert, turn = block * TOKENS + tl.arange(0, TOKENS), tl.arange(0, EP), tl.arange(0, KP)
    inside = row < tokens
    share, _ = _softmax(logits, row, expert, tokens, experts)
    taken = tl.minimum(tl.load(totals + expert), capacity)
    room = tl.sum(tl.where(expert < experts, capacity - taken, 0), axis=0)
    picks, weights = tl.zeros((TOKENS, KP), tl.int32), tl.zeros((TOKENS, KP), tl.float32)
    all_shares, count = tl.zeros((TOKENS,), tl.float32), tl.zeros((EP,), tl.int32)
    for k in tl.static_range(K):
        choice = tl.load(chosen + row * K + k, mask=inside, other=-1)
        hit = expert[None, :] == choice[:, None]
        one = hit.to(tl.int32)
        earlier = tl.load(before + (k * blocks + block) * EP + expert)
        place = tl.sum(tl.where(hit, tl.cumsum(one, axis=0) - one + earlier[None, :], 0), axis=1)
        over = inside & (place >= capacity)
        final = tl.where(over, experts, choice)
        if RECYCLE:
            excess = over.to(tl.int32)
            place_in_line = tl.sum(tl.maximum(earlier - capacity, 0), axis=0) + tl.cumsum(excess, axis=0) - excess
            served = over & (place_in_line < room)
            final = tl.where(served, tl.load(free + place_in_line, mask=served, other=0), final)
        kept = final < experts
        # A dropped choice keeps its share in the sum: the others must not grow for want of a place.
        counted = expert[None, :] == tl.where(kept, final, choice)[:, None]
        own = tl.sum(tl.where(counted, share, 0.0), axis=1)
        all_shares += own
        picks = tl.where(turn[None, :] == k, final[:, None], picks)
        weights = tl.where(turn[None, :] == k, tl.where(kept, own, 0.0)[:, None], weights)
        count += tl.sum((expert[None, :] == final[:, None]).to(tl.int32), axis=0)
    tl.store(histogram + block * EP + expert, tl.where(expert < experts, count, 0))
    if SUM_TO_ONE:
        weights = weights / all_shares[:, None]
    at, there = row[:, None] * K + turn[None, :], inside[:, None] & (turn < K)[None, :]
    tl.store(index + at, picks, mask=there)
    tl.store(weight + at, weights, mask=there)


@triton.jit
def _rank_kernel(
    index, before, totals, choices, order, position, ends, counts, tokens, experts, capacity,
    K: tl.constexpr, TOKENS: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row, expert = block * TOKENS + tl.arange(0, TOKENS), tl.arange(0, EP)
    inside = row < tokens
    total = tl.load(totals + expert)
    start = tl.cumsum(total, axis=0) - total
    own = tl.zeros((TOKENS, EP), tl.int32)
    for k in tl.static_range(K):
        found = tl.load(index + row * K + k, mask=inside, other=-1)
        own += (expert[None, :] == found[:, None]).to(tl.int32)
    earlier = (start + tl.load(before + block * EP + expert))[None, :] + tl.cumsum(own, axis=0) - own
    for k in tl.static_range(K):
        found = tl.load(index + row * K + k, mask=inside, other=-1)
        hit = expert[None, :] == found[:, None]
        place = tl.sum(tl.where(hit, earlier, 0), axis=1)
        kept = inside & (found < experts)
        tl.store(order + place, row * K + k, mask=kept)
        tl.store(position + row * K + k, tl.where(kept, place, -1), mask=inside)
        earlier += hit.to(tl.int32)
    if block == 0:
        there = expert < experts
        chosen = tl.load(choices + expert)
        tl.store(ends + expert, start + total, mask=there)
        tl.store(counts + expert, chosen.to(tl.int64), mask=there)
        tl.store(counts + experts + expert, total.to(tl.int64), mask=there)
        served = tl.sum(total, axis=0)
        tl.store(counts + 2 * experts, (tokens * K - served).to(tl.int64))
        tl.store(counts + 2 * experts + 1, (served - tl.sum(tl.minimum(chosen, capacity), axis=0)).to(tl.int64))


def place(
    hidden: Tensor,
    router_weight: Tensor,
    bias: Tensor | None,
    place_order: Tensor | None,
    *,
    top_k: int,
    capacity: int | None,
    sum_to_one: bool,
) -> Placement:
    """hidden (T, D), router_weight (E, D), bias (E,) -> the routing of the batch.

    Without `capacity` dropless. With it choices over it are dropped, or where there is a `place_order` (E * C,), the places in
    their random order, recycled.
    """
    return place_logits(
        router_logits(hidden, router_weight), bias, place_order, top_k=top_k, capacity=capacity, sum_to_one=sum_to_one
    )


def router_logits(hidden: Tensor, router_weight: Tensor) -> Tensor:
    """hidden (T, D), router_weight (E, D) -> (T, E) in float32."""
    (tokens, size), experts = hidden.shape, len(router_weight)
    logits = torch.empty(tokens, experts, dtype=torch.float32, device=hidden.device)
    each = min(LOGIT_EXPERTS, max(16, triton.next_power_of_2(experts)))
    grid = (triton.cdiv(tokens, LOGIT_TOKENS), triton.cdiv(experts, each))
    _logits_kernel[grid](
        hidden, router_weight, logits, tokens, size, experts,
        STEPS=triton.cdiv(size, LOGIT_COLUMNS), ROWS=LOGIT_TOKENS, COLUMNS=LOGIT_COLUMNS, EXPERTS=each, num_stages=4,
    )  # fmt: skip
    return logits


def place_logits(
    logits: Tensor,
    bias: Tensor | None,
    place_order: Tensor | None,
    *,
    top_k: int,
    capacity: int | None,
    sum_to_one: bool,
) -> Placement:
    """The same from logits (T, E) in float32."""
    tokens, experts = logits.shape
    device, ep = logits.device, max(16, triton.next_power_of_2(experts))
    rows = min(128, max(16, 4096 // ep))  # tokens a block
    blocks = triton.cdiv(tokens, rows)
    tile = {"K": top_k, "TOKENS": rows, "EP": ep}
    wide = tile | {"KP": triton.next_power_of_2(top_k), "SUM_TO_ONE": sum_to_one}

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    def scan(histogram: Tensor, *, means: bool) -> Tensor:
        totals, lanes = empty(ep), len(histogram)
        _scan_kernel[(ep // SCAN_COLUMNS,)](
            histogram, totals, mean_parts, z_parts, mean, z_loss, lanes, blocks, tokens, experts,
            TURNS=triton.cdiv(lanes, SCAN_ROWS), EP=ep, ROWS=SCAN_ROWS, COLUMNS=SCAN_COLUMNS, MEANS=means,
        )  # fmt: skip
        return totals

    chosen, weight = empty(tokens, top_k), empty(tokens, top_k, dtype=torch.float32)
    mean_parts, z_parts = empty(blocks, ep, dtype=torch.float32), empty(blocks, dtype=torch.float32)
    mean, z_loss = empty(experts, dtype=torch.float32), empty(dtype=torch.float32)
    before = empty(blocks if capacity is None else top_k * blocks, ep)
    _choose_kernel[(blocks,)](
        logits, bias, chosen, weight, before, mean_parts, z_parts, tokens, experts, blocks,
        HAS_BIAS=bias is not None, BY_TURN=capacity is not None, **wide,
    )  # fmt: skip
    choices = totals = scan(before, means=True)
    index = chosen
    if capacity is not None:
        free = None if place_order is None else _free_places(place_order, totals, capacity)
        index, by_turn, before = empty(tokens, top_k), before, empty(blocks, ep)
        _limit_kernel[(blocks,)](
            logits, chosen, by_turn, totals, free, index, weight, before, tokens, experts, capacity, blocks,
            RECYCLE=free is not None, **wide,
        )  # fmt: skip
        totals = scan(before, means=False)
    order, position, ends = empty(tokens * top_k), empty(tokens, top_k), empty(experts)
    counts = empty(2 * experts + 2, dtype=torch.int64)
    limit = tokens * top_k if capacity is None else capacity
    _rank_kernel[(blocks,)](
        index, before, totals, choices, order, position, ends, counts, tokens, experts, limit, **tile
    )
    return Placement(logits, chosen, index, weight, order, position, ends, mean, z_loss, counts)


def _free_places(place_order: Tensor, totals: Tensor, capacity: int) -> Tensor:
    places = len(place_order)
    free = torch.empty(places, dtype=torch.int32, device=place_order.device)
    _free_kernel[(triton.cdiv(places, FREE_BLOCK),)](
        place_order, totals, free, capacity, places,
        TURNS=triton.cdiv(places, FREE_TILE), BLOCK=FREE_BLOCK, TILE=FREE_TILE, num_warps=8,
    )  # fmt: skip
    return free
