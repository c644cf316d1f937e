"""The settings of an endpoint: where it is, what it is asked for, how fast, and what that may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from model.config.checks import type_problems, unknown_key
from model.endpoint.address import address_problems
from model.errors import ConfigError

OWN_KEYS = ("messages", "stream", "n")  # of the request's body, which the client sets or relies on


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """ConfigError lists every invalid value at once. Prices and the budget are in one currency, whichever it is."""

    url: str  # such as https://api.example.com/v1 or http://localhost:8000/v1
    model: str  # as the endpoint calls it
    key_env: str = ""  # the environment variable that holds the key; empty: none is sent
    max_tokens: int = 1024  # of one reply
    temperature: float | None = None  # None: not sent, the endpoint's own
    top_p: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # more keys of the request's body
    concurrency: int = 16  # requests under way at a time
    requests_per_minute: float | None = None  # retries count; None: no limit
    tokens_per_minute: float | None = None  # of prompts and replies together
    timeout: float = 300.0  # seconds for one whole exchange
    attempts: int = 6  # for one request
    price_in: float | None = None  # for a million prompt tokens
    price_out: float | None = None  # for a million tokens of replies
    max_cost: float | None = None  # what all requests of one journal may cost together

    def __post_init__(self) -> None:
        problems = type_problems(self, "endpoint") + _optional_problems(self)
        if isinstance(self.url, str):
            problems += address_problems(self.url)
        if self.model == "":
            problems.append("endpoint.model is empty: give the name that the endpoint knows its model by")
        least = {"max_tokens": 1, "concurrency": 1, "attempts": 1}
        for name, value in least.items():
            if isinstance(getattr(self, name), int) and getattr(self, name) < value:
                problems.append(f"endpoint.{name} is {getattr(self, name)}: it must be at least {value}")
        if isinstance(self.timeout, int | float) and self.timeout <= 0:
            problems.append(f"endpoint.timeout is {self.timeout}: it must be above 0 seconds")
        problems += self._parameter_problems()
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            problems.append(
                "a budget (--max-cost) needs prices: give --price-in and --price-out, for a million tokens each"
            )
        if problems:
            raise ConfigError(problems)

    def _parameter_problems(self) -> list[str]:
        if not isinstance(self.parameters, Mapping):
            return [f"endpoint.parameters is {self.parameters!r}: give a table of keys for the request"]
        limit = self.parameters.get("max_completion_tokens", 1)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            return [f"endpoint.parameters.max_completion_tokens is {limit!r}: give a whole number above 0"]
        own = {field.name for field in fields(self)} - {"parameters"}
        taken = [key for key in self.parameters if key in OWN_KEYS or key in own]
        return [
            f"endpoint.parameters.{key} cannot be set there: "
            + (f"it is the setting endpoint.{key}" if key in own else "the client sets it")
            for key in taken
        ]

    @classmethod
    def from_table(cls, values: Mapping[str, Any], section: str = "endpoint") -> Self:
        """The settings as TOML gives them; unknown keys are refused by name."""
        known = [field.name for field in fields(cls)]
        problems = [unknown_key(key, known, section) for key in values if key not in known]
        problems += [f"{section}.{name} is missing" for name in ("url", "model") if name not in values]
        if problems:
            raise ConfigError(problems)
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError([text.replace("endpoint.", f"{section}.", 1) for text in error.problems]) from error

    def body(self, messages: list[dict[str, str]], *, max_tokens: int | None = None) -> dict[str, Any]:
        """What is posted. Models that call the limit max_completion_tokens are given it as a parameter, in its place."""
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if "max_completion_tokens" not in self.parameters:
            body["max_tokens"] = max_tokens or self.max_tokens
        for name in ("temperature", "top_p"):
            if getattr(self, name) is not None:
                body[name] = getattr(self, name)
        return body | dict(self.parameters)

    def longest_reply(self, body: Mapping[str, Any]) -> int:
        """Tokens that the reply to such a body may have."""
        return int(body.get("max_tokens") or body["max_completion_tokens"])

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The price of so many tokens; 0 where no prices are known."""
        return (prompt_tokens * (self.price_in or 0.0) + completion_tokens * (self.price_out or 0.0)) / 1e6


def _optional_problems(config: EndpointConfig) -> list[str]:
    """Of the numbers that may be left out."""
    above_zero = ("requests_per_minute", "tokens_per_minute")
    from_zero = ("temperature", "top_p", "price_in", "price_out", "max_cost")
    problems = []
    for name in (*above_zero, *from_zero):
        value = getattr(config, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            problems.append(f"endpoint.{name} is {value!r}: give a number from 0 up, or leave it out")
        elif value == 0 and name in above_zero:
            problems.append(f"endpoint.{name} is 0: give a number above 0, or leave it out")
    return problems
