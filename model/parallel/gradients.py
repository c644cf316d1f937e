"""What each micro-batch's own gradient is, where processes sum theirs before anyone holds them.

    watch_gradients(shards, see)      see(name, turn, gradient) for every weight and every backward pass from here on

A process sees the gradients of its own micro-batch whole, on their way into the sums of all. The experts of expert parallelism
are given the rows of several processes at once: they then compute with a copy of their weights for each sender, whose gradients
come apart. That takes as much memory as all experts of a layer, and rounds the sum over senders in another order.

`turn` is which of the micro-batches under way a gradient is of. Every part of every micro-batch's gradient is seen once, by one
process. Where sequences are shared out it would be seen in pieces that are yet to be summed: that is not done here.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from model.parallel.exchange import ParallelExperts
from model.parallel.shard import Shards

See = Callable[[str, int, Tensor], None]


def watch_gradients(shards: Shards, see: See) -> None:
    """Sees to it that `see` is told, for as long as the model lives."""
    assert shards.ranks.layout.context_parallel == 1, "a micro-batch must not be shared out"
    own, watched = shards.ranks.layout.data_index(shards.ranks.rank), set[nn.Parameter]()

    def watch(module: nn.Module, place: str) -> None:
        """What is a plain parameter now; the others wait for their turn."""
        for name, parameter in module.named_parameters(prefix=place):
            if not (isinstance(parameter, DTensor) or parameter in watched or _is_apart(shards, name)):
                watched.add(parameter)
                parameter.register_hook(functools.partial(see, name, own))

    watch(shards.net, "")
    for place, module in shards.net.named_modules():
        gathers = isinstance(module, FSDPModule)
        if isinstance(module, ParallelExperts):
            _watch_senders(module, shards, f"{place}.", see)
        elif gathers:
            gathered: Any = module
            gathered.unshard()  # FSDP gathers into the same parameters again and again
            watch(module, place)
            gathered.reshard()


def _is_apart(shards: Shards, name: str) -> bool:
    """Whether a weight is of experts that several processes send rows to."""
    return ".experts." in name and shards.ranks.layout.expert_parallel > 1


def _watch_senders(experts: ParallelExperts, shards: Shards, prefix: str, see: See) -> None:
    layout, group = shards.ranks.layout, experts.group
    turns = [layout.data_index(dist.get_global_rank(group, sender)) for sender in range(group.size())]

    def apart(name: str, gradient: Tensor) -> Any:
        for turn, part in zip(turns, gradient.chunk(len(turns)), strict=True):
            see(prefix + name, turn, part)

    experts.see = apart
