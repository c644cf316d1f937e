"""A writer that asks an OpenAI-compatible endpoint (model/endpoint)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from model.data.synthesis.writer import Finish, Reply, Request, WriterStopped
from model.endpoint import answers
from model.endpoint.client import ChatRequest, Client, Estimate
from model.errors import EndpointError

VERSION = 1  # raise it where the same request would be posted in another way


class EndpointWriter:
    """A Writer of a client, whose journal keeps every reply that is paid for."""

    def __init__(self, name: str, client: Client, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.name, self.client, self._should_stop = name, client, should_stop

    @property
    def identity(self) -> Mapping[str, Any]:
        c = self.client.config
        return {
            "kind": "endpoint", "version": VERSION, "model": c.model, "max_tokens": c.max_tokens,
            "temperature": c.temperature, "top_p": c.top_p, "parameters": dict(c.parameters),
        }  # fmt: skip

    def write(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Requests that no attempt brought an answer to come last, and not at all where the run is stopped.

        So a run that ends because the endpoint is down asks for them again, and one that ends well drops them.
        """
        unanswered = []
        asked = (ChatRequest(request.messages, request.sample, request.id) for request in requests)
        try:
            for request, reply in self.client.ask(asked, self._should_stop):
                if reply.status == "unanswered":
                    unanswered.append(_reply(request.id, reply))
                else:
                    yield _reply(request.id, reply)
        except EndpointError as error:
            raise WriterStopped(str(error)) from error
        if not self._should_stop():
            yield from unanswered

    def estimate(self, requests: Iterable[Request]) -> Estimate:
        """What they would take. Nothing is sent."""
        return self.client.estimate(ChatRequest(request.messages, request.sample) for request in requests)

    def close(self) -> None:
        self.client.close()


def _reply(id: str, reply: answers.Reply) -> Reply:
    finishes: dict[str, Finish] = {"stop": "stop", "length": "length"}
    usage = {}
    if reply.prompt_tokens or reply.completion_tokens:
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens, "cost": reply.cost}
    return Reply(id, reply.text, finishes.get(reply.status, "error"), usage, "" if reply.usable else reply.reason)
