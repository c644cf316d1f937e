"""What a GPU does in a step while bytes travel: its kernels by a profile, and how much of NCCL's time others share.

compute_seconds      at least one kernel that is not NCCL's runs
nccl_seconds         at least one of NCCL's runs, be it that it moves bytes or waits for another rank
overlapped_seconds   both
idle_seconds         neither
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

Interval = tuple[float, float]


class Overlap(NamedTuple):
    """Seconds of a step."""

    compute_seconds: float
    nccl_seconds: float
    overlapped_seconds: float
    idle_seconds: float


def profiled(run: Callable[[], Any], steps: int, device: Any) -> Overlap:
    """Of steps that `run` takes, one after the other, on a GPU."""
    from torch.profiler import ProfilerActivity, profile

    from model.device import synchronize

    run()
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            run()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return overlap_of(events, steps)


def overlap_of(events: Iterable[dict[str, Any]], steps: int) -> Overlap:
    """Of the events of a trace (ph X, cat, name, ts and dur in microseconds): kernels, copies and fills on the device."""
    ours: list[Interval] = []
    theirs: list[Interval] = []
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            interval = float(event["ts"]), float(event["ts"]) + float(event["dur"])
            (theirs if "nccl" in event["name"].lower() else ours).append(interval)
    computing, moving, busy = (_covered(intervals) for intervals in (ours, theirs, ours + theirs))
    every = ours + theirs
    span = max(end for _, end in every) - min(start for start, _ in every) if every else 0.0
    parts = computing, moving, computing + moving - busy, span - busy
    return Overlap(*(part / 1e6 / steps for part in parts))


def _covered(intervals: list[Interval]) -> float:
    """The length of their union."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
