"""What the routing of a step says about its health. L layers, E experts."""

from typing import Any

import torch
from torch import Tensor

from model.moe.layer import MoEStats
from model.training.task import share

STARVED = 0.1  # of the mean load: an expert under this learns next to nothing
COLLAPSED_SHARE = 0.5  # of the experts of a layer starved
PATIENCE = 10  # logged steps in a row before the user is told: routing settles in the first few dozen steps


def load_imbalance(choices: Tensor) -> float:
    """choices (L, E) -> the greatest load over the mean load, averaged over layers; 1 is balanced, E is one expert for all."""
    load = choices.float()
    return float((load.max(dim=-1).values / load.mean(dim=-1)).mean())


def merge_stats(parts: list[MoEStats], tokens: list[int], whole: int) -> MoEStats | None:
    """Micro-batches of so many tokens, of a step of `whole` tokens: counts summed, balance losses averaged over the whole."""
    if not parts:
        return None
    balance_losses, *counts = zip(*parts, strict=True)
    shares = [share(loss, part, whole) for loss, part in zip(balance_losses, tokens, strict=True)]
    return MoEStats(*(torch.stack(values).sum(dim=0) for values in (shares, *map(list, counts))))


def routing_metrics(routing: MoEStats | None) -> dict[str, Any]:
    """The routing keys of a line of metrics.jsonl; a dense model has zeros and no load."""
    if routing is None:
        none = {"balance_loss": 0.0, "dropped_fraction": 0.0, "recycled_fraction": 0.0, "load_imbalance": 1.0}
        return none | {"tokens_per_expert": []}
    choices = routing.choices_per_expert
    total = int(choices.sum())
    return {
        "balance_loss": float(routing.balance_loss.mean()),
        "dropped_fraction": int(routing.dropped.sum()) / total,
        "recycled_fraction": int(routing.recycled.sum()) / total,
        "load_imbalance": load_imbalance(choices),  # of what the router asked for
        "tokens_per_expert": routing.tokens_per_expert.tolist(),  # of what the experts computed
    }


class RoutingWatch:
    """Warns once when routing has collapsed: half of a layer's experts starved for PATIENCE logged steps in a row."""

    def __init__(self, unhealthy: int = 0) -> None:
        self.unhealthy = unhealthy  # logged steps in a row

    def check(self, routing: MoEStats | None) -> str | None:
        """The routing of a logged step -> the warning, when it is due."""
        if routing is None:
            return None
        load = routing.choices_per_expert.float()  # (L, E)
        starved = (load < STARVED * load.mean(dim=-1, keepdim=True)).float().mean(dim=-1)
        worst = int(starved.argmax())
        self.unhealthy = self.unhealthy + 1 if starved[worst] >= COLLAPSED_SHARE else 0
        if self.unhealthy != PATIENCE:
            return None
        count = int(torch.round(starved[worst] * load.shape[-1]))
        return (
            f"routing is collapsing: {count} of {load.shape[-1]} experts of layer {worst} get less than {STARVED:.0%} of the "
            "mean load; raise model.router_aux_loss_coef or set model.expert_bias_update_rate"
        )
