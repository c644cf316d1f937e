"""What requests will cost: the tokens they are expected to have, the most they may have, and a budget that is kept."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from model.endpoint.journal import Journal

BYTES_PER_TOKEN = 4.0  # of English, before replies have told; Chinese has fewer
TOKENS_OF_A_MESSAGE = 8  # that a chat template puts around it, at most or nearly so
POLL_SECONDS = 0.1


def prompt_bytes(body: Mapping[str, Any]) -> int:
    return sum(len(message["content"].encode("utf-8", "replace")) for message in body["messages"])


def most_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that a prompt cannot exceed with any byte-level tokenizer: each is a byte at least."""
    return prompt_bytes(body) + TOKENS_OF_A_MESSAGE * len(body["messages"])


class Expected:
    """Tokens of a prompt and its reply as the replies so far suggest: means, so that a minute's tokens come out right."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = self._prompt_tokens = self._completion_tokens = self._replies = 0.0

    def prompt_tokens(self, body: Mapping[str, Any]) -> float:
        with self._lock:
            rate = self._prompt_tokens / self._bytes if self._prompt_tokens else 1.0 / BYTES_PER_TOKEN
        return prompt_bytes(body) * rate

    def tokens(self, body: Mapping[str, Any], longest_reply: int) -> float:
        """Of both; the first replies are expected to be as long as they may be."""
        with self._lock:
            reply = self._completion_tokens / self._replies if self._completion_tokens else longest_reply
        return self.prompt_tokens(body) + min(reply, longest_reply)

    def learn(self, body: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> None:
        with self._lock:
            self._bytes += prompt_bytes(body) if prompt_tokens else 0
            self._prompt_tokens += prompt_tokens
            self._completion_tokens += completion_tokens
            self._replies += 1


class Budget:
    """The most that a journal's requests may cost together. Every attempt reserves the most it may cost before it goes."""

    def __init__(self, limit: float | None, journal: Journal) -> None:
        self._limit, self._journal = limit, journal
        self._reserved, self._attempts = 0.0, 0
        self._changed = threading.Condition()

    def reserve(self, most: float, stopped: Callable[[], bool]) -> bool:
        """Waits while others may turn out cheaper; False where the money does not reach, or `stopped` came first."""
        with self._changed:
            while not stopped():
                known = self._journal.spent + self._journal.unsettled
                if self._limit is None or known + self._reserved + most <= self._limit:
                    self._reserved, self._attempts = self._reserved + most, self._attempts + 1
                    return True
                if not self._attempts:
                    return False
                self._changed.wait(POLL_SECONDS)
        return False

    def release(self, most: float) -> None:
        """The attempt has ended, and the journal knows what it cost."""
        with self._changed:
            self._attempts -= 1
            self._reserved = self._reserved - most if self._attempts else 0.0  # no dust of sums of floats
            self._changed.notify_all()
