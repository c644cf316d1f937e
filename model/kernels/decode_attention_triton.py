"""Attention of one new token a row over its cached keys and values, from its projections to its heads' outputs, in one kernel.

B rows, H heads, G key-value heads, R = H / G heads of a group, P head size, S' places of the cache, shared out in splits of
SPAN places. A program takes a split of one row and group: it rotates and normalises the group's queries, and where the new
token falls into its split, also the key, which it writes to the cache with the value. How far the cache is filled it reads on
the device; splits beyond that are idle. Of several busy ones the last to finish joins their results (flash-decoding).
A short context is a matter of waiting times, so what can be read at once is read at the beginning.
`model.layers.attention` is the oracle; model/kernels/decode.py launches the kernel.
"""

import triton
import triton.language as tl

from model.kernels.decode_triton import _begin, _dot

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _heads(source, row, known, HEAD: tl.constexpr, PADDED: tl.constexpr):
    """Heads (rows, PADDED) at `source` + row * HEAD in float32, and the same with each pair's other value in its place."""
    column = tl.arange(0, PADDED)
    partner = tl.where(column < HEAD // 2, column + HEAD // 2, column - HEAD // 2)
    mask = known[:, None] & (column < HEAD)[None, :]
    value = tl.load(source + row[:, None] * HEAD + column[None, :], mask=mask, other=0.0)
    other = tl.load(source + row[:, None] * HEAD + partner[None, :], mask=mask, other=0.0)
    return value.to(tl.float32), other.to(tl.float32)


@triton.jit
def _turned(value, other, cos, sin, eps, NORM: tl.constexpr, HEAD: tl.constexpr):
    """Heads rotated and, with NORM, normalised."""
    value = value * cos[None, :] + other * sin[None, :]
    if NORM:
        value *= tl.rsqrt(tl.sum(value * value, axis=1) / HEAD + eps)[:, None]
    return value


@triton.jit
def _block(keys, values, where, seen, inside, scale, query, most, total, result, BLOCK: tl.constexpr):
    """One more block of places: the greatest score so far, the sum of shares and their weighted values."""
    mask = seen[:, None] & inside[None, :]
    key = tl.load(keys + where, mask=mask, other=0.0)
    value = tl.load(values + where, mask=mask, other=0.0)
    return _seen_block(key, value, seen, scale, query, most, total, result, BLOCK)


@triton.jit
def _seen_block(key, value, seen, scale, query, most, total, result, BLOCK: tl.constexpr):
    scores = _dot(query, tl.trans(key), tl.zeros((query.shape[0], BLOCK), tl.float32)) * (scale * LOG2E)
    scores = tl.where(seen[None, :], scores, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, axis=1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen so far
    weight, fade = tl.exp2(scores - base[:, None]), tl.exp2(most - base)
    total = total * fade + tl.sum(weight, axis=1)
    return higher, total, _dot(weight.to(key.dtype), value, result * fade[:, None])


@triton.jit
def _attend_kernel(
    projected, query_norm, key_norm, frequencies, positions, keys, values, output, parts, sums, arrived,
    row_stride, head_stride, scale, eps,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, OWNS: tl.constexpr,
    SPLITS: tl.constexpr, TURNS: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, CHUNK: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    _begin(AHEAD)
    pair, split = tl.program_id(0), tl.program_id(1)
    row, group = pair // GROUPS, pair % GROUPS
    REPEATS: tl.constexpr = HEADS // GROUPS
    SPAN: tl.constexpr = TURNS * BLOCK
    STRIDE: tl.constexpr = (HEADS + 2 * GROUPS if OWNS else HEADS) * HEAD
    NORM: tl.constexpr = query_norm is not None
    position = tl.load(positions + row).to(tl.int32)
    head, column, place, one = tl.arange(0, QUERIES), tl.arange(0, PADDED), tl.arange(0, BLOCK), tl.arange(0, 1)
    inside, known, first = column < HEAD, head < REPEATS, column < HEAD // 2
    source = projected + row * STRIDE
    raw, raw_other = _heads(source + group * (REPEATS * HEAD), head, known, HEAD, PADDED)
    if OWNS:
        new_key, key_other = _heads(source + (HEADS + group) * HEAD, one, one < 1, HEAD, PADDED)
        new_value, _ = _heads(source + (HEADS + GROUPS + group) * HEAD, one, one < 1, HEAD, PADDED)
    frequency = tl.load(frequencies + tl.where(first, column, column - HEAD // 2), mask=inside, other=0.0)
    busy = position // SPAN + 1  # splits that hold a token
    if split < busy:
        start = row.to(tl.int64) * row_stride + group.to(tl.int64) * head_stride
        filled = position if OWNS else position + 1  # the new token itself does not go through the cache
        at = split * SPAN + place
        where = start + at[:, None] * HEAD + column[None, :]
        if TURNS == 1:
            mask = (at < filled)[:, None] & inside[None, :]
            key = tl.load(keys + where, mask=mask, other=0.0)
            value = tl.load(values + where, mask=mask, other=0.0)
        angle = position.to(tl.float32) * frequency
        cos, sin = tl.cos(angle), tl.sin(angle)
        sin = tl.where(first, -sin, sin)
        turned = _turned(raw, raw_other, cos, sin, eps, NORM, HEAD)
        if NORM:
            norms = tl.load(query_norm + column, mask=inside, other=0.0).to(tl.float32)
            norms *= tl.load(key_norm + column, mask=inside, other=0.0).to(tl.float32)
            turned *= norms[None, :]
        query = turned.to(keys.dtype.element_ty)
        most = tl.full((QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((QUERIES,), tl.float32)
        result = tl.zeros((QUERIES, PADDED), tl.float32)
        if OWNS:
            rounded_key = _turned(new_key, key_other, cos, sin, eps, NORM, HEAD).to(query.dtype)
            rounded_value = new_value.to(query.dtype)
            if split == busy - 1:
                there = start + position * HEAD + column[None, :] + one[:, None]
                tl.store(keys + there, rounded_key, mask=inside[None, :])
                tl.store(values + there, rounded_value, mask=inside[None, :])
                most = tl.sum(query.to(tl.float32) * rounded_key.to(tl.float32), axis=1) * (scale * LOG2E)
                total += 1.0
                result += rounded_value.to(tl.float32)
        if TURNS == 1:
            most, total, result = _seen_block(key, value, at < filled, scale, query, most, total, result, BLOCK)
        else:
            for turn in range(TURNS):
                most, total, result = _block(
                    keys, values, where + turn * (BLOCK * HEAD), at + turn * BLOCK < filled, inside, scale,
                    query, most, total, result, BLOCK,
                )  # fmt: skip
        mask = known[:, None] & inside[None, :]
        if busy == 1:
            into = output + (row * HEADS + group * REPEATS + head)[:, None] * HEAD + column[None, :]
            tl.store(into, (result / total[:, None]).to(output.dtype.element_ty), mask=mask)
        else:
            part = (pair * SPLITS + split) * REPEATS + head
            tl.store(parts + part[:, None] * HEAD + column[None, :], result, mask=mask)
            tl.store(sums + part * 2, most, mask=known)
            tl.store(sums + part * 2 + 1, total, mask=known)
            tl.debug_barrier()  # all threads have written before one of them says so
            if tl.atomic_add(arrived + pair, 1) == busy - 1:
                tl.debug_barrier()
                into = output + (row * HEADS + group * REPEATS) * HEAD
                _join(parts, sums, into, pair * SPLITS, busy, SPLITS, REPEATS, HEAD, PADDED, CHUNK)
                tl.store(arrived + pair, 0)


@triton.jit
def _join(parts, sums, output, start, busy, SPLITS: tl.constexpr, REPEATS: tl.constexpr,
          HEAD: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """The outputs of a group's heads from those of its splits, CHUNK of them at a time."""
    WIDE: tl.constexpr = triton.next_power_of_2(REPEATS)
    head, column, split = tl.arange(0, WIDE), tl.arange(0, PADDED), tl.arange(0, CHUNK)
    inside = (head < REPEATS)[:, None] & (column < HEAD)[None, :]
    most = tl.full((WIDE,), float("-inf"), tl.float32)
    total = tl.zeros((WIDE,), tl.float32)
    result = tl.zeros((WIDE, PADDED), tl.float32)
    for turn in tl.static_range((SPLITS + CHUNK - 1) // CHUNK):
        number = turn * CHUNK + split
        part = (start + number)[:, None] * REPEATS + head[None, :]
        mask = (number < busy)[:, None] & (head < REPEATS)[None, :]
        score = tl.load(sums + part * 2, mask=mask, other=float("-inf"), cache_modifier=".cg")
        share = tl.load(sums + part * 2 + 1, mask=mask, other=0.0, cache_modifier=".cg")
        at = part[:, :, None] * HEAD + column[None, None, :]
        value = tl.load(parts + at, mask=mask[:, :, None] & inside[None, :, :], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(most, tl.max(score, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight, fade = tl.exp2(score - base[None, :]), tl.exp2(most - base)
        total = total * fade + tl.sum(weight * share, axis=0)
        result = result * fade[:, None] + tl.sum(value * weight[:, :, None], axis=0)
        most = higher
    result /= tl.where(total == 0, 1.0, total)[:, None]  # of heads that are none
    tl.store(output + head[:, None] * HEAD + column[None, :], result.to(output.dtype.element_ty), mask=inside)
