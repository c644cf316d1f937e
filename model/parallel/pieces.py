"""Which part of every parameter a rank holds, in closed form; no torch.

What is large is shared out: dense weights by rows (FSDP's Shard(0)), experts by expert and then by FSDP. What is small, norms,
biases and routers, everyone holds: it stays float32 among weights that need not, and would not be worth a message of its own.
"""

from dataclasses import dataclass

from model.parallel.layout import Layout


@dataclass(frozen=True)
class Piece:
    """A box within a whole parameter."""

    whole: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    copies: int = 1  # how many ranks hold the same
    is_first: bool = True  # whether this is the first of them: it counts, and is saved

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + size) for start, size in zip(self.start, self.shape, strict=True))


def is_replicated(name: str, whole: tuple[int, ...]) -> bool:
    """Whether every rank holds all of a parameter."""
    return len(whole) < 2 or ".router." in name


def piece_of(layout: Layout, rank: int, name: str, whole: tuple[int, ...]) -> Piece:
    """The piece of a parameter, by its name and shape in the model of one process, that `rank` holds."""
    if is_replicated(name, whole):
        return Piece(whole, (0,) * len(whole), whole, layout.processes, rank == 0)
    if ".experts." in name:
        return _of_experts(layout, rank, whole)
    start, size = chunk(whole[0], layout.shard, rank % layout.shard)
    rest = whole[1:]
    return Piece(whole, (start, *(0 for _ in rest)), (size, *rest), layout.replicate, rank < layout.shard)


def _of_experts(layout: Layout, rank: int, whole: tuple[int, ...]) -> Piece:
    """Stacked experts (E, O, I): the rank's part of the experts, and of that its share."""
    own, index = layout.experts_of(rank, whole[0]), rank // layout.expert_parallel % layout.expert_shard
    start, shape = [own.start, 0, 0], [len(own), *whole[1:]]
    dim = layout.expert_shard_dim(whole[0])
    first, shape[dim] = chunk(shape[dim], layout.expert_shard, index)
    start[dim] += first
    is_first = rank < layout.expert_parallel * layout.expert_shard
    return Piece(whole, tuple(start), tuple(shape), layout.expert_replicate, is_first)


def chunk(size: int, parts: int, index: int) -> tuple[int, int]:
    """Start and length of part `index`, as torch.chunk cuts: equal parts but for the last ones, which may be empty."""
    each = -(-size // parts)
    start = min(index * each, size)
    return start, min(each, size - start)
