"""The kernels of one new token a row (decode_triton.py, decode_attention_triton.py), launched on tensors.

B rows, D hidden, F intermediate, E experts, K choices a row. Nothing is kept for a backward pass and nothing waits for a value,
so all of it can stand in a recorded graph. `arrived` holds int32 zeros, and zeros again after each call.
"""

from typing import NamedTuple

import torch
from torch import Tensor

AHEAD = 0  # 1: a kernel comes onto the device while the one before it ends; 2: and has its first weights fetched
PROGRAMS = 256  # of attention: about two for each multiprocessor of a large GPU
LEAST_SPAN, MOST_SPLITS = 128, 64  # of attention: places of a split that are read in one turn,
SPAN_BYTES = 1 << 15  # of keys at most
JOINED = 8192  # values that the last program of a row and group reads at once, to join the splits
ATTEND_WARPS = 4
MOST_ROWS = 64  # of a batch: beyond it products are no longer bound by reading weights


class Matrix(NamedTuple):
    """A weight (O, D) or (E, O, D), in the precision of the model, or int8 with scales (O,) or (E, O); a bias (O,) is added."""

    weight: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None


class Choices(NamedTuple):
    """The experts of every row."""

    expert: Tensor  # (B, K) int32
    weight: Tensor  # (B, K) float32


class Tile(NamedTuple):
    """What a program holds at a time: outputs, values of each; its warps, and how many turns it reads ahead."""

    rows: int
    block: int
    warps: int = 4
    stages: int = 3


TILES = {  # the one place that says how large a program is, by kernel; for one row and for several
    "project": (Tile(2, 2048, 4, 1), Tile(16, 256, 4, 3)),
    "gate_up": (Tile(2, 1024, 2, 4), Tile(64, 64, 4, 4)),
    "down": (Tile(2, 512, 2, 5), Tile(64, 64, 4, 4)),
}
ROUTER = Tile(4, 512)


def project(
    hidden: Tensor,
    matrices: tuple[Matrix, ...],
    *,
    norm: tuple[Tensor, float] | None = None,
    addend: Tensor | None = None,
) -> Tensor:
    """hidden (B, D) through one matrix (O, D), or through those of queries, keys and values -> (B, all O side by side).

    norm: the weight (D,) and epsilon of an RMS norm before it; `addend` (B, O) is added.
    """
    from model.kernels.decode_triton import _project_kernel

    (batch, size), first = hidden.shape, matrices[0]
    keys, values = matrices[1:] if len(matrices) > 1 else (Matrix(first.weight), Matrix(first.weight))
    outputs, kv_size = len(first.weight), len(keys.weight) if len(matrices) > 1 else 0
    output = hidden.new_empty(batch, outputs + 2 * kv_size)
    tile, padded = _tile("project", batch), _padded(batch)
    blocks = _blocks(outputs, tile.rows) + 2 * _blocks(kv_size, tile.rows)
    weight, eps = (None, 0.0) if norm is None else norm
    _project_kernel[(blocks,)](
        hidden, weight, *first, *keys, *values, addend, output, batch, eps, size, outputs, kv_size,
        tile.rows, _block(tile, size, hidden), padded, tile.stages, AHEAD, num_warps=tile.warps, launch_pdl=AHEAD > 0,
    )  # fmt: skip
    return output


def attend(
    projected: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    frequencies: Tensor,
    positions: Tensor,
    slot: tuple[Tensor, Tensor],
    arrived: Tensor,
    *,
    heads: int,
    owns: bool,
    eps: float,
    span: int | None = None,
) -> Tensor:
    """projected (B, (H + 2 G) P), or (B, H P) of a layer that borrows -> (B, H P).

    norms: the weights (P,) of queries and keys, None without normalisation. frequencies (P / 2,) float32 in radians per
    position; positions (B,) int64 of the new tokens; slot: keys and values (B, G, S', P), written where the layer owns them.
    arrived (B * G or more,) int32 zeros, and zeros again afterwards. `span` places a split; by default as many splits as
    keep the device busy.
    """
    from model.kernels.decode_attention_triton import _attend_kernel

    keys, values = slot
    batch, groups, places, size = keys.shape
    repeats, padded = heads // groups, max(16, _power(size))
    least = max(16, min(LEAST_SPAN, SPAN_BYTES // (padded * keys.element_size())))
    if span is None:
        wanted = min(MOST_SPLITS, max(1, PROGRAMS // (batch * groups)))
        span = max(least, _power(_blocks(places, wanted)))
    span = min(span, max(16, _power(places)))
    block = span if span <= least else max(16, least // 2)
    turns, splits = span // block, _blocks(places, span)
    output = projected.new_empty(batch, heads * size, dtype=keys.dtype)
    parts = projected.new_empty(batch * groups * splits * repeats * size if splits > 1 else 1, dtype=torch.float32)
    sums = projected.new_empty(batch * groups * splits * repeats * 2 if splits > 1 else 1, dtype=torch.float32)
    query_norm, key_norm = (None, None) if norms is None else norms
    _attend_kernel[(batch * groups, splits)](
        projected, query_norm, key_norm, frequencies, positions, keys, values, output, parts, sums, arrived,
        keys.stride(0), keys.stride(1), size**-0.5, eps, heads, groups, size, padded, owns,
        splits, turns, block, max(16, _power(repeats)), max(1, min(JOINED // (_power(repeats) * padded), _power(splits))),
        AHEAD, num_warps=ATTEND_WARPS, launch_pdl=AHEAD > 0,
    )  # fmt: skip
    return output


def gate_up_and_choose(
    hidden: Tensor,
    norm: tuple[Tensor, float],
    matrix: Matrix | None,
    router: Tensor | None,
    bias: Tensor | None,
    arrived: Tensor,
    *,
    top_k: int = 1,
    sum_to_one: bool = False,
) -> tuple[Tensor | None, Choices | None]:
    """The activation (B, F) of a SwiGLU over the normalised hidden (B, D), and what the router (E, D) chooses from the same.

    matrix: gate and up (2F, D), None where there is no shared expert; without a router nothing is chosen. `bias` (E,) counts
    for the choice alone. The router computes in float32. arrived (B,).
    """
    from model.kernels.decode_triton import _gate_up_kernel

    batch, size = hidden.shape
    experts = 0 if router is None else len(router)
    width = 0 if matrix is None else len(matrix.weight) // 2
    tile = _tile("gate_up", batch)
    output = hidden.new_empty(batch, width)
    logits = hidden.new_empty(batch, experts, dtype=torch.float32)
    index = hidden.new_empty(batch, top_k, dtype=torch.int32)
    weight = hidden.new_empty(batch, top_k, dtype=torch.float32)
    given, scale = (None, None) if matrix is None else matrix[:2]
    blocks = _blocks(experts, ROUTER.rows) * batch + _blocks(width, tile.rows)
    _gate_up_kernel[(blocks,)](
        hidden, norm[0], given, scale, output, router, bias, logits, index, weight, arrived, batch, norm[1],
        size, width, experts, top_k, sum_to_one, ROUTER.rows, _block(ROUTER, size, hidden), _power(experts), _power(top_k),
        tile.rows, _block(tile, size, hidden), _padded(batch), tile.stages, AHEAD, num_warps=tile.warps, launch_pdl=AHEAD > 0,
    )  # fmt: skip
    return (None if matrix is None else output), (None if router is None else Choices(index, weight))


def routed_gate_up(hidden: Tensor, norm: tuple[Tensor, float], matrix: Matrix, choices: Choices) -> Tensor:
    """The activations (B, K, F) of each row's experts, times their weights. matrix: gate and up (E, 2F, D)."""
    from model.kernels.decode_triton import _routed_gate_up_kernel

    (batch, size), top_k = hidden.shape, choices.expert.shape[1]
    experts, width = len(matrix.weight), matrix.weight.shape[1] // 2
    tile = _tile("gate_up", batch)
    output = hidden.new_empty(batch, top_k, width)
    _routed_gate_up_kernel[(_blocks(width, tile.rows), top_k if batch == 1 else experts)](
        hidden, norm[0], matrix.weight, matrix.scale, output, *choices, batch, norm[1],
        size, width, top_k, _power(top_k), tile.rows, _block(tile, size, hidden), _padded(batch), tile.stages,
        AHEAD, num_warps=tile.warps, launch_pdl=AHEAD > 0,
    )  # fmt: skip
    return output


def down(
    hidden: Tensor,
    shared: Tensor | None,
    shared_matrix: Matrix | None,
    routed: Tensor,
    matrix: Matrix,
    choices: Choices,
) -> Tensor:
    """hidden (B, D) + shared (B, S) through its matrix (D, S) + each row of routed (B, K, F) through its expert's (E, D, F)."""
    from model.kernels.decode_triton import _add_kernel, _down_kernel, _routed_down_kernel

    (batch, size), (top_k, width) = hidden.shape, routed.shape[1:]
    tile, output = _tile("down", batch), torch.empty_like(hidden)
    if batch == 1:
        shared_width = 0 if shared is None else shared.shape[1]
        weight, scale = (None, None) if shared_matrix is None else shared_matrix[:2]
        _down_kernel[(_blocks(size, tile.rows),)](
            shared, weight, scale, routed, matrix.weight, matrix.scale, choices.expert, hidden, output,
            shared_width, size, width, top_k, tile.rows, _block(tile, shared_width, hidden), _block(tile, width, hidden),
            tile.stages,
            AHEAD, num_warps=tile.warps, launch_pdl=AHEAD > 0,
        )  # fmt: skip
        return output
    if shared is not None and shared_matrix is not None:
        hidden = project(shared, (shared_matrix,), addend=hidden)
    parts = hidden.new_empty(top_k, batch, size, dtype=torch.float32)
    _routed_down_kernel[(_blocks(size, tile.rows), len(matrix.weight))](
        routed, matrix.weight, matrix.scale, choices.expert, parts, batch,
        width, size, top_k, _power(top_k), tile.rows, _block(tile, width, hidden), _padded(batch), tile.stages,
        AHEAD, num_warps=tile.warps, launch_pdl=AHEAD > 0,
    )  # fmt: skip
    _add_kernel[(_blocks(hidden.numel(), 1024),)](
        hidden, parts, output, hidden.numel(), top_k, 1024, AHEAD, launch_pdl=AHEAD > 0
    )
    return output


def _tile(kernel: str, batch: int) -> Tile:
    return TILES[kernel][batch > 1]


def _block(tile: Tile, size: int, hidden: Tensor) -> int:
    """Values of a row at a time, a power of two, half as many in float32: of the last turn not much may be empty."""
    block = min(tile.block * 2 // hidden.element_size(), max(16, _power(size)))
    while block > 128 and -size % block > size // 16:
        block //= 2
    return block


def _padded(batch: int) -> int:
    return 1 if batch == 1 else max(16, _power(batch))


def _power(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _blocks(count: int, size: int) -> int:
    return -(-count // size)
