"""What a status and a body mean: a reply, a request that is refused for good, one to send again, or the end of the run.

200                        a reply; one that is no JSON or has no choice in it is asked for again
408, 409, 429, 5xx         again, after the wait that Retry-After asks for
401, 402, 403, 404, 405    the run stops: every other request would end like this one; so do redirects
429 insufficient_quota     the run stops: no wait brings the money back
other 4xx, such as 400     this request fails, with the server's reason
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from model.endpoint.exchange import Answer
from model.endpoint.retry import retry_after

REASON_LENGTH = 300  # characters of what a server says
AGAIN = (408, 409, 425, 429)
FOR_ALL = (401, 402, 403, 404, 405)  # what is wrong with more than one request
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")

Status = Literal["stop", "length", "filtered", "refused", "unanswered"]


@dataclass(frozen=True)
class Reply:
    """What became of a request. Only "stop" is a whole answer; `reason` says what is wrong with any other.

    length: cut off at max_tokens. filtered: by the provider, or empty. refused: for good, by a status such as 400.
    unanswered: after all attempts, so that another run may try again.
    """

    text: str
    status: Status = "stop"
    reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    cached: bool = False  # it was paid for before

    @property
    def usable(self) -> bool:
        return self.status == "stop"


@dataclass(frozen=True)
class Fault:
    """Why there is no reply. again: send it again, after `wait` seconds where the server says so. stop: end the run."""

    kind: Literal["again", "refused", "stop"]
    reason: str
    wait: float | None = None
    paid: bool = False  # it may have been charged for all the same


def read_answer(answer: Answer) -> Reply | Fault:
    """The meaning of an answer; the reply's cost is not filled in. Usage is 0 where the server tells none."""
    if answer.status == 200:
        return _reply(answer.content)
    no_money, said = _error(answer.content)
    reason = f"HTTP {answer.status}" + (f": {said}" if said else "")
    if 300 <= answer.status < 400:
        place = answer.headers.get("location", "")
        return Fault("stop", f"{reason}, moved to {place}: give that URL" if place else reason)
    if answer.status in FOR_ALL or no_money:
        return Fault("stop", reason)
    if answer.status in AGAIN or answer.status >= 500:
        return Fault("again", reason, retry_after(answer.headers))
    if 400 <= answer.status < 500:
        return Fault("refused", reason)
    return Fault("again", reason, paid=True)


def _reply(content: bytes) -> Reply | Fault:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return Fault("again", "an answer that is no JSON", paid=True)
    try:
        choice = body["choices"][0]
        text, refusal = _text(choice["message"].get("content")), choice["message"].get("refusal")
        finish = str(choice.get("finish_reason") or "stop")
    except (KeyError, IndexError, TypeError, AttributeError):
        no_money, said = _error(content)
        if no_money:
            return Fault("stop", said)
        return Fault("again", "an answer without a reply" + (f": {said}" if said else ""), paid=True)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    status: Status
    if finish == "length":
        status, reason = "length", "cut off at the limit of tokens"
    elif finish == "content_filter":
        status, reason = "filtered", "stopped by the endpoint's content filter"
    elif not text.strip():
        status, reason = "filtered", f"empty ({refusal or finish})"[:REASON_LENGTH]
    else:
        status, reason = "stop", ""
    return Reply(text, status, reason, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _text(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("the content is no text")
    # Half characters, which JSON can spell, cannot be written as UTF-8.
    return (content or "").encode("utf-8", "replace").decode()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _error(content: bytes) -> tuple[bool, str]:
    """Whether an error says that the money is gone, and its words; services nest them differently."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return False, _line(content.decode(errors="replace"))
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return False, _line(str(error))
    said = error.get("message") or error.get("detail") or ""
    return any(error.get(key) in NO_MONEY for key in ("code", "type")), _line(str(said))


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"
