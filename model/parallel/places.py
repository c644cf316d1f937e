"""Processes that route their tokens as one: places of experts and balance over all that is computed at a time.

    route_together(net, group of all, sequence)      as model.capacity_scope and model.balance_scope say

With micro_batch, which is the rule, every micro-batch has places and a balance loss of its own, and no number depends on how
many processes there are. With global the micro-batches that all processes compute at a time, dp of them, are routed as one
process would route them in one micro-batch dp times larger, choice by choice, in the order of their numbers. On skewed
text fewer choices are left over, and the balance loss asks for balance over the batch alone, which lets experts specialise
(Qwen, arXiv:2501.11873). One process has nothing to share: there both mean the same.

Micro-batches that are accumulated are not counted together: the fractions of the balance loss are those of the micro-batches
under way, not of all so far in the step. So with global the numbers of a run depend on how many processes share it out.

Places need one all-gather of counts (K, R, E) a layer: a choice stands behind all earlier choices, first ones before second
ones, of the chunks before its own, and behind those of its own chunk. A process has one chunk of consecutive tokens, or two of
each sequence where sequences are shared out (sequence.py), which then share places in any scope. Balance needs the sum of (E,)
counts; probabilities stay where they are. Both come again when a block is recomputed, and the host waits for neither.

P processes, dp of them with other sequences, n that share one; B sequences, K choices a token, E experts, R chunks.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from model.moe.layer import MoE
from model.parallel.sequence import SequenceGroup, all_gather, in_order, part_of
from model.transformer import Hunyuan


def route_together(net: Hunyuan, everyone: dist.ProcessGroup, sequence: SequenceGroup | None) -> None:
    """Has the mixtures of a model share places and be balanced over processes, in place; all of `everyone` call it.

    `sequence` are those that share out sequences with this one, which are neighbours.
    """
    of_sequence = None if sequence is None else RoutingGroup(sequence.group, sequence)
    of_all = RoutingGroup(everyone, sequence) if everyone.size() > 1 else None
    for layer in net.layers:
        if isinstance(layer.mlp, MoE):
            layer.mlp.capacity_scope = of_all if net.config.capacity_scope == "global" else of_sequence
            layer.mlp.balance_scope = of_all if net.config.balance_scope == "global" else of_sequence


class RoutingGroup:
    """The processes whose tokens are routed as one, as one of them sees them: a Scope of model/moe/router.py."""

    def __init__(self, group: dist.ProcessGroup, sequence: SequenceGroup | None) -> None:
        self.group, self.processes = group, group.size()
        self._sequence, self._sharers = sequence, 1 if sequence is None else sequence.processes
        self._turn = group.rank() // self._sharers  # which of the dp

    @property
    def chunks(self) -> int:
        return 1 if self._sequence is None else 2 * self._sequence.sequences

    @torch.compiler.disable
    def all_chunks(self, own: Tensor) -> Tensor:
        top_k, chunks, experts = own.shape
        parts = own.new_empty(self.processes * top_k, chunks, experts, dtype=torch.int32)
        all_gather(parts, own.int().contiguous(), group=self.group)
        parts = parts.to(own.dtype)
        if self._sequence is None:
            return parts.view(self.processes, top_k, experts).transpose(0, 1)
        # The chunks of a sequence are to its counts what its tokens are to itself.
        by_sharer = parts.view(-1, self._sharers, top_k, chunks // 2, 2, experts).movedim(1, 0)
        return in_order(by_sharer, dim=3).transpose(0, 1).flatten(1, 3)  # (K, dp * B * 2n, E)

    def own_chunks(self, whole: Tensor) -> Tensor:
        turns = self.processes // self._sharers
        own = whole.unflatten(1, (turns, -1))[:, self._turn]  # (K, B * 2n, ...)
        if self._sequence is None:
            return own
        sequences = own.unflatten(1, (self._sequence.sequences, 2 * self._sharers))
        return part_of(sequences, self._sequence.process, self._sharers, dim=2).flatten(1, 2)

    @torch.compiler.disable
    def sum(self, counts: Tensor) -> Tensor:
        total = counts.clone()
        dist.all_reduce(total, group=self.group)
        return total
