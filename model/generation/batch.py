"""The requests that run together: prefilled into the rows of one cache, and a token each at every step.

B requests in the batch, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from model.generation.compiled import CompiledStep
from model.generation.request import Request, TokenLogprob
from model.generation.sampling import Sampling, next_token, top_logprobs
from model.generation.session import Session


@dataclass
class GenerationStats:
    """Filled while tokens are generated; seconds on the clock, over all requests."""

    prompt_tokens: int = 0  # that were read
    reused_tokens: int = 0  # of prompts that were in the cache already
    new_tokens: int = 0
    decoded_tokens: int = 0  # new ones less those that came out of a prefill
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    first_token_seconds: float | None = None  # from the start to the first token of the first request
    cache_bytes: int = 0  # allocated
    cache_tokens: int = 0  # that it has room for, in each of `slots` sequences
    slots: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "prefill_tokens_per_second": _rate(self.prompt_tokens, self.prefill_seconds),
            "decode_tokens_per_second": _rate(self.decoded_tokens, self.decode_seconds),
        }


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


class Batch:
    """The requests that run, in the first rows of one cache."""

    def __init__(
        self,
        session: Session,
        requests: Sequence[Request],
        slots: int,
        sampling: Sampling,
        logprobs: int | None,
        step: CompiledStep | None,
        stats: GenerationStats,
    ) -> None:
        self.net, self.slots, self.sampling, self.logprobs, self.stats = session.net, slots, sampling, logprobs, stats
        self.session, self.device = session, session.device
        self._step, self._begin = step, time.perf_counter()
        longest = max((len(request.prompt) + request.max_new_tokens for request in requests), default=0)
        self.cache = session.reserve(slots, longest)
        self.cache.lengths = [0] * len(self.cache.lengths)
        stats.cache_bytes, stats.cache_tokens = self.cache.bytes, self.cache.max_tokens
        stats.slots = len(self.cache.lengths)
        self.running: list[Request] = []
        self._rows = self.cache.rows(0, 0)  # the cache of those that run
        self._seen: Tensor | None = None  # (slots, V): tokens of prompt and answer, for the repetition penalty
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(slots, self.net.config.vocab_size, dtype=torch.bool, device=self.device)

    def admit(self, requests: list[Request], chunk: int) -> Iterator[tuple[Request, str]]:
        """Prefills prompts of one length into the next free rows; yields them with their first token."""
        mark = time.perf_counter()
        first = len(self.running)
        rows = self.cache.rows(first, first + len(requests))
        reused = self.session.reuse(requests[0].prompt) if first == 0 and len(requests) == 1 else 0
        self.session.kept = []
        rows.lengths = [reused] * len(requests)
        prompts = torch.tensor([request.prompt for request in requests], device=self.device)
        for part in prompts[:, reused:].split(chunk, dim=1):
            logits = self.net(part, cache=rows, last_only=True).logits
        self.running += requests
        self.cache.lengths[first : first + len(requests)] = rows.lengths
        if self._seen is not None:
            self._seen[first : first + len(requests)] = False
            self._seen[first : first + len(requests)].scatter_(1, prompts, True)
        self.stats.prompt_tokens += prompts.numel() - reused
        self.stats.reused_tokens += reused
        yield from self._choose(logits[:, -1], first, mark, prefill=True)

    def decode(self) -> Iterator[tuple[Request, str]]:
        """One token for every request that runs."""
        mark = time.perf_counter()
        newest = torch.tensor([request.token_ids[-1] for request in self.running], device=self.device)
        if self._step is not None and len(newest) == 1:
            logits = self._step(newest, self._rows)
        else:
            logits = self.net(newest[:, None], cache=self._rows, last_only=True).logits[:, -1]
        self.cache.lengths[: len(self.running)] = self._rows.lengths
        yield from self._choose(logits, 0, mark, prefill=False)

    def _choose(self, logits: Tensor, first: int, mark: float, *, prefill: bool) -> Iterator[tuple[Request, str]]:
        """Chooses the next token of the requests from row `first` on, from logits (B, V), and lets those go that are over."""
        requests = self.running[first:]
        seen = None if self._seen is None else self._seen[first : first + len(requests)]
        chosen = self._draw(logits, requests, first, seen)
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        details = None if self.logprobs is None else details_of(chosen, *top_logprobs(logits, chosen, self.logprobs))
        yield from self._take(requests, chosen.tolist(), details, mark, prefill=prefill)

    def _draw(self, logits: Tensor, requests: list[Request], first: int, seen: Tensor | None) -> Tensor:
        """The chosen tokens (B,) of requests in the rows from `first` on."""
        return next_token(logits, self.sampling, [request.generator for request in requests], seen)

    def _take(
        self,
        requests: list[Request],
        tokens: list[int],
        details: list[TokenLogprob] | None,
        mark: float,
        *,
        prefill: bool,
    ) -> Iterator[tuple[Request, str]]:
        """Hands every request its token, and yields each with what it made safe to show."""
        stats = self.stats
        if prefill:
            stats.prefill_seconds += time.perf_counter() - mark
            if stats.first_token_seconds is None:
                stats.first_token_seconds = time.perf_counter() - self._begin
        else:
            stats.decode_seconds += time.perf_counter() - mark
            stats.decoded_tokens += len(tokens)
        pieces = []
        for index, (request, token) in enumerate(zip(requests, tokens, strict=True)):
            pieces.append(request.take(token))
            stats.new_tokens += 1
            if details is not None and len(request.logprobs) < len(request.token_ids):
                request.logprobs.append(details[index])
        self._release()
        yield from zip(requests, pieces, strict=True)

    def _release(self) -> None:
        """Frees the rows of requests that are over: the last running one moves into each."""
        for row in reversed(range(len(self.running))):
            if self.running[row].stop_reason is not None:
                last = len(self.running) - 1
                if row != last:
                    self._move(last, row)
                    self.running[row] = self.running[last]
                self.running.pop()
        self._rows = (
            self.cache.rows(0, len(self.running)) if len(self._rows.lengths) != len(self.running) else self._rows
        )

    def _move(self, source: int, target: int) -> None:
        self.cache.move(source, target)
        if self._seen is not None:
            self._seen[target] = self._seen[source]


def details_of(chosen: Tensor, own: Tensor, ids: Tensor, values: Tensor) -> list[TokenLogprob]:
    """The chosen tokens (B,) with what top_logprobs says of them."""
    tops = [dict(zip(row, scores, strict=True)) for row, scores in zip(ids.tolist(), values.tolist(), strict=True)]
    return [TokenLogprob(*entry) for entry in zip(chosen.tolist(), own.tolist(), tops, strict=True)]
