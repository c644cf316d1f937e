"""Dispatch and combine: tokens sorted by expert, and each token's expert outputs summed back. No weights of its own.

T tokens, D hidden, K experts per token, N = T * K choices, E experts. Rows move by permutation, whose derivative is the
inverse permutation: no scatter, so the sum has one order on every device.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.moe.router import Routing


class DispatchPlan(NamedTuple):
    """Where each of the N choices goes."""

    order: Tensor  # (N,) choices sorted by expert, dropped ones last
    inverse: Tensor  # (N,) the row of each choice in that order
    ends: Tensor  # (E,) int32: rows of expert e end here
    kept: Tensor | None  # (N, 1) bool in sorted order, False for a dropped choice; None where nothing can be dropped


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None


def permute(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """rows (N, D) in the order (N,), whose inverse permutation (N,) is given."""
    permuted: Tensor = _Permute.apply(rows, order, inverse)
    return permuted


def plan_dispatch(routing: Routing, *, may_drop: bool) -> DispatchPlan:
    """The sorted order of a routing; `may_drop` says whether its policy can leave a choice without a place."""
    choices = routing.expert_index.flatten()
    order = choices.argsort(stable=True)
    inverse = torch.empty_like(order).scatter(0, order, torch.arange(order.shape[0], device=order.device))
    kept = (choices[order] < routing.num_experts)[:, None] if may_drop else None
    return DispatchPlan(order, inverse, routing.tokens_per_expert.cumsum(0).to(torch.int32), kept)


def dispatch(hidden: Tensor, plan: DispatchPlan) -> Tensor:
    """hidden (T, D) -> (N, D), each token once for each of its experts, sorted by expert."""
    top_k = plan.order.shape[0] // hidden.shape[0]
    copies = hidden if top_k == 1 else hidden[:, None].expand(-1, top_k, -1).reshape(-1, hidden.shape[-1])
    rows = permute(copies, plan.order, plan.inverse)
    # The grouped product leaves rows after the last expert, and their gradients, undefined: they are cut off on both sides.
    return rows if plan.kept is None else torch.where(plan.kept, rows, 0)


def combine(expert_output: Tensor, plan: DispatchPlan, expert_weight: Tensor) -> Tensor:
    """expert_output (N, D) in sorted order, expert_weight (T, K) -> (T, D): the weighted sum over each token's experts."""
    if plan.kept is not None:
        expert_output = torch.where(plan.kept, expert_output, 0)
    rows = permute(expert_output, plan.inverse, plan.order)
    weight = expert_weight.to(rows.dtype)
    if weight.shape[1] == 1:  # nothing to sum
        return rows * weight
    return (rows.view(*weight.shape, -1) * weight[..., None]).sum(dim=1)
