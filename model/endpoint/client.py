"""Many requests to an endpoint at once: within its limits and a budget, sent again where that helps, and never paid twice.

    client = Client(EndpointConfig(url="http://localhost:8000/v1", model="m"), journal=Path("out/requests.jsonl"))
    for request, reply in client.ask(ChatRequest(({"role": "user", "content": text},)) for text in texts): ...

Each thread takes a request through all its attempts. Requests are pulled and replies given in the caller's thread.
"""

import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from model.endpoint.address import address_of, proxy_for, read_key
from model.endpoint.answers import Reply
from model.endpoint.attempts import Attempts, Counts, Job, Stopped
from model.endpoint.budget import POLL_SECONDS
from model.endpoint.config import EndpointConfig
from model.endpoint.exchange import Connection, Transport
from model.endpoint.journal import Journal, request_key
from model.endpoint.pace import Pace

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ChatRequest:
    """Messages to answer. `sample` tells n replies to the same messages apart; `id` is the caller's, and is not sent."""

    messages: tuple[Mapping[str, str], ...]
    sample: int = 0
    id: Any = None
    max_tokens: int | None = None  # None: the config's


@dataclass(frozen=True)
class Estimate:
    """What requests would take; costs are None where no prices are known."""

    requests: int
    cached: int  # of them answered already
    prompt_tokens: int  # expected
    most_completion_tokens: int
    prompt_cost: float | None  # expected
    most_cost: float | None  # with every reply as long as it may be
    spent: float  # on this journal before


class Client:
    """Asks one endpoint. close() it, or use it as a context manager."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        journal: Path | None = None,
        generator: random.Random | None = None,
        note: Callable[[str], None] = lambda text: None,
        transport: Callable[[], Transport] | None = None,
    ) -> None:
        """Nothing is sent. `generator` draws the jitter of waits; `note` is told what keeps the client waiting, and why."""
        self.config, self.address = config, address_of(config.url)
        key, proxy = read_key(config.key_env), proxy_for(self.address)
        if key is not None and not self.address.secure and self.address.host not in LOCAL_HOSTS:
            note(f"the key goes to {self.address.shown} without encryption: take https:// where the endpoint has it")
        if proxy is not None:
            note(f"{self.address.host} is asked through the proxy {proxy.host}:{proxy.port}")
        self.journal = Journal(journal)
        self._transport = transport or (lambda: Connection(self.address, key, proxy, config.timeout))
        pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._attempts = Attempts(config, self.address, self.journal, pace, generator or random.Random(0), note)

    @property
    def counts(self) -> Counts:
        return self._attempts.counts

    @property
    def cost(self) -> float:
        """Of all requests of the journal, those that may have been charged for included."""
        return self.journal.spent + self.journal.unsettled

    def ask(
        self, requests: Iterable[ChatRequest], should_stop: Stopped = lambda: False
    ) -> Iterator[tuple[ChatRequest, Reply]]:
        """Each request with its reply, as replies come in; equal requests are sent once.

        No more is pulled from `requests` than is soon sent. After should_stop() nothing new is sent, and what is under way
        is still given. EndpointError, after what was under way, where going on makes no sense. One ask at a time.
        """
        return _Asking(self._attempts, self._transport, should_stop).replies(iter(requests))

    def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
        """What asking would take. Nothing is sent."""
        count = cached = longest = 0
        prompt = 0.0
        for request in requests:
            job, count = job_of(self.config, request), count + 1
            if self.journal.find(job.key) is not None:
                cached += 1
                continue
            prompt += self._attempts.expected.prompt_tokens(job.body)
            longest += self.config.longest_reply(job.body)
        tokens, c = round(prompt), self.config
        cost = None if c.price_in is None else c.cost(tokens, 0)
        most = None if c.price_in is None or c.price_out is None else c.cost(tokens, longest)
        return Estimate(count, cached, tokens, longest, cost, most, self.cost)

    def close(self) -> None:
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def job_of(config: EndpointConfig, request: ChatRequest) -> Job:
    body = config.body([dict(message) for message in request.messages], max_tokens=request.max_tokens)
    return Job(request_key(body, request.sample), body)


class _Asking:
    """One call of ask: its threads, what they are to do, and who waits for it."""

    def __init__(self, attempts: Attempts, transport: Callable[[], Transport], should_stop: Stopped) -> None:
        self.attempts, self.transport, self.should_stop = attempts, transport, should_stop
        self.attempts.failure = None
        self.left = threading.Event()
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[Job, Reply | None]] = queue.SimpleQueue()
        self.waiting: dict[str, list[ChatRequest]] = {}  # by key
        self.threads: list[threading.Thread] = []

    def replies(self, requests: Iterator[ChatRequest]) -> Iterator[tuple[ChatRequest, Reply]]:
        more, ahead = True, 2 * self.attempts.config.concurrency
        try:
            while more or self.waiting:
                while more and len(self.waiting) < ahead and not self.stopped():
                    request = next(requests, None)
                    if request is None:
                        more = False
                    elif (found := self._begin(request)) is not None:
                        yield request, found
                more = more and not self.stopped()
                yield from self._next()
        finally:
            self.left.set()
            for _ in self.threads:
                self.jobs.put(None)
            for thread in self.threads:
                thread.join()  # what is under way is answered and kept; a second Ctrl-C does not wait for it
        if self.attempts.failure is not None:
            raise self.attempts.failure

    def stopped(self) -> bool:
        """Whether nothing more is to be sent; in the caller's thread."""
        if self.should_stop():
            self.left.set()
        return self.leaving()

    def leaving(self) -> bool:
        return self.left.is_set() or self.attempts.failure is not None

    def _begin(self, request: ChatRequest) -> Reply | None:
        """The reply that is there already; otherwise the request is on its way."""
        job = job_of(self.attempts.config, request)
        if (found := self.attempts.journal.find(job.key)) is not None:
            self.attempts.count(cached=1)
            return found
        self.waiting.setdefault(job.key, []).append(request)
        if len(self.waiting[job.key]) == 1:
            self.jobs.put(job)
            if len(self.threads) < self.attempts.config.concurrency:
                self.threads.append(threading.Thread(target=self._work, daemon=True))
                self.threads[-1].start()
        return None

    def _next(self) -> Iterator[tuple[ChatRequest, Reply]]:
        """What has just been answered, for all who asked it."""
        try:
            job, reply = self.done.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        equal = self.waiting.pop(job.key)
        if reply is not None:
            yield from ((request, replace(reply, cached=index > 0)) for index, request in enumerate(equal))

    def _work(self) -> None:
        transport = self.transport()
        try:
            while (job := self.jobs.get()) is not None:
                reply = None
                try:
                    reply = None if self.leaving() else self.attempts.reply(job, transport, self.leaving)
                except Exception as error:  # a full disk, or a fault of ours: raised where the caller is
                    self.attempts.fail(error)
                finally:
                    self.done.put((job, reply))
        finally:
            transport.close()
