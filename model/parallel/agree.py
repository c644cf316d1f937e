"""What the processes of a run tell each other beside tensors: texts, and whether something went wrong.

    of_first(ranks, text)            the first rank's text, on all
    gathered(ranks, text)            every rank's text, on all
    with together(ranks): ...        a part that all go through: where one fails, all raise

Texts travel as bytes, so that nothing is ever unpickled.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from model.errors import HunyuanError, PeerError
from model.parallel.start import Ranks


def gathered(ranks: Ranks, text: str) -> list[str]:
    """The texts of all ranks, in order."""
    own = text.encode()
    sizes = torch.zeros(ranks.layout.processes, dtype=torch.int64)
    sizes[ranks.rank] = len(own)
    dist.all_reduce(sizes)
    longest = max(1, int(sizes.max()))
    table = torch.zeros(ranks.layout.processes, longest, dtype=torch.uint8)
    table[ranks.rank, : len(own)] = _bytes(own)
    dist.all_reduce(table)
    ranks.mark()
    pairs = zip(table.unbind(), sizes.tolist(), strict=True)
    return [bytes(row[:size].tolist()).decode() for row, size in pairs]


def of_first(ranks: Ranks, text: str = "") -> str:
    """The text of rank 0."""
    return gathered(ranks, text if ranks.is_first else "")[0]


@contextmanager
def together(ranks: Ranks | None) -> Iterator[None]:
    """All ranks go through the block and meet at its end. Where it fails on one, that one raises its error and the
    others PeerError.

    What fails on all alike the first one alone raises as it is. Nothing may be exchanged inside. Without ranks it is no more
    than the block.
    """
    if ranks is None:
        yield
        return
    ranks.mark(quick=False)  # what is done together is reading and writing
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    told = (
        "" if error is None else str(error) if isinstance(error, HunyuanError) else f"{type(error).__name__}: {error}"
    )
    said = gathered(ranks, told)
    if error is not None and (ranks.is_first or said[ranks.rank] != said[0]):
        raise error
    if any(said):
        rank, text = next((rank, text) for rank, text in enumerate(said) if text)
        raise PeerError(f"rank {rank} of the run has failed: {text}") from error


def _bytes(text: bytes) -> Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)
