"""What a writer is: requests go in, replies come out as they are ready, in any order.

The pipeline gives every request the id of the record that its reply will become, and keeps a reply on the disk as soon as
it is yielded. A writer pulls requests in the caller's thread, no more ahead than it works on, and yields from there, too: where
the user stops the run, the requests simply end, and what is under way is still answered and kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from model.errors import HunyuanError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Request:
    """One answer that is wanted. `sample` tells n answers to the same messages apart."""

    id: str
    messages: tuple[Message, ...]
    sample: int = 0


@dataclass(frozen=True)
class Reply:
    """The answer to the request of that id. `length` was cut off, `error` was refused for good: `error` says why."""

    id: str
    text: str
    finish: Finish = "stop"
    usage: Mapping[str, float] = field(default_factory=dict)  # prompt_tokens, completion_tokens, cost
    error: str = ""


class Writer(Protocol):
    """Answers requests; `name` stands in the records it writes."""

    name: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its answers depend on (kind, model, temperature, longest answer, ...), for the manifest; never a secret.

        How fast it works (concurrency, rates, retries) is no part of it.
        """

    def write(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply for each request, as each is ready; WriterStopped where going on makes no sense."""

    def close(self) -> None:
        """Gives back connections and memory."""


class WriterStopped(HunyuanError):
    """The run cannot go on (a wrong key, no money left, the budget's end); all that was answered is kept."""
