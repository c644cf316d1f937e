"""One prompt and what has been generated for it: tokens, text, and when it is over."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from model.errors import ConfigError
from model.generation.stopping import StopStrings
from model.tokenizer.interface import PieceStream


@dataclass
class TokenLogprob:
    """The log probability of a token in nats, and those of the likeliest tokens at its place."""

    token_id: int
    logprob: float
    top: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        top = [{"token_id": id, "logprob": value} for id, value in self.top.items()]
        return {"token_id": self.token_id, "logprob": self.logprob, "top": top}


@dataclass(eq=False)
class Request:
    """What to generate from; the fields below `generator` are filled while it runs."""

    prompt: list[int]
    max_new_tokens: int
    end_ids: Collection[int] = ()  # tokens that end the text, and are not part of it
    stops: StopStrings = field(default_factory=lambda: StopStrings([]))
    stream: PieceStream | None = None  # turns tokens into text; without one there is none
    generator: torch.Generator | None = None  # its own, so that it draws what it would draw alone
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text: str = ""
    new_tokens: int = 0  # also counts a token that ended the text
    stop_reason: str | None = None  # length, end_of_text or stop_string, once it is over
    end_id: int | None = None  # the token that ended the text, where one did

    def take(self, token: int) -> str:
        """Adds a token; returns the text that it makes safe to show, all that is left once the request is over."""
        self.new_tokens += 1
        if token in self.end_ids:
            self.end_id = token
            return self._end("end_of_text")
        self.token_ids.append(token)
        piece = self._show(self.stream.step(token) if self.stream else "")
        if self.stops.found is not None:
            self.stop_reason = "stop_string"
        elif self.new_tokens == self.max_new_tokens:
            piece += self._end("length")
        return piece

    def _end(self, reason: str) -> str:
        self.stop_reason = reason
        piece = self._show(self.stream.finish() if self.stream else "")
        if self.stops.found is not None:
            self.stop_reason = "stop_string"
            return piece
        rest = self.stops.finish()
        self.text += rest
        return piece + rest

    def _show(self, piece: str) -> str:
        safe = self.stops.push(piece)
        self.text += safe
        return safe


def check_requests(requests: Sequence[Request], context: int, vocab_size: int) -> None:
    """Refuses, before anything is computed, what would not fit the model's context or its vocabulary."""
    problems = []
    for number, request in enumerate(requests, start=1):
        name = "the prompt" if len(requests) == 1 else f"prompt {number}"
        size, new = len(request.prompt), request.max_new_tokens
        if not request.prompt:
            problems.append(f"{name} is empty: give at least one token, such as the end-of-text token")
        elif new < 1:
            problems.append(f"max_new_tokens is {new}: it must be at least 1")
        elif size >= context:
            problems.append(f"{name} has {size:,} tokens and the model's context is {context:,}: shorten the prompt")
        elif size + new > context:
            problems.append(
                f"{name} has {size:,} tokens and {new:,} new ones exceed the model's context of {context:,}: "
                f"lower --max-new-tokens to {context - size:,}"
            )
        elif not all(0 <= token < vocab_size for token in request.prompt):
            problems.append(f"{name} has tokens beyond the model's {vocab_size:,}: take the model's own tokenizer")
    if problems:
        raise ConfigError(problems)
