"""Expert parallelism: rows travel to the rank that holds their expert, and back.

N rows of one rank, sorted by expert, R rows that it is sent, D hidden, E experts, P ranks, E / P experts each. The router and
everything around it stay as they are: only the products are made elsewhere.

    rows (N, D) by expert -> all-to-all -> (R, D) by sender, then by expert -> (R, D) by expert -> products -> the way back

How many rows each rank is sent, the host must know before they travel: it waits for the device once a layer. This is the plain
path, which serves on processors and without gradients; model/parallel/mixture.py is what a GPU trains with.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.kernels.mixture import Mixture
from model.moe.dispatch import permute
from model.moe.experts import Experts
from model.parallel.mixture import Lane, Sizes, by_expert, exchange, parallel_mixture


class ParallelExperts(Experts):
    """Experts of which this rank holds a part: hidden (N, D) sorted by expert, ends (E,) -> (N, D), 0 after the last end."""

    alone = False

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int, group: dist.ProcessGroup) -> None:
        """`num_experts` is E; the weights are those of E / P."""
        super().__init__(num_experts // group.size(), hidden_size, intermediate_size)
        self.group = group
        self.see: Callable[[str, Tensor], None] | None = (
            None  # told the gradient for each sender's rows, (P * E / P, ...)
        )

    @torch.compiler.disable
    def forward(self, hidden: Tensor, ends: Tensor) -> Tensor:
        counts = torch.diff(ends, prepend=ends.new_zeros(1)).to(torch.int64)  # (E,)
        sizes = Sizes(counts, Lane(hidden.device), self.group)
        sent, received = sizes.read()
        rows: Tensor = _AllToAll.apply(hidden[: sum(sent)], sent, received, self.group)
        if self.see is not None and torch.is_grad_enabled():
            output = self._by_sender(rows, sizes.per_expert)
        else:
            order, inverse = by_expert(sizes.per_expert, sum(received))
            local_ends = sizes.per_expert.sum(dim=0).cumsum(0).to(torch.int32)
            output = permute(super().forward(permute(rows, order, inverse), local_ends), inverse, order)
        back: Tensor = _AllToAll.apply(output, received, sent, self.group)
        missing = len(hidden) - len(back)  # of choices without a place
        return torch.cat([back, back.new_zeros(missing, back.shape[1])]) if missing else back

    def has_operator(self, hidden: Tensor) -> bool:
        return self.see is None and super().has_operator(hidden)

    @torch.compiler.disable
    def mixture(self, hidden: Tensor, router_weight: Tensor, *given: Any, **how: Any) -> Mixture:
        own = self.gate_up, self.down
        shared, bias, place_order = given
        return parallel_mixture(hidden, router_weight, own, shared, bias, place_order, self.group, **how)

    def _by_sender(self, rows: Tensor, per_expert: Tensor) -> Tensor:
        """The same in the order in which rows (R, D) come, with weights of each sender's own, whose gradients come apart."""
        see, copies = self.see, []
        assert see is not None
        for name, weight in (("gate_up", self.gate_up), ("down", self.down)):
            copies.append(weight.repeat(len(per_expert), 1, 1))
            copies[-1].register_hook(functools.partial(see, name))
        return self.products(rows, copies[0], copies[1], per_expert.flatten().cumsum(0).to(torch.int32))


class _AllToAll(torch.autograd.Function):
    """rows (sum of sent, D) -> (sum of received, D); the gradients go the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return exchange(rows.contiguous(), sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return exchange(grads[0].contiguous(), ctx.received, ctx.sent, ctx.group), None, None, None
