"""One request through all its attempts: its place in the budget and in the minute, the exchange, the record, the waits.

Threads share one Attempts. It remembers what ended the run, and everybody's `stopped` is asked before anything is sent.
"""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from model.endpoint.address import Address
from model.endpoint.answers import Fault, Reply, read_answer
from model.endpoint.budget import POLL_SECONDS, Budget, Expected, most_prompt_tokens
from model.endpoint.config import EndpointConfig
from model.endpoint.exchange import NoAnswer, Transport
from model.endpoint.journal import Journal
from model.endpoint.pace import Pace
from model.endpoint.retry import backoff
from model.errors import EndpointError

LONGEST_WAIT = 600.0  # seconds that a server may ask for before the run is ended rather than left waiting
GIVE_UP_AFTER = 8  # requests without an answer, one after the other: the endpoint is down
REFUSED_AFTER = 20  # refusals before any reply: it is not one request that is wrong
NOTE_SECONDS = 10.0  # between two notes of one kind
KEPT = "what was answered is kept, and the same command goes on"

Stopped = Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """A request as it is posted."""

    key: str  # of the journal
    body: dict[str, Any]


@dataclass
class Counts:
    """What a client has done so far."""

    attempts: int = 0  # that were sent
    retries: int = 0  # of them, those after the first of a request
    replies: int = 0
    cached: int = 0  # replies that were there already
    refused: int = 0
    unanswered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Attempts:
    """What all threads of a client share."""

    def __init__(
        self,
        config: EndpointConfig,
        address: Address,
        journal: Journal,
        pace: Pace,
        generator: random.Random,
        note: Callable[[str], None],
    ) -> None:
        self.config, self.address, self.journal, self.pace = config, address, journal, pace
        self.budget, self.expected, self.counts = Budget(config.max_cost, journal), Expected(), Counts()
        self.failure: Exception | None = None  # what ended the run
        self._generator, self._note = generator, note
        self._lock = threading.Lock()
        self._refused = self._unanswered = 0  # in a row
        self._noted: dict[str, float] = {}

    def reply(self, job: Job, transport: Transport, stopped: Stopped) -> Reply | None:
        """The reply after as many attempts as it takes; None where the run is stopped first."""
        reason = ""
        for attempt in range(1, self.config.attempts + 1):
            if attempt > 1:
                self.count(retries=1)
            found = self._attempt(job, transport, stopped)
            if found is None or isinstance(found, Reply):
                return found
            reason = found.reason
            if found.kind == "stop":
                self.fail(self._ended(reason))
                return None
            if found.kind == "refused":
                return self._without_answer("refused", reason)
            if attempt < self.config.attempts and not self._wait(attempt, found, stopped):
                return None
        return self._without_answer("unanswered", f"{reason}, after {self.config.attempts} attempts")

    def count(self, **amounts: int) -> None:
        with self._lock:
            for name, amount in amounts.items():
                setattr(self.counts, name, getattr(self.counts, name) + amount)

    def fail(self, error: Exception) -> None:
        """Ends the run; the first error is the one that is told."""
        with self._lock:
            self.failure = self.failure or error

    def _attempt(self, job: Job, transport: Transport, stopped: Stopped) -> Reply | Fault | None:
        longest = self.config.longest_reply(job.body)
        most = self.config.cost(most_prompt_tokens(job.body), longest)
        if not self.budget.reserve(most, stopped):
            if not stopped():
                self.fail(self._over_budget(most))
            return None
        try:
            expected = self.expected.tokens(job.body, longest)
            if not self.pace.take(expected, stopped):
                return None
            self.journal.sent(job.key, most)
            self.count(attempts=1)
            found = self._exchange(job, transport)
            if isinstance(found, Reply):
                self.journal.keep(job.key, found)
                self.pace.settle(expected, found.prompt_tokens + found.completion_tokens)
            elif found.paid:
                self.journal.lost(most)
            else:
                self.journal.free(job.key)
            return found
        finally:
            self.budget.release(most)

    def _exchange(self, job: Job, transport: Transport) -> Reply | Fault:
        try:
            answer = transport.post(json.dumps(job.body, ensure_ascii=False).encode("utf-8", "replace"))
        except NoAnswer as error:
            return Fault("stop" if error.fatal else "again", error.reason, paid=error.sent)
        found = read_answer(answer)
        if isinstance(found, Fault):
            return found
        self.expected.learn(job.body, found.prompt_tokens, found.completion_tokens)
        prompt = found.prompt_tokens or round(self.expected.prompt_tokens(job.body))  # where no usage is told
        completion = found.completion_tokens or round(len(found.text.encode()) / 4)
        self.count(replies=1, prompt_tokens=prompt, completion_tokens=completion)
        with self._lock:
            self._refused = self._unanswered = 0
        cost = self.config.cost(prompt, completion)
        return replace(found, prompt_tokens=prompt, completion_tokens=completion, cost=cost)

    def _wait(self, attempt: int, fault: Fault, stopped: Stopped) -> bool:
        """Waits for the next attempt; False where the run is stopped before."""
        with self._lock:
            seconds = backoff(attempt, self._generator)
        if fault.wait:
            if fault.wait > LONGEST_WAIT:
                self.fail(self._ended(f"{fault.reason}, and a wait of {fault.wait:,.0f} seconds is asked for"))
                return False
            self.pace.pause(fault.wait)  # for all threads: the next request would be told the same
            seconds = fault.wait
        self._say(fault.reason, f"sent again after {seconds:.1f} s")
        end = time.monotonic() + seconds
        while not stopped() and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, POLL_SECONDS))
        return not stopped()

    def _without_answer(self, status: Literal["refused", "unanswered"], reason: str) -> Reply:
        self.count(**{status: 1})
        with self._lock:
            self._refused += status == "refused"
            self._unanswered += status == "unanswered"
            refused_all = not self.counts.replies and self._refused >= REFUSED_AFTER
            enough = refused_all or self._unanswered >= GIVE_UP_AFTER
        if enough:
            self.fail(
                self._ended(f"{reason}; {self._refused + self._unanswered} requests in a row ended without a reply")
            )
        return Reply("", status, reason)

    def _say(self, reason: str, what: str) -> None:
        """A note, but of each kind of trouble only now and then."""
        now = time.monotonic()
        with self._lock:
            if now - self._noted.get(reason, float("-inf")) < NOTE_SECONDS:
                return
            self._noted[reason] = now
        self._note(f"{self.address.host}: {reason}; {what}")

    def _ended(self, reason: str) -> EndpointError:
        return EndpointError(f"{self.address.shown} cannot be asked any further: {reason}; {KEPT}")

    def _over_budget(self, most: float) -> EndpointError:
        spent = self.journal.spent + self.journal.unsettled
        return EndpointError(
            f"the budget of {self.config.max_cost:g} is used up: {spent:.6g} spent, and the next request may cost {most:.3g}; "
            f"raise --max-cost to go on ({KEPT})"
        )
