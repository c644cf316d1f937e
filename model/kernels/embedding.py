"""The embedding of a training step: its rows in the precision of the residual stream, its gradient in float32.

N tokens, V vocabulary, D hidden. torch's gradient is the oracle, and serves where Triton does not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.choice import uses_triton


def embed(weight: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """weight (V, D), ids (...) -> (..., D) in `dtype`."""
    if uses_triton(weight) and torch.is_grad_enabled() and weight.requires_grad:
        embedded: Tensor = _Embedding.apply(weight, ids, dtype)
        return embedded
    return F.embedding(ids, weight).to(dtype)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.vocabulary, ctx.precision = weight.shape[0], weight.dtype
        return F.embedding(ids, weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        from model.kernels.embedding_triton import sum_rows

        (ids,) = ctx.saved_tensors
        rows = grads[0].reshape(-1, grads[0].shape[-1])
        return sum_rows(rows, ids.reshape(-1), ctx.vocabulary).to(ctx.precision), None, None
