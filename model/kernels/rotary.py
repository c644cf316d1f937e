"""Queries and keys of a training step turned by their positions, and normalised, out of one product, as an operator of torch.

`model.layers.rope.rotate` with `model.layers.norm.rms_normalize` is the oracle, and serves where Triton does not. One operator
for queries, keys and values, because their gradients are then written side by side, as the product's backward pass reads them.

B batch, S sequence, H heads, G key-value heads, P head size, W = (H + 2 G) P, or H P where keys and values are borrowed.
"""

from typing import Any

import torch
from torch import Tensor


def split_and_turn(
    projected: Tensor, rope: tuple[Tensor, Tensor], weight: Tensor | None, eps: float, *, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """projected (B, S, W), rope of `rope_table` for S positions -> queries (B, S, H, P), keys and values (B, S, G, P).

    The positions are those of every row, or (B, S). With `weight` (P,) queries and keys are normalised over P, and the
    queries then multiplied by it.
    """
    rows = projected.shape[:2]
    if rope[0].dim() == 4:  # each token has an angle of its own: all are one row
        projected, rope = projected.flatten(0, 1)[None], (rope[0].flatten(0, 1), rope[1].flatten(0, 1))
    found = _split_and_turn(
        projected.contiguous(), *(table.contiguous() for table in rope), weight, eps, heads, kv_heads
    )
    queries, keys, values = (part.view(*rows, *part.shape[2:]) if part.numel() else part for part in found)
    return queries, keys, values


@torch.library.custom_op("hunyuan::split_and_turn", mutates_args=())
def _split_and_turn(
    projected: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    from model.kernels.rotary_triton import Part, forward

    size, norm = cos.shape[-1], weight is not None
    queries = forward(projected, Part(0, heads), cos, sin, weight, eps, norm=norm)
    if not kv_heads:
        return queries, projected.new_empty(0), projected.new_empty(0)
    keys = forward(projected, Part(heads * size, kv_heads), cos, sin, None, eps, norm=norm)
    values = projected[..., (heads + kv_heads) * size :].unflatten(-1, (kv_heads, size))
    return queries, keys, values.clone(memory_format=torch.contiguous_format)


@_split_and_turn.register_fake
def _(
    projected: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, _ = projected.shape
    shape = (batch, tokens, kv_heads, cos.shape[-1]) if kv_heads else (0,)
    queries = projected.new_empty(batch, tokens, heads, cos.shape[-1])
    return queries, projected.new_empty(shape), projected.new_empty(shape)


@torch.library.custom_op("hunyuan::split_and_turn_backward", mutates_args=())
def _gradients(
    d_queries: Tensor, d_keys: Tensor | None, d_values: Tensor | None,
    projected: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float, heads: int, kv_heads: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from model.kernels.rotary_triton import Part, backward

    size, norm = cos.shape[-1], weight is not None
    d_projected = torch.empty_like(projected)
    operands = projected, Part(0, heads), cos, sin, weight, eps, d_projected
    d_weight = backward(d_queries, *operands, norm=norm)
    if kv_heads:
        columns = d_projected[..., heads * size :].unflatten(-1, (2, kv_heads, size))
        if d_keys is None:
            columns[..., 0, :, :] = 0
        else:
            backward(d_keys, projected, Part(heads * size, kv_heads), cos, sin, None, eps, d_projected, norm=norm)
        columns[..., 1, :, :] = 0 if d_values is None else d_values
    return d_projected, projected.new_empty(0) if d_weight is None else d_weight


@_gradients.register_fake
def _(
    d_queries: Tensor, d_keys: Tensor | None, d_values: Tensor | None,
    projected: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float, heads: int, kv_heads: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    d_weight = projected.new_empty(0) if weight is None else cos.new_empty(weight.shape)
    return torch.empty_like(projected), d_weight


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps, ctx.heads, ctx.kv_heads = inputs
    ctx.save_for_backward(*tensors)
    ctx.queries = output[0].shape
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_queries: Tensor | None, d_keys: Tensor | None, d_values: Tensor | None) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    if d_queries is None:
        d_queries = saved[0].new_zeros(ctx.queries)
    d_projected, d_weight = _gradients(d_queries, d_keys, d_values, *saved, ctx.eps, ctx.heads, ctx.kv_heads)
    d_weight = None if saved[3] is None else d_weight.to(saved[3].dtype)
    return d_projected, None, None, d_weight, None, None, None


_split_and_turn.register_autograd(_backward, setup_context=_save)
