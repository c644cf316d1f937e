"""The reference that a policy is held to: the weights that it began with.

Online pairs are not known beforehand, so they need the reference in memory, a second model. Of offline pairs its
log-probabilities can be computed once and kept in the run's folder. Then it is read again only where the run is evaluated.
B pairs, S tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from model.files import write_file
from model.posttraining.logps import answer_logps
from model.transformer import Hunyuan

FILE = "reference.safetensors"


class Reference:
    """The model in `weights`, in memory as long as the run goes on or, where `keep` is False, when it is asked for."""

    def __init__(self, weights: Path, device: torch.device, *, keep: bool) -> None:
        self.weights, self.device = weights, device
        self._kept = self._load() if keep else None

    def _load(self) -> Hunyuan:
        net = Hunyuan.from_checkpoint(self.weights, dtype=torch.float32, device=self.device)
        return net.requires_grad_(False)

    @contextmanager
    def model(self) -> Iterator[Hunyuan]:
        """The model, in evaluation mode."""
        yield self._load() if self._kept is None else self._kept

    @torch.enable_grad()
    def answer_logps(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(2B, S) -> (2B,) the log-probability of each row's answer.

        No weight wants a gradient, so none is kept. But products round as in training, which in bfloat16 on a processor is
        not how they round without gradients: of equal weights the log-ratio is 0 to the bit.
        """
        assert self._kept is not None, "online pairs keep the reference"
        return answer_logps(self._kept, input_ids, mask).logps

    def in_memory(self) -> "Reference":
        """The same, kept in memory as long as this one is."""
        return Reference(self.weights, self.device, keep=True)

    @property
    def bytes(self) -> int:
        """Of memory that it takes while the run goes on."""
        return 0 if self._kept is None else sum(parameter.nbytes for parameter in self._kept.parameters())


class Table:
    """The reference's log-probabilities of N offline pairs, (N, 2): chosen, rejected."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @classmethod
    def of(cls, folder: Path, pairs: int, compute: Callable[[Tensor], None]) -> "Table":
        """That of a run's folder, or one that `compute` fills and the folder keeps."""
        path = folder / FILE
        if path.is_file():
            return cls(load_file(path)["logps"])
        values = torch.full((pairs, 2), torch.nan)
        compute(values)
        write_file(path, save({"logps": values}))
        return cls(values)
