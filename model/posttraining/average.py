"""The exponential moving average of the weights, which the report keeps in DPO against what a reward model overlooks."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoint.run import without_storage
from model.config.hunyuan import HunyuanConfig
from model.transformer import Hunyuan


class WeightAverage:
    """After each step average = decay * average + (1 - decay) * weights, in float32. The first update copies."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of the average is {decay}: it must lie in [0, 1)")
        self.decay, self.updates = decay, 0
        self._average = {name: _copy(parameter) for name, parameter in net.named_parameters()}

    @torch.no_grad()
    def update(self, net: nn.Module | Iterable[tuple[str, Tensor]]) -> None:
        """Takes in the weights of a model, or weights by their names in it."""
        weight = 1.0 if self.updates == 0 else 1.0 - self.decay
        for name, parameter in net.named_parameters() if isinstance(net, nn.Module) else net:
            self._average[name].lerp_(parameter.float(), weight)
        self.updates += 1

    def parameters(self) -> Iterator[Tensor]:
        """The averages, in the order of the net's own parameters; before the first update the weights it began with."""
        return iter(self._average.values())

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        """Gives a model of the same shape the averages, in its own precision."""
        for name, parameter in net.named_parameters():
            parameter.copy_(self._average[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the parameters, for a checkpoint; `updates` is a number of its own."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, averages: dict[str, Tensor], updates: int) -> None:
        """Goes on from a checkpoint; KeyError where a parameter is not in it."""
        for name, average in self._average.items():
            average.copy_(averages[name])
        self.updates = updates


class AveragedModel:
    """A second model, whose weights are the average itself: it can answer at any step."""

    def __init__(self, config: HunyuanConfig, decay: float) -> None:
        self._config, self._decay = config, decay
        self._restored: tuple[dict[str, Tensor], int] | None = None

    def begin(self, net: Hunyuan) -> None:
        """With the weights of a net, or those that were restored."""
        self._average = WeightAverage(net, self._decay)
        if self._restored is not None:
            self._average.load_state_dict(*self._restored)
            self._restored = None
        self.net = without_storage(Hunyuan, self._config, Path())
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        self.net.load_state_dict(self._average.state_dict() | buffers, assign=True)
        self.net.requires_grad_(False).eval()

    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._average.update(weights)

    def model(self, net: Hunyuan) -> Hunyuan:
        """The averaged model, in evaluation mode; buffers, such as an expert's bias, are as they are in `net` now."""
        for buffer, there in zip(self.net.buffers(), net.buffers(), strict=True):
            buffer.copy_(there)
        return self.net

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Tensors and a number for a checkpoint."""
        return self._average.state_dict(), self._average.updates

    def restore(self, averages: dict[str, Tensor], updates: int) -> None:
        """Takes up what `state` gave, before it begins."""
        self._restored = averages, updates

    @property
    def bytes(self) -> int:
        return sum(average.nbytes for average in self._average.parameters())


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float32, copy=True)
