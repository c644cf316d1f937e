"""The exponential moving average of the weights, which the report keeps in DPO against what a reward model overlooks."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


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


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float32, copy=True)
