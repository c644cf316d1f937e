"""How long to wait before a request is sent again: what the server says, or else growing waits with jitter."""

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0  # of the waits that the server says nothing about


def backoff(attempt: int, generator: random.Random) -> float:
    """Seconds before attempt number `attempt` + 1: they double, and half of each is drawn, so that clients spread out."""
    most = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 30))
    return most * generator.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asks to wait, 0 or more; None where it says nothing that can be understood.

    Retry-After is a number or a date (RFC 9110, 10.2.3). A date is compared with the answer's own Date, since the clocks of
    two machines differ. retry-after-ms is what some services send beside it.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        seconds = _number(headers.get(name, ""))
        if seconds is not None:
            return seconds / unit
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    since = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - since).total_seconds())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)  # "-0000" says UTC without a zone
