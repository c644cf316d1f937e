"""Attention of one new token a row over its cached keys and values, from its projections to its heads' outputs, in one kernel.

B rows, H heads, G key-value heads, R = H / G heads of a group, P head size, S' places of the cache, shared out in splits of
SPAN places. A program takes a split of one row and group: it rotates and normalises the group's queries, and where the new
token falls into its split, also the key, which it writes to the cache with the value. How far the cache is filled it reads on
the device; splits beyond that are idle. Of several busy ones the last to finish joins their results (flash-decoding).
`model.layers.attention` is the oracle.
"""

import triton
import triton.language as tl

from model.kernels.decode_triton import _begin, _dot

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _turned(source, row, known, angle_position, frequencies, eps,
            NORM: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr):  # fmt: skip
    """Heads (rows, PADDED) read at `source` + row * HEAD, rotated to a position and, with NORM, normalised; float32."""
    column = tl.arange(0, PADDED)
    half: tl.constexpr = HEAD // 2
    first = column < half
    inside = column < HEAD
    mask = known[:, None] & inside[None, :]
    partner = tl.where(first, column + half, column - half)
    value = tl.load(source + row[:, None] * HEAD + column[None, :], mask=mask, other=0.0).to(tl.float32)
    other = tl.load(source + row[:, None] * HEAD + partner[None, :], mask=mask, other=0.0).to(tl.float32)
    frequency = tl.load(frequencies + tl.where(first, column, column - half), mask=inside, other=0.0)
    angle = angle_position.to(tl.float32) * frequency
    turn = tl.where(first, -tl.sin(angle), tl.sin(angle))
    value = value * tl.cos(angle)[None, :] + other * turn[None, :]
    if NORM:
        value *= tl.rsqrt(tl.sum(value * value, axis=1) / HEAD + eps)[:, None]
    return value


@triton.jit
def _attend_kernel(
    projected, query_norm, key_norm, frequencies, positions, keys, values, output, parts, sums, arrived,
    row_stride, head_stride, scale, eps,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, OWNS: tl.constexpr,
    SPLITS: tl.constexpr, TURNS: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, WIDE: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    _begin(AHEAD)
    pair, split = tl.program_id(0), tl.program_id(1)
    row, group = pair // GROUPS, pair % GROUPS
    REPEATS: tl.constexpr = HEADS // GROUPS
    SPAN: tl.constexpr = TURNS * BLOCK
    STRIDE: tl.constexpr = (HEADS + 2 * GROUPS if OWNS else HEADS) * HEAD
    position = tl.load(positions + row).to(tl.int32)
    busy = position // SPAN + 1  # splits that hold a token
    if split < busy:
        head, column, place = tl.arange(0, QUERIES), tl.arange(0, PADDED), tl.arange(0, BLOCK)
        inside = column < HEAD
        known = head < REPEATS
        source = projected + row * STRIDE
        query = _turned(
            source + group * (REPEATS * HEAD),
            head,
            known,
            position,
            frequencies,
            eps,
            query_norm is not None,
            HEAD,
            PADDED,
        )
        if query_norm is not None:
            norms = tl.load(query_norm + column, mask=inside, other=0.0).to(tl.float32)
            norms *= tl.load(key_norm + column, mask=inside, other=0.0).to(tl.float32)
            query *= norms[None, :]
        dtype = keys.dtype.element_ty
        query = query.to(dtype)
        start = row.to(tl.int64) * row_stride + group.to(tl.int64) * head_stride
        filled = position + 1
        most = tl.full((QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((QUERIES,), tl.float32)
        result = tl.zeros((QUERIES, PADDED), tl.float32)
        if OWNS:
            filled = position  # the new token itself does not go through the cache
            if split == busy - 1:
                one = tl.arange(0, 1)
                new_key = _turned(
                    source + (HEADS + group) * HEAD, one, one < 1, position, frequencies, eps,
                    query_norm is not None, HEAD, PADDED,
                ).to(dtype)  # fmt: skip
                new_value = tl.load(
                    source + (HEADS + GROUPS + group) * HEAD + one[:, None] * HEAD + column[None, :],
                    mask=inside[None, :], other=0.0,
                ).to(dtype)  # fmt: skip
                there = start + position * HEAD + column[None, :] + one[:, None]
                tl.store(keys + there, new_key, mask=inside[None, :])
                tl.store(values + there, new_value, mask=inside[None, :])
                most = tl.sum(query.to(tl.float32) * new_key.to(tl.float32), axis=1) * (scale * LOG2E)
                total += 1.0
                result += new_value.to(tl.float32)
        for turn in range(TURNS):
            at = split * SPAN + turn * BLOCK + place
            seen = at < filled
            where = start + at[:, None] * HEAD + column[None, :]
            mask = seen[:, None] & inside[None, :]
            key = tl.load(keys + where, mask=mask, other=0.0)
            scores = _dot(query, tl.trans(key), tl.zeros((QUERIES, BLOCK), tl.float32)) * (scale * LOG2E)
            scores = tl.where(seen[None, :], scores, float("-inf"))
            higher = tl.maximum(most, tl.max(scores, axis=1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen so far
            weight = tl.exp2(scores - base[:, None])
            fade = tl.exp2(most - base)
            total = total * fade + tl.sum(weight, axis=1)
            value = tl.load(values + where, mask=mask, other=0.0)
            result = _dot(weight.to(dtype), value, result * fade[:, None])
            most = higher
        into = output + row * (HEADS * HEAD) + (group * REPEATS + head)[:, None] * HEAD + column[None, :]
        mask = known[:, None] & inside[None, :]
        if busy == 1:
            tl.store(into, (result / total[:, None]).to(output.dtype.element_ty), mask=mask)
        else:
            part = (pair * SPLITS + split) * REPEATS + head
            tl.store(parts + part[:, None] * HEAD + column[None, :], result, mask=mask)
            tl.store(sums + part * 2, most, mask=known)
            tl.store(sums + part * 2 + 1, total, mask=known)
            tl.debug_barrier()  # all threads have written before one of them says so
            if tl.atomic_add(arrived + pair, 1) == busy - 1:
                tl.debug_barrier()
                for number in range(REPEATS):
                    _join(
                        parts, sums, output + row * (HEADS * HEAD) + (group * REPEATS + number) * HEAD,
                        pair * SPLITS, number, busy, REPEATS, HEAD, PADDED, WIDE,
                    )  # fmt: skip
                tl.store(arrived + pair, 0)


@triton.jit
def _join(parts, sums, output, first, number, busy,
          REPEATS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """One head's output from those of its splits."""
    split, column = tl.arange(0, WIDE), tl.arange(0, PADDED)
    part = (first + split) * REPEATS + number
    inside = column < HEAD
    there = split < busy
    most = tl.load(sums + part * 2, mask=there, other=float("-inf"), cache_modifier=".cg")
    weight = tl.exp2(most - tl.max(most, axis=0))
    total = tl.sum(weight * tl.load(sums + part * 2 + 1, mask=there, other=0.0, cache_modifier=".cg"), axis=0)
    mask = there[:, None] & inside[None, :]
    at = part[:, None] * HEAD + column[None, :]
    value = tl.load(parts + at, mask=mask, other=0.0, cache_modifier=".cg")
    result = tl.sum(value * weight[:, None], axis=0) / total
    tl.store(output + column, result.to(output.dtype.element_ty), mask=inside)
