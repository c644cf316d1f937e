"""Routed experts that stay in their files: read when a token chooses them, kept in a cache of a given size.

A token visits few of a mixture's experts, so that a checkpoint larger than memory can answer: of Hunyuan-Large's 777 GB in
bfloat16 all but the routed experts, 58 GB, must be resident. The files are mapped; what is read is copied into a slot of the
cache, and when all slots are taken the least recently used expert gives up its own.

E experts, F intermediate, D hidden, N rows sorted by expert.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint.released_names import stacked_experts
from model.checkpoint.tensor_files import TensorFiles
from model.config.hunyuan import HunyuanConfig
from model.errors import ConfigError
from model.moe.experts import Weights, in_turn

Reader = Callable[[int, int, Weights], None]  # layer, expert, where to


@dataclass
class ReadStats:
    """What a cache of experts has done: `hits` and `misses` count uses of an expert by a layer's batch of tokens."""

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0  # copied out of the files

    def to_dict(self) -> dict[str, Any]:
        uses = self.hits + self.misses
        return asdict(self) | {"hit_rate": self.hits / uses if uses else None}


class ExpertCache:
    """Experts by (layer, expert), in at most `capacity` bytes; slots are allocated when they are first needed."""

    def __init__(
        self,
        config: HunyuanConfig,
        read: Reader,
        capacity: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        width, hidden = config.intermediate_size, config.hidden_size
        self._shapes = ((2 * width, hidden), (hidden, width))
        self.expert_bytes = 3 * width * hidden * dtype.itemsize
        self.slots = min(capacity // self.expert_bytes, config.num_hidden_layers * config.num_experts)
        if self.slots < 1:
            raise ConfigError(
                [f"a cache of {capacity:,} bytes holds no expert: give it at least {self.expert_bytes:,}"]
            )
        self.dtype, self.device, self.stats = dtype, torch.device(device), ReadStats()
        self._read = read
        self._held: OrderedDict[tuple[int, int], Weights] = OrderedDict()  # the least recently used first

    def get(self, layer: int, expert: int) -> Weights:
        """The weights of one expert; they may be overwritten by the next call."""
        key = (layer, expert)
        if key in self._held:
            self.stats.hits += 1
            self._held.move_to_end(key)
            return self._held[key]
        self.stats.misses += 1
        slot = self._held.popitem(last=False)[1] if len(self._held) >= self.slots else self._new_slot()
        self._read(layer, expert, slot)
        self._held[key] = slot  # only now: a read that fails leaves nothing wrong behind
        self.stats.bytes_read += self.expert_bytes
        return slot

    @property
    def held_bytes(self) -> int:
        """What the experts in memory take now."""
        return len(self._held) * self.expert_bytes

    def _new_slot(self) -> Weights:
        first, second = (torch.empty(shape, dtype=self.dtype, device=self.device) for shape in self._shapes)
        return first, second


class DiskExperts(nn.Module):
    """The routed experts of one layer: hidden (N, D) sorted by expert, ends (E,) -> (N, D), as model/moe/experts.py."""

    alone = True

    def __init__(self, cache: ExpertCache, layer: int) -> None:
        super().__init__()
        self.cache, self.layer = cache, layer

    def weights(self, expert: int) -> Weights:
        return self.cache.get(self.layer, expert)

    def forward(self, hidden: Tensor, ends: Tensor) -> Tensor:
        return in_turn(hidden, ends, self.weights)


def keep_experts_on_disk(net: Any, cache: ExpertCache) -> None:
    """Gives every mixture layer of a model experts that read through the cache."""
    for index, layer in enumerate(net.layers):
        layer.mlp.experts = DiskExperts(cache, index)


def released_reader(files: TensorFiles) -> Reader:
    """Reads experts of the released layout: a tensor for each projection, or those of a layer stacked in two."""

    def read(layer: int, expert: int, slot: Weights) -> None:
        gate_up, down = slot
        if stacked_experts(layer)[0] in files.info:
            for target, name in zip(slot, stacked_experts(layer), strict=True):
                target.copy_(files.rows(name, expert))
            return
        names = [f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight" for part in ("gate", "up", "down")]
        for target, name in zip((*gate_up.chunk(2), down), names, strict=True):
            target.copy_(files.get(name))

    return read


def run_reader(files: TensorFiles) -> Reader:
    """Reads experts of a run's checkpoint, which holds those of a layer in two tensors."""

    def read(layer: int, expert: int, slot: Weights) -> None:
        for target, name in zip(slot, ("gate_up", "down"), strict=True):
            target.copy_(files.rows(f"layers.{layer}.mlp.experts.{name}", expert))

    return read
