"""Losses that keep routing healthy. T tokens, E experts, K choices per token."""

import torch
from torch import Tensor

from model.moe.router import Routing, Scope


def load_balance_loss(routing: Routing, scope: Scope | None = None) -> Tensor:
    """E * sum_e(fraction of choices to e * mean probability of e): 1 when balanced, up to E when one expert has all.

    Hunyuan-Large, arXiv:2411.02265; Switch Transformer, arXiv:2101.03961, equation 4. The fractions are those of the
    router's own choices, before any capacity, and carry no gradient. With a `scope` they are those of all its processes (Qwen,
    arXiv:2501.11873), whose losses have the mean that one process with all tokens would compute, and so have their gradients.
    """
    fraction = shares(routing.choices_per_expert, routing.expert_index.numel(), scope)
    return balance(fraction, routing.probabilities.mean(dim=0))


def shares(choices_per_expert: Tensor, choices: int, scope: Scope | None) -> Tensor:
    """The fraction of the choices that each expert has (E,), among those of all processes of a scope."""
    if scope is None:
        return choices_per_expert / choices
    return scope.sum(choices_per_expert) / (choices * scope.processes)


def balance(fraction: Tensor, mean_probability: Tensor) -> Tensor:
    """The same from the two factors, (E,) each."""
    return fraction.shape[0] * (fraction * mean_probability).sum()


def router_z_loss(router_logits: Tensor) -> Tensor:
    """Mean squared log-partition of the router's logits (T, E) (ST-MoE, arXiv:2202.08906): keeps them small."""
    return torch.logsumexp(router_logits.float(), dim=-1).square().mean()
