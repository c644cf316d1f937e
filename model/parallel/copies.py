"""Gradients of weights of which several ranks have a copy, summed over those ranks while the backward pass goes on.

The weights of a block set out together, as soon as the last of their gradients is there: a large one as it lies, the small ones
in one row. No weight is gathered and no gradient copied twice, as FSDP would for a group of one. A rank with several
micro-batches adds them up by itself, and only the sums travel, in its last backward pass.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

LARGE = 1 << 24  # bytes of a gradient that travels by itself

Gradient = Callable[[nn.Parameter], Tensor | None]  # of all micro-batches of this rank, so far


class Copies:
    """Buckets of parameters, each with the ranks that have the same."""

    def __init__(self) -> None:
        self._buckets: list[tuple[list[nn.Parameter], dist.ProcessGroup]] = []
        self._missing: list[int] = []  # gradients of each bucket that are not there yet
        self._gradient: Gradient | None = None  # in a rank's last backward pass
        self._under_way: list[tuple[dist.Work, Tensor, list[Tensor]]] = []  # with the tensors that a row came from

    def add(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
        """A bucket; all ranks of the group add the same, in the same order."""
        bucket, number = list(parameters), len(self._buckets)
        if not bucket or group.size() == 1:
            return
        self._buckets.append((bucket, group))
        for parameter in bucket:
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def begin(self, gradient: Gradient | None) -> None:
        """Before a backward pass; `gradient` is given before the last one, whose sums travel."""
        self._gradient = gradient
        self._missing = [len(bucket) for bucket, _ in self._buckets]

    def finish(self) -> None:
        """After the last backward pass: the gradients are the sums of all ranks."""
        for number, missing in enumerate(self._missing):
            if missing:  # a weight that this model does not use
                self._send(number)
        for work, sent, parts in self._under_way:
            work.wait()
            for part, summed in zip(parts, sent.split([part.numel() for part in parts]) if parts else (), strict=True):
                part.copy_(summed.view_as(part))
        self._under_way, self._gradient, self._missing = [], None, []

    def _arrived(self, number: int, parameter: nn.Parameter) -> None:
        del parameter
        if self._gradient is not None:
            self._missing[number] -= 1
            if self._missing[number] == 0:
                self._send(number)

    @torch.no_grad()
    def _send(self, number: int) -> None:
        bucket, group = self._buckets[number]
        assert self._gradient is not None
        found = [gradient for p in bucket if (gradient := self._gradient(p)) is not None]
        small: dict[torch.dtype, list[Tensor]] = {}
        for gradient in found:
            if gradient.nbytes >= LARGE and gradient.is_contiguous():
                self._sum(gradient, [], group)
            else:
                small.setdefault(gradient.dtype, []).append(gradient)
        for parts in small.values():
            self._sum(torch.cat([part.flatten() for part in parts]), parts, group)

    def _sum(self, sent: Tensor, parts: list[Tensor], group: dist.ProcessGroup) -> None:
        work = dist.all_reduce(sent, group=group, async_op=True)
        assert work is not None
        self._under_way.append((work, sent, parts))
