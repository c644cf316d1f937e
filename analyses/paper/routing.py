"""Figure 2: a token too many for its expert, dropped or given to an expert with room. Plain Python, the definition itself.

model/moe/router.py does the same on tensors; tests/paper/test_paper_routing.py holds the two together.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from analyses.paper.row import Row

# Tokens A to G and the experts (from 1) that they choose. The report shows token D, one too many for expert 1, go to the
# only expert with room; which tokens the others are is ours.
EXAMPLE = {"A": 1, "B": 1, "C": 2, "D": 1, "E": 2, "F": 3, "G": 3}
EXPERTS, CAPACITY = 4, 2
TOKENS, LARGE_EXPERTS, SEED = 4096, 16, 0
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SKEWS = {"even": 0.0, "uneven": 0.5, "very uneven": 1.0}  # standard deviation of the log of an expert's share


def recycle(chosen: Sequence[int], experts: int, capacity: int, rng: random.Random) -> list[int | None]:
    """The expert (from 1) of each token: its own while there is room, else one drawn from all free places, else None."""
    placed = drop(chosen, experts, capacity)
    free = [e for e in range(1, experts + 1) for _ in range(capacity - placed.count(e))]
    rng.shuffle(free)
    return [own if own is not None else (free.pop() if free else None) for own in placed]


def drop(chosen: Sequence[int], experts: int, capacity: int) -> list[int | None]:
    """The same where a token too many has no expert."""
    left = dict.fromkeys(range(1, experts + 1), capacity)
    placed: list[int | None] = []
    for expert in chosen:
        placed.append(expert if left[expert] else None)
        left[expert] = max(0, left[expert] - 1)
    return placed


def rows() -> Iterator[Row]:
    tokens, chosen = list(EXAMPLE), list(EXAMPLE.values())
    recycled = recycle(chosen, EXPERTS, CAPACITY, random.Random(SEED))
    yield Row(
        key="figure_2.token_d", quantity="expert of token D", published="4", value=float(recycled[tokens.index("D")] or 0),
        where="figure 2", formula="4 experts of capacity 2, expert 1 is full: a random place among the free ones",
    )  # fmt: skip
    yield Row(
        key="figure_2.dropped", quantity="tokens that plain top-1 drops", published="1",
        value=drop(chosen, EXPERTS, CAPACITY).count(None), where="figure 2", formula="choices over the capacity",
    )  # fmt: skip
    for entry in dropped_shares():
        if entry["router"] == "uneven" and entry["capacity_factor"] >= 1:
            yield Row(
                key=f"figure_2.recycle_dropped.{entry['capacity_factor']:g}", unit="percent", published="0",
                quantity=f"dropped by recycling at {entry['capacity_factor']:g}", value=100 * entry["recycle"],
                where="recycle routing",
                formula=f"{TOKENS:,} tokens, 16 experts, seed {SEED}; plain top-1 drops {100 * entry['drop']:.1f}%",
            )  # fmt: skip


def dropped_shares() -> list[dict[str, Any]]:
    """The share of tokens without an expert by router and capacity factor: dropping, and recycling."""
    found = []
    for router, skew in SKEWS.items():
        loads = expert_loads(skew)
        for factor in FACTORS:
            capacity = math.ceil(factor * TOKENS / LARGE_EXPERTS)
            over = sum(max(0, load - capacity) for load in loads)
            free = sum(max(0, capacity - load) for load in loads)
            found.append(
                {
                    "router": router,
                    "capacity_factor": factor,
                    "load_imbalance": max(loads) * LARGE_EXPERTS / TOKENS,
                    "drop": over / TOKENS,
                    "recycle": max(0, over - free) / TOKENS,
                }
            )
    return found


def expert_loads(skew: float, seed: int = SEED) -> list[int]:
    """Tokens that choose each expert, where the logs of the experts' shares have this standard deviation."""
    rng = random.Random(seed)
    weights = [math.exp(skew * rng.gauss(0, 1)) for _ in range(LARGE_EXPERTS)]
    chosen = rng.choices(range(LARGE_EXPERTS), weights, k=TOKENS)
    return [chosen.count(expert) for expert in range(LARGE_EXPERTS)]
