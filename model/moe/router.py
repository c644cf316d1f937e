"""Top-k routing: which experts take each token, and what happens when one is full.

Hunyuan-Large, arXiv:2411.02265, section on recycle routing (figure 2). T tokens, E experts, K = moe_topk, N = T * K choices,
C places per expert (config.capacity). Three policies, all with static shapes and without a wait for the device:

    dropless   an expert takes every token that chose it
    drop       an expert takes the first C choices, all first choices before second ones; the others are dropped
    recycle    the i-th choice over capacity goes to the i-th free place in a random order of the free places

    router_logits (T, E) float32 -> Routing(expert_index (T, K), expert_weight (T, K), ...)

A recycled token's weight is its probability for its new expert. With K >= 2 the new expert may be one that the token
already has: the report recycles top-1, where this cannot happen. The random order comes from model/moe/place_keys.py, so that
recomputation sees the same one.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.config.hunyuan import Convention, RoutingPolicy

NO_KEYS = "recycle routing needs place_keys: see model/moe/place_keys.py"


class Routing(NamedTuple):
    """The experts of every token, and what they count to where that is asked for.

    A dropped choice has the index E, which is no expert, and weight 0.
    """

    expert_index: Tensor  # (T, K) int64
    expert_weight: Tensor  # (T, K) float32
    chosen: Tensor  # (T, K) the router's choices, before any capacity
    probabilities: Tensor  # (T, E) softmax of the router's logits

    @property
    def num_experts(self) -> int:
        return self.probabilities.shape[1]

    @property
    def tokens_per_expert(self) -> Tensor:
        """Choices that each expert computes, (E,)."""
        return count_per_expert(self.expert_index, self.num_experts)

    @property
    def choices_per_expert(self) -> Tensor:
        """Choices that the router made, before any capacity, (E,)."""
        return count_per_expert(self.chosen, self.num_experts)

    @property
    def dropped(self) -> Tensor:
        """Choices that no expert computes, ()."""
        return (self.expert_index == self.num_experts).sum()

    @property
    def recycled(self) -> Tensor:
        """Choices that another expert computes, ()."""
        return ((self.expert_index != self.chosen) & (self.expert_index != self.num_experts)).sum()


class Scope(Protocol):
    """The processes whose tokens, T each, are routed as if one had them all: they share places, or are balanced together.

    The tokens of a process are R chunks of consecutive ones in the order of all; with their counts alone each process knows
    where its choices stand among those of all (model/parallel/places.py).
    """

    processes: int

    @property
    def chunks(self) -> int:
        """R, of this process."""

    def all_chunks(self, own: Tensor) -> Tensor:
        """Counts (K, R, E) of this process's chunks -> (K, all R, E), those of all processes' in the order of tokens."""

    def own_chunks(self, whole: Tensor) -> Tensor:
        """(K, all R, ...) -> (K, R, ...) of this process."""

    def sum(self, counts: Tensor) -> Tensor:
        """The sum of every process's counts (E,)."""


def route(
    router_logits: Tensor,
    top_k: int,
    *,
    policy: RoutingPolicy = "dropless",
    capacity: int = 0,
    place_keys: Tensor | None = None,
    expert_bias: Tensor | None = None,
    convention: Convention = "report",
    scope: Scope | None = None,
) -> Routing:
    """Chooses and places; `capacity` is read by drop and recycle, `place_keys` (E * C,) by recycle alone.

    `expert_bias` (E,) is added for the choice and left out of the weight (auxiliary-loss-free balancing, arXiv:2408.15664).
    With a `scope` capacity and keys are those of all its tokens, the same on each of its processes.
    """
    num_experts = router_logits.shape[-1]
    probabilities, chosen = choose_experts(router_logits, top_k, expert_bias)
    if policy == "dropless":
        return Routing(chosen, weigh(probabilities, chosen, convention), chosen, probabilities)

    if policy == "drop":
        index = drop(chosen, num_experts, capacity, scope)
    elif place_keys is None:
        raise ValueError(NO_KEYS)
    else:
        index = recycle(chosen, num_experts, capacity, place_keys, scope)
    is_dropped = index == num_experts
    # A dropped choice keeps its share until here: the others must not grow for want of a place.
    weight = weigh(probabilities, torch.where(is_dropped, chosen, index), convention)
    return Routing(index, weight.masked_fill(is_dropped, 0.0), chosen, probabilities)


def choose_experts(router_logits: Tensor, top_k: int, expert_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """router_logits (T, E) -> their softmax (T, E) and the experts that it ranks first, (T, K)."""
    probabilities = router_logits.float().softmax(dim=-1)
    score = probabilities if expert_bias is None else probabilities + expert_bias
    return probabilities, score.topk(top_k, dim=-1).indices


def weigh(probabilities: Tensor, expert_index: Tensor, convention: Convention) -> Tensor:
    """The weights (T, K) of the experts in expert_index: their probabilities, those of several made to sum to 1.

    In Hunyuan-A13B those of one as well, which makes it 1.
    """
    weight = probabilities.gather(1, expert_index)
    if sums_to_one(expert_index.shape[1], convention):
        weight = weight / weight.sum(dim=-1, keepdim=True)
    return weight


def sums_to_one(top_k: int, convention: Convention) -> bool:
    """Whether the weights of a token's experts are divided by their sum."""
    return top_k > 1 or convention == "hunyuan-a13b"


def drop(expert_index: Tensor, num_experts: int, capacity: int, scope: Scope | None = None) -> Tensor:
    """expert_index (T, K) with every choice over capacity replaced by E."""
    return expert_index.masked_fill(_queue(expert_index, num_experts, scope).place >= capacity, num_experts)


def recycle(
    expert_index: Tensor, num_experts: int, capacity: int, place_keys: Tensor, scope: Scope | None = None
) -> Tensor:
    """expert_index (T, K) with every choice over capacity moved to a random free place, or to E when there is none left.

    Every free place is as likely as any other, so an expert is chosen in proportion to its free places.
    """
    queue = _queue(expert_index, num_experts, scope)
    over = queue.place >= capacity
    position = torch.arange(capacity, device=expert_index.device)
    is_free = position >= queue.counts.sum(dim=(0, 1)).clamp(max=capacity)[:, None]  # (E, C)
    # Taken places sort behind every free one, whose keys are below.
    free_first = torch.where(is_free.flatten(), place_keys, 2**32).argsort()
    turn = queue.turns(over, capacity, scope)  # the i of each choice over capacity
    recipient = free_first[turn.clamp(min=0, max=free_first.shape[0] - 1)] // capacity
    recipient = torch.where(turn < is_free.sum(), recipient, num_experts)
    return torch.where(over, recipient, expert_index)


def count_per_expert(expert_index: Tensor, num_experts: int) -> Tensor:
    """Choices (any shape) per expert (E,); the index E is not counted."""
    flat = expert_index.flatten()
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=flat.device)
    return counts.scatter_add(0, flat, torch.ones_like(flat))[:num_experts]


def update_expert_bias(expert_bias: Tensor, choices_per_expert: Tensor, rate: float) -> None:
    """Moves the selection bias (..., E) in place by `rate` toward experts that were chosen less than the mean."""
    load = choices_per_expert.to(expert_bias.dtype)
    expert_bias += rate * torch.sign(load.mean(dim=-1, keepdim=True) - load)


class _Queue(NamedTuple):
    """Where choices stand: first ones before second ones, then by token, among those of all processes of a scope.

    K choices a token, R chunks of tokens; all in one chunk where there is no scope.
    """

    place: Tensor  # (T, K) of each choice among those of its expert
    counts: Tensor  # (K, all R, E) choices by chunk and expert
    before: Tensor  # (K, all R, E) choices of that expert that stand before the chunk's

    def turns(self, over: Tensor, capacity: int, scope: Scope | None) -> Tensor:
        """over (T, K) -> (T, K): how many choices over capacity, of whatever expert, stand before each of those."""
        ends = self.before + self.counts
        of_chunk = (ends.clamp(min=capacity) - self.before.clamp(min=capacity)).sum(dim=-1)  # (K, all R)
        before = _own(_before(of_chunk.flatten()).view(of_chunk.shape), scope)[..., None]
        in_order = _by_choice(over, before.shape[1])
        return _by_token(in_order.cumsum(dim=-1) - 1 + before)


def _queue(expert_index: Tensor, num_experts: int, scope: Scope | None) -> _Queue:
    chunks = 1 if scope is None else scope.chunks
    choices = _by_choice(expert_index, chunks)  # (K, R, T / R)
    cells = choices.shape[0] * chunks * num_experts
    first_cell = torch.arange(0, cells, num_experts, device=expert_index.device)
    cell = (choices + first_cell.view(*choices.shape[:2], 1)).flatten()  # the choice, chunk and expert as one number
    count = count_per_expert(cell, cells)
    by_cell = cell.argsort(stable=True)
    rank = torch.arange(cell.shape[0], device=cell.device) - _before(count)[cell[by_cell]]
    within = torch.empty_like(cell).scatter(0, by_cell, rank)
    counts = count.view(*choices.shape[:2], num_experts)
    if scope is not None:
        counts = scope.all_chunks(counts)
    before = _before(counts.flatten(0, 1)).view(counts.shape)
    place = within + _own(before, scope).flatten()[cell]
    return _Queue(_by_token(place.view(choices.shape)), counts, before)


def _before(counts: Tensor) -> Tensor:
    """The sums of what stands before each along the first dimension."""
    return counts.cumsum(dim=0) - counts


def _own(whole: Tensor, scope: Scope | None) -> Tensor:
    return whole if scope is None else scope.own_chunks(whole)


def _by_choice(by_token: Tensor, chunks: int) -> Tensor:
    """(T, K) -> (K, R, T / R)."""
    return by_token.t().reshape(by_token.shape[1], chunks, -1)


def _by_token(by_choice: Tensor) -> Tensor:
    """(K, R, T / R) -> (T, K)."""
    return by_choice.flatten(1).t()
