"""A batch whose steps are recorded: the device goes on by itself, and the host reads its tokens one step behind.

While a step runs the host shows the tokens of the one before and looks whether a request is over. It is told a step late: what
the device computed for a request that is over is thrown away. A row is cleared by moving the last one over it, and all of
that stands in the device's one queue, so nothing waits.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.errors import HunyuanError
from model.generation.batch import Batch, details_of
from model.generation.request import Request
from model.generation.sampling import counter_token, top_logprobs


class Flight(NamedTuple):
    """A step that the device was given."""

    requests: list[Request]  # of its rows
    tokens: Tensor  # (B,) on the host, once `done`
    done: torch.cuda.Event | None
    logprobs: tuple[Tensor, Tensor, Tensor] | None  # of the chosen tokens and the likeliest ones, on the device


class RecordedBatch(Batch):
    """The requests that run, in the first rows of the session's cache and state."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        penalised = self.sampling.repetition_penalty != 1
        self._state = self.session.rows(penalised)
        self._seen = self._state.seen if penalised else None
        self._flights: deque[Flight] = deque()

    def decode(self) -> Iterator[tuple[Request, str]]:
        """One token for every request that runs; the next step is under way before they are read."""
        mark = time.perf_counter()
        if not self._flights:
            self._launch()
        if any(self._goes_on(request) for request in self.running):
            self._launch()
        flight = self._flights.popleft()
        if flight.done is not None:
            flight.done.synchronize()
        tokens, details = flight.tokens.tolist(), None
        rows = [row for row, request in enumerate(flight.requests) if request.stop_reason is None]
        if any(tokens[row] < 0 for row in rows):
            raise not_finite()
        if flight.logprobs is not None:
            found = details_of(flight.tokens, *flight.logprobs)
            details = [found[row] for row in rows]
        yield from self._take(
            [flight.requests[row] for row in rows], [tokens[row] for row in rows], details, mark, prefill=False
        )

    def _goes_on(self, request: Request) -> bool:
        """Whether a request wants tokens beyond those of the steps under way."""
        under_way = sum(any(request is other for other in flight.requests) for flight in self._flights)
        return request.new_tokens + under_way < request.max_new_tokens

    def _launch(self) -> None:
        count = len(self.running)
        step = self.session.step(count, max(self.cache.lengths[:count]) + 1, self.sampling)
        step.replay()
        on_gpu = self.device.type == "cuda"
        tokens = torch.empty(count, dtype=torch.int64, pin_memory=on_gpu)
        tokens.copy_(step.chosen[:count], non_blocking=True)
        logprobs = None
        if self.logprobs is not None:
            logprobs = top_logprobs(step.logits[:count], step.chosen[:count].clamp(min=0), self.logprobs)
        done = torch.cuda.Event() if on_gpu else None
        if done is not None:
            done.record()
        for row in range(count):
            self.cache.lengths[row] += 1
        self._flights.append(Flight(list(self.running), tokens, done, logprobs))

    def _draw(self, logits: Tensor, requests: list[Request], first: int, seen: Tensor | None) -> Tensor:
        """The first tokens of requests; their rows are ready for the step that follows."""
        tokens, positions, seeds = (tensor[first : first + len(requests)] for tensor in self._state[:3])
        positions.fill_(len(requests[0].prompt))
        seeds.copy_(torch.tensor([_seed(request) for request in requests]))
        tokens.copy_(counter_token(logits, self.sampling, seeds, positions, seen))
        if (tokens < 0).any():
            raise not_finite()
        return tokens.clone()

    def _move(self, source: int, target: int) -> None:
        super()._move(source, target)
        self._state.move(source, target)


def _seed(request: Request) -> int:
    """As int64. A request without a generator has a seed of torch's."""
    seed = int(torch.randint(2**63 - 1, ())) if request.generator is None else request.generator.initial_seed()
    return (seed + 2**63) % 2**64 - 2**63


def not_finite() -> HunyuanError:
    return HunyuanError(
        "the model's logits are not finite: try --dtype float32, or a checkpoint from before training went wrong"
    )
