"""Pieces and exchanges: every value of a weight has one rank that saves it, and every row comes back to where it was."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pool import Pool
from torch import Tensor, nn

from model.errors import CheckpointError, PeerError
from model.moe.experts import loop_experts
from model.parallel.agree import gathered, of_first, together
from model.parallel.exchange import ParallelExperts, by_expert
from model.parallel.layout import Layout
from model.parallel.pieces import piece_of
from model.parallel.start import ranks_of

LAYOUTS = [
    Layout(processes=count, expert_parallel=parallel, shard=shard)
    for count in (1, 2, 4, 8, 16)
    for parallel in (1, 2, 4)
    for shard in (1, 2, 4, 8, 16)
    if shard <= count and parallel <= count
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("embed_tokens.weight", (61, 8)),  # rows that do not divide
        ("layers.0.self_attn.k_proj.weight", (3, 8)),  # fewer rows than ranks
        ("layers.0.mlp.experts.gate_up", (4, 32, 8)),
        ("layers.0.mlp.router.weight", (4, 8)),
        ("norm.weight", (8,)),
    ],
)
def test_the_first_copies_cover_a_weight_once(layout: Layout, name: str, whole: tuple[int, ...]) -> None:
    saved, held = np.zeros(whole, int), np.zeros(whole, int)
    for rank in range(layout.processes):
        piece = piece_of(layout, rank, name, whole)
        held[piece.slices] += 1
        saved[piece.slices] += piece.is_first
        assert piece.shape == saved[piece.slices].shape
    assert (saved == 1).all()
    copies = {piece_of(layout, rank, name, whole).copies for rank in range(layout.processes)}
    assert copies == set(held.flat)


def test_rows_by_sender_are_put_in_the_order_of_experts() -> None:
    per_expert = torch.tensor([[2, 0, 1], [1, 3, 0]])  # of two senders
    order, inverse = by_expert(per_expert, 7)
    assert order.tolist() == [0, 1, 3, 4, 5, 6, 2]
    assert torch.arange(7)[order][inverse].tolist() == list(range(7))


@pytest.mark.parametrize("counts", [[[3, 1, 0, 2], [0, 0, 5, 1]], [[0, 0, 0, 0], [0, 7, 0, 0]], [[0] * 4, [0] * 4]])
def test_exchanged_experts_are_the_loop_over_all(ranks: Callable[[int], Pool], counts: list[list[int]]) -> None:
    """Uneven and empty: outputs, and the gradients of rows and of both weights."""
    for outputs in ranks(2).run(_exchanged, counts):
        for found, expected in outputs:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def _exchanged(rank: int, counts: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator)
    gate_up, down = nn.Parameter(draw(4, 16, 8)), nn.Parameter(draw(4, 8, 8))
    rows = [draw(sum(each) + 2, 8).requires_grad_() for each in counts]  # two that no expert takes
    cotangents = [draw(sum(each) + 2, 8) for each in counts]
    ends = [torch.tensor(each).cumsum(0).to(torch.int32) for each in counts]
    wanted = [loop_experts(part, gate_up, down, end) for part, end in zip(rows, ends, strict=True)]
    (wanted[0] * cotangents[0] + 0).sum().add((wanted[1] * cotangents[1]).sum()).backward()

    assert dist.group.WORLD is not None
    experts, own = ParallelExperts(4, 8, 8, dist.group.WORLD), slice(2 * rank, 2 * rank + 2)
    with torch.no_grad():
        experts.gate_up.copy_(gate_up[own])
        experts.down.copy_(down[own])
    mine = rows[rank].detach().requires_grad_()
    output = experts(mine, ends[rank])
    (output * cotangents[rank]).sum().backward()
    pairs = [(output, wanted[rank]), (mine.grad, rows[rank].grad)]
    pairs += [(experts.gate_up.grad, gate_up.grad[own]), (experts.down.grad, down.grad[own])]  # type: ignore[index]
    return [(one.detach(), other.detach()) for one, other in pairs]  # type: ignore[union-attr]


def test_texts_are_told_and_failures_are_everyones(ranks: Callable[[int], Pool]) -> None:
    assert ranks(2).run(_told) == [
        (["", "of rank 1, ä"], "first", "full", "the same"),
        (["", "of rank 1, ä"], "first", "rank 0 of the run has failed: full", "rank 0 of the run has failed: the same"),
    ]


def _told(rank: int) -> tuple[list[str], str, str, str]:
    ranks = ranks_of(Layout(processes=2), rank, torch.device("cpu"))
    said = gathered(ranks, f"of rank {rank}, ä" if rank else "")
    first = of_first(ranks, ["first", "second"][rank])
    sentences = []
    for fails, text in ((rank == 0, "full"), (True, "the same")):
        try:
            with together(ranks):
                if fails:
                    raise CheckpointError(text)
        except CheckpointError as error:
            assert rank == 0
            sentences.append(str(error))
        except PeerError as error:
            sentences.append(str(error))
    with together(ranks):
        pass
    return said, first, sentences[0], sentences[1]
