"""The plain routing of `hunyuan paper` against the model's router, and its shares against each other."""

import random

import pytest
import torch

from analyses.paper.routing import EXAMPLE, LARGE_EXPERTS, TOKENS, drop, dropped_shares, expert_loads, recycle
from model.moe import router


@pytest.mark.parametrize(("experts", "capacity", "tokens"), [(4, 2, 7), (4, 2, 8), (3, 2, 9), (16, 5, 61)])
def test_plain_routing_drops_and_recycles_as_the_router_does(experts, capacity, tokens):
    rng = random.Random(tokens)
    chosen = [rng.randint(1, experts) for _ in range(tokens)]
    on_tensor = torch.tensor(chosen)[:, None] - 1
    theirs = router.drop(on_tensor, experts, capacity).flatten().tolist()
    assert [experts if e is None else e - 1 for e in drop(chosen, experts, capacity)] == theirs
    keys = torch.randint(2**31, (experts * capacity,), generator=torch.Generator().manual_seed(0))
    placed = router.recycle(on_tensor, experts, capacity, keys).flatten().tolist()
    ours = [experts if e is None else e - 1 for e in recycle(chosen, experts, capacity, rng)]
    counts = [[side.count(expert) for expert in range(experts + 1)] for side in (ours, placed)]
    kept = [own for own, dropped in zip(ours, theirs, strict=True) if dropped != experts]
    assert kept == [own for own, dropped in zip(placed, theirs, strict=True) if dropped != experts]
    assert counts[0][experts] == counts[1][experts] == max(0, tokens - experts * capacity)
    assert max(counts[0][:experts]) <= capacity


def test_figure_2_has_one_place_for_token_d():
    chosen = list(EXAMPLE.values())
    assert drop(chosen, 4, 2) == [1, 1, 2, None, 2, 3, 3]
    assert {tuple(recycle(chosen, 4, 2, random.Random(seed))) for seed in range(9)} == {(1, 1, 2, 4, 2, 3, 3)}


def test_dropped_shares_fall_with_capacity_and_recycling_loses_what_no_place_is_left_for():
    for router_name in ("even", "uneven", "very uneven"):
        rows = [row for row in dropped_shares() if row["router"] == router_name]
        drops = [row["drop"] for row in rows]
        assert drops == sorted(drops, reverse=True)
        for row in rows:
            assert row["recycle"] == max(0, 1 - row["capacity_factor"]) <= row["drop"]
    assert sum(expert_loads(1.0)) == TOKENS and len(expert_loads(1.0)) == LARGE_EXPERTS
