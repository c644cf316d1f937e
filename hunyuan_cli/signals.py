"""Ctrl-C and SIGTERM as a request to stop where nothing is lost, and the end of a process with the one that started it.

with stop_on_signal(stderr, FINISH_STEP) as should_stop: ...    should_stop() is asked between steps
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

FINISH_STEP = "stopping after this step (Ctrl-C again to stop at once, without saving)"
FINISH_CELLS = "stopping after the steps that are going on (Ctrl-C again to stop at once, without saving)"


@contextmanager
def stop_on_signal(
    note: Callable[[str], None],
    message: str,
    *,
    at_once: bool = True,
    noted: Collection[int] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether the user has asked to stop; the first signal asks, a second Ctrl-C stops at once.

    With `at_once` a signal that comes before the function was first called stops at once as well: there is nothing to save.
    Signals other than those `noted` are obeyed without a word.
    """
    asked = working = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if (at_once and not working) or (asked and number == signal.SIGINT):
            raise KeyboardInterrupt
        asked = True
        if number in noted:
            note(message)

    def should_stop() -> bool:
        nonlocal working
        working = True
        return asked

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield should_stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def die_with(parent: int) -> bool:
    """Has Linux end this process with its parent, however that ends; elsewhere only a lock is left. False: it has ended."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    return os.getppid() == parent
