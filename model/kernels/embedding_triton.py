"""The gradient of an embedding: the rows of each token summed in the order of their positions, in float32.

N positions, V vocabulary, D hidden.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 8, 512  # of a turn


@triton.jit
def _kernel(gradient, order, ends, output, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    place, end = tl.load(ends + token - 1, mask=token > 0, other=0), tl.load(ends + token)
    total = tl.zeros((COLUMNS,), tl.float32)
    while place < end:
        turn = place + tl.arange(0, ROWS)
        row = tl.load(order + turn, mask=turn < end, other=0)
        there = (turn < end)[:, None] & inside[None, :]
        total += tl.sum(
            tl.load(gradient + row[:, None] * size + column[None, :], mask=there, other=0.0).to(tl.float32), axis=0
        )
        place += ROWS
    tl.store(output + token.to(tl.int64) * size + column, total, mask=inside)


def sum_rows(gradient: Tensor, ids: Tensor, vocabulary: int) -> Tensor:
    """gradient (N, D) contiguous, ids (N,) int64 -> (V, D) in float32."""
    found, order = ids.sort(stable=True)
    ends = torch.searchsorted(found, torch.arange(vocabulary, device=ids.device), right=True)
    size = gradient.shape[1]
    output = torch.empty(vocabulary, size, dtype=torch.float32, device=ids.device)
    columns = min(COLUMNS, triton.next_power_of_2(size))
    _kernel[(vocabulary, triton.cdiv(size, columns))](
        gradient, order, ends, output, size, ROWS=ROWS, COLUMNS=columns, num_warps=4
    )
    return output
