"""The products of one new token a row: every weight is read once, with what stands around the product in the same kernel.

B rows, D hidden, F intermediate, O outputs, E experts, K choices a row. Weights are (O, D): a program takes a few outputs and
goes along their rows. A single row is multiplied by plain sums, several rows, filled up to BATCH, by the matrix units. A norm
before a product costs no pass: its weight goes to the row as it is read, and 1 / rms to the result.
model/kernels/decode.py launches them and model/generation/one_token.py puts them together; the model's own path is the oracle.

A weight may be int8 with a scale (O,) in float32 for each output, (E, O) for experts: pass the scale beside it. It is
multiplied in the precision of the rows, and the sum by its scale.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # where a dot does not know bfloat16


@triton.jit
def _dot(left, right, sums):
    """left (M, K), whole numbers too, times right (K, N) in the precision of `right`."""
    if left.dtype.is_int():
        left = left.to(tl.float32)
    left = left.to(right.dtype)
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, sums, input_precision="ieee")


@triton.jit
def _begin(AHEAD: tl.constexpr):
    """With programmatic dependent launch the next kernel may come onto the device now; what the one before wrote is there."""
    if AHEAD:
        gdc_launch_dependents()
        gdc_wait()


FETCHED = tl.constexpr(64)  # values a line of the cache, in bfloat16


@triton.jit
def _fetch(weight, block, OUT: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, AHEAD: tl.constexpr):
    """Has a program's rows of a weight (OUT, SIZE) brought into the last cache while the kernel before ends."""
    if AHEAD > 1:
        line = tl.arange(0, 128) * FETCHED
        for turn in tl.static_range(ROWS * SIZE // (128 * FETCHED)):
            at = block.to(tl.int64) * (ROWS * SIZE) + turn * (128 * FETCHED) + line
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight + tl.minimum(at, OUT * SIZE - 1)],
                dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


@triton.jit
def _along(
    x, norm, weight, second, row, inside, batch, SIZE: tl.constexpr, TWO: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Rows x (B, SIZE) times the rows `row` of a weight, and of a second one where TWO; and the sums of x^2 (1, BATCH)."""
    column, token = tl.arange(0, BLOCK), tl.arange(0, BATCH)
    known = token < batch
    WIDTH: tl.constexpr = BLOCK if BATCH == 1 else BATCH
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    others = tl.zeros((ROWS, WIDTH), tl.float32)
    squares = tl.zeros((BATCH, BLOCK), tl.float32)
    at = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    for start in tl.range(0, SIZE, BLOCK, num_stages=STAGES):
        there = (start + column < SIZE)[None, :]
        mask = inside[:, None] & there
        value = tl.load(weight + at + start, mask=mask, other=0.0)
        if TWO:
            other = tl.load(second + at + start, mask=mask, other=0.0)
        given = tl.load(x + token[:, None] * SIZE + start + column[None, :], mask=known[:, None] & there, other=0.0)
        operand = given
        if norm is not None:
            real = given.to(tl.float32)
            squares += real * real
            real *= tl.load(norm + start + column, mask=start + column < SIZE, other=0.0).to(tl.float32)[None, :]
            operand = real.to(given.dtype) if BATCH > 1 else real
        if BATCH == 1:
            sums += value.to(tl.float32) * operand.to(tl.float32)
            if TWO:
                others += other.to(tl.float32) * operand.to(tl.float32)
        else:
            turned = tl.trans(operand)
            sums = _dot(value, turned, sums)
            if TWO:
                others = _dot(other, turned, others)
    if BATCH == 1:
        sums = tl.sum(sums, axis=1)[:, None]
        others = tl.sum(others, axis=1)[:, None]
    return sums, others, tl.sum(squares, axis=1)[None, :]


@triton.jit
def _project(
    x, norm, weight, scale, bias, addend, output, block, first, batch, eps,
    SIZE: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row, token = block * ROWS + tl.arange(0, ROWS), tl.arange(0, BATCH)
    inside = row < OUT
    found, _, squares = _along(x, norm, weight, weight, row, inside, batch, SIZE, False, ROWS, BLOCK, BATCH, STAGES)
    if norm is not None:
        found *= tl.rsqrt(squares / SIZE + eps)
    if scale is not None:
        found *= tl.load(scale + row, mask=inside, other=0.0)[:, None]
    if bias is not None:
        found += tl.load(bias + row, mask=inside, other=0.0).to(tl.float32)[:, None]
    mask = inside[:, None] & (token < batch)[None, :]
    at = token[None, :] * STRIDE + (first + row)[:, None]
    if addend is not None:
        found += tl.load(addend + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(output + at, found.to(output.dtype.element_ty), mask=mask)


@triton.jit
def _project_kernel(
    x, norm, weight, scale, bias, key_weight, key_scale, key_bias, value_weight, value_scale, value_bias,
    addend, output, batch, eps, SIZE: tl.constexpr, OUT: tl.constexpr, KEYS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    BLOCKS: tl.constexpr = (OUT + ROWS - 1) // ROWS
    KEY_BLOCKS: tl.constexpr = (KEYS + ROWS - 1) // ROWS
    STRIDE: tl.constexpr = OUT + 2 * KEYS
    if block < BLOCKS:
        _fetch(weight, block, OUT, SIZE, ROWS, AHEAD)
    _begin(AHEAD)
    if block < BLOCKS:
        _project(
            x, norm, weight, scale, bias, addend, output, block, 0, batch, eps,
            SIZE, OUT, STRIDE, ROWS, BLOCK, BATCH, STAGES,
        )  # fmt: skip
    elif block < BLOCKS + KEY_BLOCKS:
        _project(
            x, norm, key_weight, key_scale, key_bias, addend, output, block - BLOCKS, OUT, batch, eps,
            SIZE, KEYS, STRIDE, ROWS, BLOCK, BATCH, STAGES,
        )  # fmt: skip
    elif KEYS > 0:
        _project(
            x, norm, value_weight, value_scale, value_bias, addend, output, block - BLOCKS - KEY_BLOCKS, OUT + KEYS,
            batch, eps, SIZE, KEYS, STRIDE, ROWS, BLOCK, BATCH, STAGES,
        )  # fmt: skip


@triton.jit
def _choose(logits, bias, index, weight, token, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SUM_TO_ONE: tl.constexpr,
            WIDTH: tl.constexpr, CHOICES: tl.constexpr):  # fmt: skip
    """The experts of one row from its logits, and their weights, as model/moe/router.py has them."""
    expert, choice = tl.arange(0, WIDTH), tl.arange(0, CHOICES)
    inside = expert < EXPERTS
    logit = tl.load(logits + token * EXPERTS + expert, mask=inside, other=float("-inf"), cache_modifier=".cg")
    share = tl.exp(logit - tl.max(logit, axis=0))
    share /= tl.sum(share, axis=0)
    score = share
    if bias is not None:
        score += tl.load(bias + expert, mask=inside, other=0.0).to(tl.float32)
    score = tl.where(inside & (score == score), score, float("-inf"))  # lanes may disagree on the greatest of NaN
    chosen, found = tl.zeros((CHOICES,), tl.int32), tl.zeros((CHOICES,), tl.float32)
    for k in tl.static_range(TOP_K):
        best = tl.argmax(score, axis=0)
        value = tl.sum(tl.where(expert == best, share, 0.0), axis=0)
        chosen = tl.where(choice == k, best, chosen)
        found = tl.where(choice == k, value, found)
        score = tl.where(expert == best, float("-inf"), score)
    if SUM_TO_ONE:
        found /= tl.sum(found, axis=0)
    tl.store(index + token * TOP_K + choice, chosen, mask=choice < TOP_K)
    tl.store(weight + token * TOP_K + choice, found, mask=choice < TOP_K)


@triton.jit
def _route(
    x, norm, router, bias, logits, index, weight, arrived, token, part, eps,
    SIZE: tl.constexpr, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SUM_TO_ONE: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, CHOICES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A part of one row's logits; of a row's programs the last to arrive chooses."""
    row = part * ROWS + tl.arange(0, ROWS)
    inside = row < EXPERTS
    found, _, squares = _along(
        x + token * SIZE, norm, router, router, row, inside, 1, SIZE, False, ROWS, BLOCK, 1, STAGES
    )
    found *= tl.rsqrt(squares / SIZE + eps)
    tl.store(logits + token * EXPERTS + row[:, None], found, mask=inside[:, None])
    tl.debug_barrier()  # all threads have written before one of them says so
    if tl.atomic_add(arrived + token, 1) == PARTS - 1:
        tl.debug_barrier()
        _choose(logits, bias, index, weight, token, EXPERTS, TOP_K, SUM_TO_ONE, WIDTH, CHOICES)
        tl.store(arrived + token, 0)


@triton.jit
def _gate_up(
    x, norm, weight, scale, row, batch, eps, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """SwiGLU (ROWS, BATCH) of the normalised rows, from rows of gate and those of up behind them."""
    inside = row < WIDTH
    gate, up, squares = _along(
        x, norm, weight, weight + WIDTH * SIZE, row, inside, batch, SIZE, True, ROWS, BLOCK, BATCH, STAGES
    )
    factor = tl.rsqrt(squares / SIZE + eps)
    gate, up = gate * factor, up * factor
    if scale is not None:
        gate *= tl.load(scale + row, mask=inside, other=0.0)[:, None]
        up *= tl.load(scale + WIDTH + row, mask=inside, other=0.0)[:, None]
    return gate * tl.sigmoid(gate) * up


@triton.jit
def _gate_up_kernel(
    x, norm, weight, scale, output, router, bias, logits, index, routing_weight, arrived, batch, eps,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SUM_TO_ONE: tl.constexpr,
    ROUTER_ROWS: tl.constexpr, ROUTER_BLOCK: tl.constexpr, PADDED: tl.constexpr, CHOICES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """output (B, F) of what every token visits, and beside it the router, in the first programs of the grid."""
    block = tl.program_id(0)
    PARTS: tl.constexpr = (EXPERTS + ROUTER_ROWS - 1) // ROUTER_ROWS
    if WIDTH > 0:  # noqa: SIM102
        if block >= PARTS * batch:
            _fetch(weight, block - PARTS * batch, 2 * WIDTH, SIZE, ROWS, AHEAD)
            _fetch(weight + WIDTH * SIZE, block - PARTS * batch, WIDTH, SIZE, ROWS, AHEAD)
    _begin(AHEAD)
    if EXPERTS > 0:  # noqa: SIM102 - known when the kernel is compiled
        if block < PARTS * batch:
            _route(
                x, norm, router, bias, logits, index, routing_weight, arrived, block // PARTS, block % PARTS, eps,
                SIZE, EXPERTS, TOP_K, SUM_TO_ONE, PARTS, ROUTER_ROWS, ROUTER_BLOCK, PADDED, CHOICES, STAGES,
            )  # fmt: skip
    if WIDTH > 0:  # noqa: SIM102 - known when the kernel is compiled
        if block >= PARTS * batch:
            row, token = (block - PARTS * batch) * ROWS + tl.arange(0, ROWS), tl.arange(0, BATCH)
            value = _gate_up(x, norm, weight, scale, row, batch, eps, SIZE, WIDTH, ROWS, BLOCK, BATCH, STAGES)
            mask = (row < WIDTH)[:, None] & (token < batch)[None, :]
            tl.store(output + token[None, :] * WIDTH + row[:, None], value.to(output.dtype.element_ty), mask=mask)


@triton.jit
def _of_expert(index, expert, batch, TOP_K: tl.constexpr, CHOICES: tl.constexpr, BATCH: tl.constexpr):
    """Which choice (BATCH,) of each row is this expert, -1 where none is."""
    token, choice = tl.arange(0, BATCH), tl.arange(0, CHOICES)
    mask = (token < batch)[:, None] & (choice < TOP_K)[None, :]
    chosen = tl.load(index + token[:, None] * TOP_K + choice[None, :], mask=mask, other=-1)
    return tl.max(tl.where(chosen == expert, choice[None, :], -1), axis=1)


@triton.jit
def _routed_gate_up_kernel(
    x, norm, weight, scale, output, index, routing_weight, batch, eps,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, TOP_K: tl.constexpr, CHOICES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """output (B, K, F): with one row a program for each choice, with several one for each expert, idle where none chose it."""
    _begin(AHEAD)
    block, which = tl.program_id(0), tl.program_id(1)
    row, token = block * ROWS + tl.arange(0, ROWS), tl.arange(0, BATCH)
    if BATCH == 1:
        expert = tl.load(index + which).to(tl.int64)
        choice = tl.full((1,), 0, tl.int32) + which
    else:
        expert = which.to(tl.int64)
        choice = _of_expert(index, which, batch, TOP_K, CHOICES, BATCH)
    if tl.max(choice, axis=0) >= 0:
        there = None if scale is None else scale + expert * (2 * WIDTH)
        value = _gate_up(
            x, norm, weight + expert * (2 * WIDTH * SIZE), there, row, batch, eps,
            SIZE, WIDTH, ROWS, BLOCK, BATCH, STAGES,
        )  # fmt: skip
        place, chose = token * TOP_K + choice, (choice >= 0) & (token < batch)
        value *= tl.load(routing_weight + place, mask=chose, other=0.0)[None, :]
        mask = (row < WIDTH)[:, None] & chose[None, :]
        tl.store(output + place[None, :] * WIDTH + row[:, None], value.to(output.dtype.element_ty), mask=mask)


@triton.jit
def _down_kernel(
    shared, weight, scale, routed, expert_weight, expert_scale, index, addend, output,
    SIZE: tl.constexpr, OUT: tl.constexpr, EXPERT_SIZE: tl.constexpr, TOP_K: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, EXPERT_BLOCK: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """One row through both: addend (D,) + shared (S,) @ weight.T + each choice of routed (K, F) through its expert."""
    if SIZE > 0:
        _fetch(weight, tl.program_id(0), OUT, SIZE, ROWS, AHEAD)
    _begin(AHEAD)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < OUT
    total = tl.load(addend + row, mask=inside, other=0.0).to(tl.float32)[:, None]
    if SIZE > 0:
        found, _, _ = _along(shared, None, weight, weight, row, inside, 1, SIZE, False, ROWS, BLOCK, 1, STAGES)
        if scale is not None:
            found *= tl.load(scale + row, mask=inside, other=0.0)[:, None]
        total += found
    for k in tl.static_range(TOP_K):
        expert = tl.load(index + k).to(tl.int64)
        at = expert_weight + expert * (OUT * EXPERT_SIZE)
        found, _, _ = _along(
            routed + k * EXPERT_SIZE, None, at, at, row, inside, 1, EXPERT_SIZE, False, ROWS, EXPERT_BLOCK, 1, STAGES
        )
        if expert_scale is not None:
            found *= tl.load(expert_scale + expert * OUT + row, mask=inside, other=0.0)[:, None]
        total += found
    tl.store(output + row[:, None], total.to(output.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _routed_down_kernel(
    routed, weight, scale, index, parts, batch,
    SIZE: tl.constexpr, OUT: tl.constexpr, TOP_K: tl.constexpr, CHOICES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """parts (K, B, D): every choice of several rows through its expert, a program for each expert."""
    _begin(AHEAD)
    block, expert = tl.program_id(0), tl.program_id(1)
    row, token, column = block * ROWS + tl.arange(0, ROWS), tl.arange(0, BATCH), tl.arange(0, BLOCK)
    inside = row < OUT
    choice = _of_expert(index, expert, batch, TOP_K, CHOICES, BATCH)
    if tl.max(choice, axis=0) >= 0:
        chose = choice >= 0
        sums = tl.zeros((ROWS, BATCH), tl.float32)
        at = weight + expert.to(tl.int64) * (OUT * SIZE) + row[:, None] * SIZE + column[None, :]
        given = routed + (token * TOP_K + choice)[:, None] * SIZE + column[None, :]
        for start in tl.range(0, SIZE, BLOCK, num_stages=STAGES):
            there = (start + column < SIZE)[None, :]
            value = tl.load(at + start, mask=inside[:, None] & there, other=0.0)
            operand = tl.load(given + start, mask=chose[:, None] & there, other=0.0)
            sums = _dot(value, tl.trans(operand), sums)
        if scale is not None:
            sums *= tl.load(scale + expert * OUT + row, mask=inside, other=0.0)[:, None]
        place = (choice * batch + token)[None, :] * OUT + row[:, None]
        tl.store(parts + place, sums, mask=inside[:, None] & chose[None, :])


@triton.jit
def _add_kernel(hidden, parts, output, size, TOP_K: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr):
    _begin(AHEAD)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    total = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    for k in tl.static_range(TOP_K):
        total += tl.load(parts + k * size + place, mask=inside, other=0.0)
    tl.store(output + place, total.to(output.dtype.element_ty), mask=inside)
