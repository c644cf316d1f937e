"""Generation: prompts are prefilled in chunks, then all of a batch decode a token at a time against one key-value cache.

A batch has slots. As a request ends, the last one moves into its slot and the next prompt takes the free place, so that slots
stay full while there are prompts. A request's answer does not depend on its neighbours: each has its own place in the cache,
its own length, its own generator, and no expert ever refuses a token.

B requests in the batch, V vocabulary.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from model.errors import ConfigError
from model.generation.compiled import CompiledStep
from model.generation.request import Request, TokenLogprob, check_requests
from model.generation.sampling import Sampling, next_token, top_logprobs
from model.layers.kv_cache import KVCache
from model.transformer import Hunyuan

PREFILL_CHUNK = 512  # tokens of a prompt in one pass: scores take chunk * length, not length squared


@dataclass
class GenerationStats:
    """Filled while tokens are generated; seconds on the clock, over all requests."""

    prompt_tokens: int = 0
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


def generate(
    net: Hunyuan,
    prompt: list[int],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    end_id: int | None = None,
    stats: GenerationStats | None = None,
) -> Iterator[int]:
    """Yields the token ids of one continuation as they come, up to max_new_tokens or until end_id, which is not yielded."""
    end_ids = () if end_id is None else (end_id,)
    request = Request(prompt, max_new_tokens, end_ids=end_ids, generator=generator)
    for _ in generate_batch(net, [request], sampling=sampling, stats=stats):
        if request.stop_reason != "end_of_text":
            yield request.token_ids[-1]


@torch.inference_mode()
def generate_batch(
    net: Hunyuan,
    requests: Sequence[Request],
    *,
    sampling: Sampling,
    slots: int = 8,
    prefill_chunk: int = PREFILL_CHUNK,
    logprobs: int | None = None,
    compiled: bool = False,
    stats: GenerationStats | None = None,
) -> Iterator[tuple[Request, str]]:
    """Runs the requests, `slots` at a time, and yields each with the text that its newest token made safe to show.

    `logprobs` K adds to every token its log probability and those of the K likeliest. `compiled` has a request that runs
    alone decode through a compiled program (model/generation/compiled.py). ConfigError, before anything is
    computed, when a request does not fit the model's context.
    """
    check_requests(requests, net.config.max_position_embeddings, net.config.vocab_size)
    _check_sizes(net, slots, prefill_chunk, logprobs)
    stats = GenerationStats() if stats is None else stats
    waiting = deque(requests)
    step = CompiledStep(net) if compiled else None
    batch = _Batch(net, requests, min(slots, len(requests)), sampling, logprobs, step, stats)
    while waiting or batch.running:
        while waiting and len(batch.running) < batch.slots:
            yield from batch.admit(_alike(waiting, batch.slots - len(batch.running)), prefill_chunk)
        if batch.running:
            yield from batch.decode()


def _check_sizes(net: Hunyuan, slots: int, prefill_chunk: int, logprobs: int | None) -> None:
    sizes = {"slots": slots, "prefill_chunk": prefill_chunk}
    problems = [f"{name} is {size}: it must be at least 1" for name, size in sizes.items() if size < 1]
    if logprobs is not None and not 0 <= logprobs <= net.config.vocab_size:
        problems.append(f"logprobs is {logprobs}: give 0 to {net.config.vocab_size:,}, the model's vocabulary")
    if problems:
        raise ConfigError(problems)


def _alike(waiting: deque[Request], most: int) -> list[Request]:
    """Takes the next requests whose prompts have one length: they are prefilled together."""
    taken = [waiting.popleft()]
    while waiting and len(taken) < most and len(waiting[0].prompt) == len(taken[0].prompt):
        taken.append(waiting.popleft())
    return taken


class _Batch:
    """The requests that run, in the first rows of one cache."""

    def __init__(
        self,
        net: Hunyuan,
        requests: Sequence[Request],
        slots: int,
        sampling: Sampling,
        logprobs: int | None,
        step: CompiledStep | None,
        stats: GenerationStats,
    ) -> None:
        self.net, self.slots, self.sampling, self.logprobs, self.stats = net, slots, sampling, logprobs, stats
        self._step, self._begin = step, time.perf_counter()
        weight = net.embed_tokens.weight
        self.device = weight.device
        longest = max((len(request.prompt) + request.max_new_tokens for request in requests), default=0)
        self.cache = KVCache(net.config, batch=slots, max_tokens=longest, dtype=weight.dtype, device=self.device)
        stats.cache_bytes, stats.cache_tokens, stats.slots = self.cache.bytes, longest, slots
        self.running: list[Request] = []
        self._rows = self.cache.rows(0, 0)  # the cache of those that run
        self._seen: Tensor | None = None  # (slots, V): tokens of prompt and answer, for the repetition penalty
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(slots, net.config.vocab_size, dtype=torch.bool, device=self.device)

    def admit(self, requests: list[Request], chunk: int) -> Iterator[tuple[Request, str]]:
        """Prefills prompts of one length into the next free rows; yields them with their first token."""
        mark = time.perf_counter()
        first = len(self.running)
        rows = self.cache.rows(first, first + len(requests))
        rows.lengths = [0] * len(requests)
        prompts = torch.tensor([request.prompt for request in requests], device=self.device)
        for part in prompts.split(chunk, dim=1):
            logits = self.net(part, cache=rows, last_only=True).logits
        self.running += requests
        self.cache.lengths[first : first + len(requests)] = rows.lengths
        if self._seen is not None:
            self._seen[first : first + len(requests)] = False
            self._seen[first : first + len(requests)].scatter_(1, prompts, True)
        self.stats.prompt_tokens += prompts.numel()
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
        requests, stats = self.running[first:], self.stats
        seen = None if self._seen is None else self._seen[first : first + len(requests)]
        generators = [request.generator for request in requests]
        chosen = next_token(logits, self.sampling, generators, seen)
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        details = None if self.logprobs is None else _details(logits, chosen, self.logprobs)
        tokens = chosen.tolist()
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
                    self.cache.move(last, row)
                    self.running[row] = self.running[last]
                    if self._seen is not None:
                        self._seen[row] = self._seen[last]
                self.running.pop()
        self._rows = (
            self.cache.rows(0, len(self.running)) if len(self._rows.lengths) != len(self.running) else self._rows
        )


def _details(logits: Tensor, chosen: Tensor, k: int) -> list[TokenLogprob]:
    own, ids, values = (tensor.tolist() for tensor in top_logprobs(logits, chosen, k))
    tops = [dict(zip(row, scores, strict=True)) for row, scores in zip(ids, values, strict=True)]
    return [TokenLogprob(*entry) for entry in zip(chosen.tolist(), own, tops, strict=True)]
