"""The next token from its logits: greedy, or at a temperature within the top-k and top-p tokens. B batch, V vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How to choose; a temperature of 0 is greedy, top_k 0 and top_p 1 leave every token in."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"temperature is {self.temperature}: give 0 (greedy) or above")
        if self.top_k < 0:
            problems.append(f"top_k is {self.top_k}: give 0 (off) or above")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p is {self.top_p}: give a share above 0 and up to 1 (off)")
        if problems:
            raise ConfigError(problems)


def next_token(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """logits (B, V) -> token ids (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial(distribution(logits, sampling), 1, generator=generator)[:, 0]


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """logits (B, V) -> the probabilities (B, V) that are sampled from, at a temperature above 0."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        index = logits.topk(sampling.top_k, dim=-1).indices  # by index: of equal logits no more than top_k stay
        logits = torch.full_like(logits, float("-inf")).scatter(-1, index, logits.gather(-1, index))
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p < 1:  # the smallest set of tokens that holds top_p: those before which less was reached
        ordered, index = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        probabilities = probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), 0.0)
    return probabilities
