"""One file of pairs into two: kept.jsonl with the lines that stay, as they are, and dropped.jsonl with filter and reason."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from model.data.synthesis.filter import FilterConfig, Verdict
from model.data.synthesis.filter_run import Advanced, Critique, FilterRun
from model.errors import DataError
from model.files import LOCK, hold, open_aside

KEPT, DROPPED, WORK = "kept.jsonl", "dropped.jsonl", ".filtering"


def filter_file(
    pairs: Path, config: FilterConfig, out: Path, *, threads: int | None = None, critique: Critique | None = None,
    advanced: Advanced = lambda name, count: None, should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:  # fmt: skip
    """{"read", "kept", "dropped": {filter: count}}; None where it was stopped. Both files appear whole."""
    if pairs.absolute().parent.resolve() == out.resolve() and pairs.name in (KEPT, DROPPED):
        raise DataError(f"{pairs} would be replaced by what is made of it: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    lock = hold(out / LOCK)
    if lock is None:
        raise DataError(f"another process writes to {out}: wait until it is done, or choose another --out")
    with lock:
        work = FilterRun(
            [pairs], config, out / WORK, threads=threads, critique=critique, advanced=advanced, should_stop=should_stop
        )
        with closing(work):
            if not work.run():
                return None
            with open_aside(out / KEPT) as kept, open_aside(out / DROPPED) as dropped:
                for line, verdict in work.results():
                    if verdict.kept:
                        kept.write(line.rstrip(b"\r\n") + b"\n")
                    else:
                        dropped.write(_dropped_line(line, verdict))
        work.finish()
    counts = work.counts()
    return {"read": len(work.lines), "kept": len(work.lines) - sum(counts.values()), "dropped": counts}


def _dropped_line(line: bytes, verdict: Verdict) -> bytes:
    """The record, or its line where it is none, with the filter and the reason."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        record = {"line": line.decode("utf-8", "replace").rstrip("\r\n")}
    record |= {"filter": verdict.filter, "reason": verdict.reason, "scores": dict(verdict.scores)}
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
