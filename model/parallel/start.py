"""The processes of a run meet: ranks, devices and the groups in which they exchange.

    with joined(layout, "auto", ...) as ranks: ...      in each process that torchrun or `hunyuan train --processes` started

RANK, WORLD_SIZE, LOCAL_RANK and the address of the meeting come from the environment, as torchrun sets it. Tensors on a GPU go
through NCCL, those of a processor through gloo. How long one waits for another is the matter of watch.py.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from model.device import pick_device
from model.errors import ConfigError, PeerError
from model.parallel.layout import Layout
from model.parallel.watch import START_SECONDS, Failure, Watch

MEETING = timedelta(seconds=START_SECONDS)  # within which the store must be there
LONGEST = timedelta(days=1)  # of an exchange: long before that the watch ends a run that hangs


@dataclass(frozen=True)
class Ranks:
    """What a process knows of the others."""

    layout: Layout
    rank: int
    device: torch.device
    dense: DeviceMesh  # (replicate, shard): over which the dense weights are copied and shared out
    experts: DeviceMesh  # (expert_replicate, expert_shard, expert_parallel)
    context: DeviceMesh  # (data, context): the ranks of a row share the tokens of a micro-batch
    watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def micro_batches(self, count: int) -> range:
        """Those of a step's `count` that are this process', by their numbers."""
        return self.layout.micro_batches_of(self.rank, count)

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        dist.all_reduce(tensor)
        self.mark()
        return tensor

    def mark(self, quick: bool | None = None) -> None:
        """This process has got on, which its watch should know; `quick` as there."""
        if self.watch is not None:
            self.watch.mark(quick)

    def wait(self) -> None:
        """Until all have come here."""
        self.sum_(torch.zeros((), device=self.device)).item()


def processes_started() -> int:
    """How many processes a launcher has started for this run; 1 where there was none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def restarts() -> int:
    """How often a launcher has started the processes of this run again."""
    return int(os.environ.get("HUNYUAN_RESTARTS") or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(
    layout: Layout,
    device: str,
    *,
    hang_seconds: float,
    tell: Callable[[Failure, Exception | None], None],
    leave: Callable[[], None],
) -> Iterator[Ranks]:
    """Meets the other processes; leaves the groups at the end. The last three arguments are those of Watch.

    An error is told on the process to blame, and raised as PeerError on all.
    """
    place = own_device(device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", layout.processes))
    if "OMP_NUM_THREADS" not in os.environ or place.type == "cpu":
        torch.set_num_threads(max(1, _cores() // local))
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    store, rank, processes = next(dist.rendezvous("env://", timeout=MEETING))
    # torchrun's outlives the processes, with what they wrote. The watch has one of its own: the other one may block.
    own, store = (dist.PrefixStore(f"start-{restarts()}", each) for each in (store.clone(), store))
    watch = Watch(own, rank, processes, hang_seconds=hang_seconds, tell=tell, leave=leave)
    watch.start()
    try:
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=processes, timeout=LONGEST,
            device_id=place if place.type == "cuda" else None,
        )  # fmt: skip
        yield ranks_of(layout, rank, place, watch)
    except Exception as error:
        watch.failed(error)
        raise PeerError(f"the run has failed: {error}") from error  # the groups stay: to leave them may take for ever
    watch.done()
    dist.destroy_process_group()


def ranks_of(layout: Layout, rank: int, device: torch.device, watch: Watch | None = None) -> Ranks:
    """The groups of a layout, of processes that have met already."""
    kind, shape = device.type, (layout.replicate, layout.shard)
    dense = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))
    of_experts = (layout.expert_replicate, layout.expert_shard, layout.expert_parallel)
    names = ("expert_replicate", "expert_shard", "expert_parallel")
    experts = init_device_mesh(kind, of_experts, mesh_dim_names=names)
    of_context = (layout.data_parallel, layout.context_parallel)
    context = init_device_mesh(kind, of_context, mesh_dim_names=("data", "context"))
    return Ranks(layout, rank, device, dense, experts, context, watch)


def own_device(name: str) -> torch.device:
    """The device of this process: the processor, or the GPU of its number on the machine."""
    device = pick_device(name)
    if device.type == "cpu":
        return device
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise ConfigError([
            f"there are {torch.cuda.device_count()} CUDA devices and a process has the number {number}: "
            "give as many processes as devices, or --device cpu"
        ])  # fmt: skip
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
