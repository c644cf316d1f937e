"""What a person reads while a command works: lines and bars on standard error, and values in words.

with progress("packing", total=9) as advance: ...  a bar for what takes over two seconds
stderr(message)                                    one line that a person should see
human(1.3e9, "bytes")                              "1.3 GB"
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO


def stderr(message: str) -> None:
    """One line on standard error; a reader that has gone away is no reason to stop."""
    if message:
        with suppress(OSError, ValueError, RuntimeError):  # the last: a signal in the middle of a write
            print(printable(message, sys.stderr), file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, one line elsewhere; yields a function that takes the number of steps just done."""
    if not sys.stderr.isatty():
        stderr(f"{description} ...")
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def data_progress(note: Callable[[str], None]) -> Callable[[str, float], None]:
    """Says each stage of the data's preparation once, when it starts."""
    told: set[str] = set()

    def report(stage: str, share: float) -> None:
        del share
        if stage not in told:
            told.add(stage)
            note(f"data: {stage}")

    return report


# What is shown for control characters, but newline and tab.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), "\ufffd")


def printable(text: str, stream: TextIO | None = None) -> str:
    """A text for a stream (standard output): a terminal gets pictures for the control characters that it would obey.

    Models and their files say what they like. Newlines and tabs stay. A pipe or a file gets the text as it is.
    """
    return text.translate(_PICTURES) if (stream or sys.stdout).isatty() else text


def is_missing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT: all but None are unequal to themselves, or refuse to say."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True
    except ValueError:
        return False


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A value of a row, where it is a finite number."""
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def human(value: Any, name: str = "") -> str:
    """A value as a person would write it; the last word of its name may say its kind (bytes, seconds, loss)."""
    if not isinstance(value, (list, tuple, dict)) and is_missing(value):
        return "–"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    match name.rpartition("_")[2]:
        case "bytes":
            return human_bytes(value)
        case "seconds":
            return human_time(value)
        case "mfu" | "fraction":
            return f"{value:.1%}"
        case "second" | "params" | "tokens" | "flops":
            return human_count(value)
        case "loss" | "byte":
            return f"{value:.4f}"
        case "lr":
            return f"{value:.2e}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 1e9 else human_count(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def human_count(value: float) -> str:
    """12,345 as 12.3K, then M, B, T; beyond a thousand T as 1.23e+18."""
    for limit, unit in ((1e3, ""), (1e6, "K"), (1e9, "M"), (1e12, "B"), (1e15, "T")):
        if abs(value) < 0.9995 * limit:
            return f"{value / (limit / 1e3):.3g}{unit}"
    return f"{value:.3g}"


def human_bytes(value: float) -> str:
    """Bytes in decimal units, as memories are sold."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if abs(value) < limit:
            return f"{value / (limit / 1e3):.4g} {unit}"
    return f"{value / 1e12:.4g} TB"


def human_time(seconds: float) -> str:
    """4.2s, 3m 07s, 5h 12m, 2d 03h."""
    if seconds < 60:
        return f"{seconds:.3g}s"
    for limit, unit, small, below in ((3600, 60, 1, "ms"), (86400, 3600, 60, "hm"), (math.inf, 86400, 3600, "dh")):
        if seconds < limit:
            return f"{int(seconds // unit)}{below[0]} {int(seconds % unit // small):02d}{below[1]}"
    raise AssertionError("unreachable")
