"""Requests and tokens per minute, spread evenly, from any number of threads.

Each limit keeps the moment at which all that was taken is paid for: an amount a moves it on by a * interval (the generic cell
rate algorithm, as of ATM networks). What is late may catch up SLACK seconds. With an interval of (60 + SLACK) / limit no
minute, wherever it begins, has more requests than the limit. Another half second is for requests that take longer on their way
than those after them: in the long run the rate is 60 / 61 of the limit, 98.4%.
"""

import threading
import time
from collections.abc import Callable

SLACK = 0.5  # seconds
MINUTE = 60.0 + 2 * SLACK  # over which a limit is spread
TICK = 0.1  # the longest sleep between two looks at what has changed


class _Limit:
    def __init__(self, per_minute: float | None) -> None:
        self.interval = 0.0 if per_minute is None else MINUTE / per_minute  # seconds that one takes
        self.paid_at = float("-inf")

    def take(self, amount: float, now: float) -> None:
        begun = self.paid_at > float("-inf")
        self.paid_at = (
            max(self.paid_at, now) if begun else now + SLACK
        ) + amount * self.interval  # at first nobody is late

    def change(self, amount: float) -> None:
        self.paid_at += amount * self.interval


class Pace:
    """take() waits until a request of so many tokens may be sent; settle() says how many it had in the end."""

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._now, self._sleep = now, sleep
        self._requests, self._tokens = _Limit(requests_per_minute), _Limit(tokens_per_minute)
        self._paused_until = float("-inf")
        self._turn, self._lock = threading.Lock(), threading.Lock()  # one thread waits for the clock, the others for it

    def take(self, tokens: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """True once a request may go; False where `stopped` came first."""
        with self._turn:
            while not stopped():
                with self._lock:
                    now = self._now()
                    seconds = (
                        max(self._requests.paid_at - SLACK, self._tokens.paid_at - SLACK, self._paused_until) - now
                    )
                    if seconds <= 0:
                        self._requests.take(1, now)
                        self._tokens.take(tokens, now)
                        return True
                self._sleep(min(seconds, TICK))
        return False

    def settle(self, taken: float, used: float) -> None:
        """The request for which `taken` tokens were expected had `used`."""
        with self._lock:
            self._tokens.change(used - taken)

    def pause(self, seconds: float) -> None:
        """The server asked everybody to wait."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._now() + seconds)
