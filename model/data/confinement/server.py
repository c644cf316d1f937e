"""The small clean process that forks one child for each program, watches its clock and its output, and reports.

It starts with an empty environment and Python's own library alone, so that a child inherits no secret, no module of a
stranger and no open file. Requests come as lines of JSON on standard input, one at a time; an answer is one line on standard
output. The process ends when its input does. To fork it takes a few milliseconds, where a fresh Python takes fifty or more.
"""

import contextlib
import gc
import json
import os
import select
import signal
import sys
import sysconfig
import time
from typing import Any

from model.data.confinement.child import OUTPUT, VERDICT, Request, run

FILES, FOLDER_BYTES = 100, 64 << 20  # that a folder may gain while a program runs
LOOK_EVERY = 0.02  # seconds between looks at the folder
# Loaded once here, so that a program that imports them need not read them.
LIBRARY = (
    "math", "cmath", "itertools", "functools", "collections", "collections.abc", "operator", "string", "re", "datetime",
    "decimal", "fractions", "statistics", "heapq", "bisect", "typing", "dataclasses", "enum", "copy", "textwrap",
    "calendar", "array", "io", "abc", "contextlib", "numbers", "unicodedata", "hashlib", "zlib",
)  # fmt: skip


def main() -> None:
    """Serves until standard input ends."""
    for name in LIBRARY:
        with contextlib.suppress(ImportError):
            __import__(name)
    readable = _library()
    sys.path = [path for path in sys.path if path in readable]
    requests, answers = os.dup(0), os.dup(1)
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        null = os.open(os.devnull, flags)
        os.dup2(null, descriptor)
        os.close(null)
    os.umask(0o077)
    gc.freeze()  # a collection in a child does not touch, and so not copy, what was there before
    base_memory = _address_space()
    with os.fdopen(requests, "rb") as lines, os.fdopen(answers, "wb", buffering=0) as replies:
        for line in lines:
            answer = serve(Request(**json.loads(line)), readable, base_memory)
            replies.write(json.dumps(answer).encode() + b"\n")


def _library() -> list[str]:
    """Folders and files of Python's own library: what a program may read."""
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    paths |= {path for path in sys.path if path.endswith((".zip", "lib-dynload"))}
    return sorted(path for path in paths if os.path.exists(path))  # noqa: PTH110


def _address_space() -> int:
    """Bytes of address space that this process has taken."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        return 64 << 20


def serve(request: Request, readable: list[str], base_memory: int) -> dict[str, Any]:
    """Runs one program in a child: {"stdout", "status", "reason"}."""
    token = os.urandom(16)
    out_read, out_write = os.pipe()
    told_read, told_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(out_write, OUTPUT)
            os.dup2(told_write, VERDICT)
            os.closerange(VERDICT + 1, os.sysconf("SC_OPEN_MAX"))
            os.write(VERDICT, token + run(request, readable, base_memory))
        finally:
            os._exit(0)  # whatever happened: a second server must not go on from here
    os.close(out_write)
    os.close(told_write)
    watch = _Watch(request, pid, {out_read: b"", told_read: b""})
    stopped = watch.wait()
    printed, told = watch.pipes[out_read], watch.pipes[told_read]
    for descriptor in (out_read, told_read):
        os.close(descriptor)
    status, reason = stopped or _verdict(request, watch.exit_code, told, token)
    return {"stdout": printed[: request.output].decode("utf-8", "replace"), "status": status, "reason": reason}


class _Watch:
    """One child: reads its pipes until it ends, or ends it when a limit is reached."""

    def __init__(self, request: Request, pid: int, pipes: dict[int, bytes]) -> None:
        self.request, self.pid, self.pipes = request, pid, pipes
        self.exit_code: int | None = None
        self._before = self._folder_use()

    def wait(self) -> tuple[str, str] | None:
        """The limit that ended the child, as status and reason; None when it ended by itself."""
        end = time.monotonic() + self.request.seconds
        open_pipes, limit = set(self.pipes), None
        while limit is None and self.exit_code is None:
            left = end - time.monotonic()
            pause = (LOOK_EVERY if self.request.folder else left) if open_pipes else 0.001
            ready = select.select(open_pipes, [], [], max(0.0, min(left, pause)))[0]
            for descriptor in ready:
                if not (data := os.read(descriptor, 1 << 16)):
                    open_pipes.discard(descriptor)
                self.pipes[descriptor] += data
            limit = self._limit_reached(left)
            if not open_pipes:
                self._reap(os.WNOHANG)
        if self.exit_code is None or self.request.weaker:  # with fewer layers it may have left processes behind
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if self.exit_code is None:
            self._reap(0)
        return limit or self._limit_reached(1.0)

    def _limit_reached(self, left: float) -> tuple[str, str] | None:
        request = self.request
        if left <= 0:
            return "timeout", f"ran longer than {request.seconds:g} seconds"
        if any(len(data) > request.output for data in self.pipes.values()):
            return "output", f"printed more than {request.output:,} bytes"
        if request.folder:
            count, size = (now - before for now, before in zip(self._folder_use(), self._before, strict=True))
            if count > FILES or size > FOLDER_BYTES:
                return "files", f"wrote more than {FILES} files or {FOLDER_BYTES >> 20} MiB"
        return None

    def _folder_use(self) -> tuple[int, int]:
        """Files in the program's folder, and their bytes."""
        if not self.request.folder:
            return 0, 0
        count = size = 0
        with os.scandir(self.request.folder) as entries:
            for entry in entries:
                count += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_size
        return count, size

    def _reap(self, options: int) -> None:
        pid, status = os.waitpid(self.pid, options)
        if pid:
            self.exit_code = os.waitstatus_to_exitcode(status)


def _verdict(request: Request, exit_code: int | None, told: bytes, token: bytes) -> tuple[str, str]:
    """Status and reason of a program that ended by itself."""
    if exit_code == 0 and told.startswith(token):
        status, _, reason = told.removeprefix(token).decode("utf-8", "replace").partition("\0")
        return status, reason
    if exit_code == -signal.SIGXCPU:
        return "timeout", f"took more than {request.seconds:g} seconds of the processor"
    if exit_code is not None and exit_code < 0:
        return "killed", f"ended by {signal.Signals(-exit_code).name}"
    return "error", f"ended with exit status {exit_code} before its last line"
