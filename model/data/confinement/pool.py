"""Runs programs of strangers, and of models, where they can harm nothing: run(program) -> Outcome.

    run("print(6 * 7)").stdout                       "42\\n"
    run("import socket; socket.socket()").reason     "PermissionError: [Errno 1] Operation not permitted (line 1)"

A small clean server (model/data/confinement/server.py) forks one process a program. There is one for each thread that runs
programs at the same time; they are kept for the next ones. Only Linux has all the layers: `level` says which are there.
"""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import model
from model.data.confinement.child import LAYERS, Request
from model.errors import HunyuanError

MEMORY = 256 << 20  # bytes
OUTPUT = 1 << 16  # bytes
WEAKER_FLAG = "--allow-weaker-confinement"
_START = "import sys; sys.path.insert(0, sys.argv[1]); from model.data.confinement.server import main; main()"
# The whole machine read-only, no network, and no other process in sight.
_BUBBLEWRAP = ("--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev")


class ConfinementError(HunyuanError):
    """Programs cannot be confined as well as they must be here."""


@dataclass(frozen=True)
class Outcome:
    """What a program printed and how it ended.

    status   ok        it ran to its last line
             exit      it called exit() before
             error     an exception, or an end without one
             timeout, memory, output, files   the limit that it reached
             killed    by a signal
    reason   one line that says why it was not ok; partly the program's own words
    """

    stdout: str
    status: str
    reason: str


class Level(NamedTuple):
    """The layers of confinement that hold a program on this machine, seen by trying them."""

    layers: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def full(self) -> bool:
        return not self.missing

    def __str__(self) -> str:
        return ", ".join(self.layers) + (f" (without {', '.join(self.missing)})" if self.missing else "")


def run(
    program: str, *, seconds: float = 5.0, memory: int = MEMORY, folder: Path | str | None = None, output: int = OUTPUT,
    allow_weaker: bool = False,
) -> Outcome:  # fmt: skip
    """Runs Python source text in a confined process of its own.

    It may compute, print, and import Python's own library; with a `folder` it may read there and write plain files. Hashes
    and `random` start the same each time. `seconds` are of the clock, and of the processor; `memory` is in bytes, beyond what
    Python itself takes; `output` in bytes. Several threads may call this at the same time.

    Raises ConfinementError where the kernel lacks a layer and `allow_weaker` is not set: then nothing is run.
    """
    if not 0 < seconds <= 86400 or memory < 1 << 20 or output < 1:
        raise HunyuanError(
            f"a program cannot run with seconds={seconds:g}, memory={memory} and output={output}: give seconds up to a day, "
            "at least 1048576 bytes (1 MiB) of memory, and a positive number of bytes of output"
        )
    place = None if folder is None else str(Path(folder).resolve())
    if place is not None and not Path(place).is_dir():
        raise HunyuanError(f"a program cannot run in '{folder}': there is no such folder")
    answer = _ask(Request(program, seconds, memory, place, output, allow_weaker))
    if answer["status"] == "refused":
        raise _refusal(answer["reason"].split())
    return Outcome(**answer)


@functools.cache
def level() -> Level:
    """The layers that this kernel gives. One program is started to see them."""
    try:
        require()
        missing: list[str] = []
    except ConfinementError as error:
        missing = list(error.args[1])
    layers = [name for name in LAYERS if name not in missing]
    return Level((*layers, *(["bubblewrap"] if _bubblewrap() else [])), tuple(missing))


def require(*, allow_weaker: bool = False) -> None:
    """ConfinementError, one sentence, where programs of models would not be fully confined and that was not allowed.

    For a command to call before it starts work that runs programs.
    """
    if not allow_weaker:
        run("")


def _refusal(missing: list[str]) -> ConfinementError:
    error = ConfinementError(
        f"this machine cannot fully confine a program that a model has written (missing: {', '.join(missing)}): use Linux "
        f"5.13 or newer with Landlock and seccomp, or accept the risk with {WEAKER_FLAG} (in Python allow_weaker=True)"
    )
    error.args = (*error.args, missing)
    return error


class _Server:
    """The parent's side of one server process."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [*_bubblewrap(), *_shared(folder), sys.executable, "-s", "-S", "-P", "-B", "-c", _START, _ROOT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}, start_new_session=True,
        )  # fmt: skip

    def ask(self, request: Request) -> dict[str, Any] | None:
        """The answer; None when the server is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


_ROOT = str(Path(model.__file__).parents[1])
_idle: list[_Server] = []
_lock = threading.Lock()


def _ask(request: Request) -> dict[str, Any]:
    """The answer of an idle server or of a new one; an idle one that has gone is replaced."""
    while True:
        server, new = _take(request.folder)
        try:
            answer = server.ask(request)
        except BaseException:  # Ctrl-C: its answer would be taken for the next one's
            server.close()
            raise
        if answer is not None:
            with _lock:
                _idle.append(server)
            return answer
        server.close()
        if new:
            raise ConfinementError(
                "the process that confines programs does not run: see whether memory is left, and what "
                f"'{sys.executable} -S' says"
            )


def _take(folder: str | None) -> tuple[_Server, bool]:
    """A server, and whether it is a new one. Inside bubblewrap a server sees one folder: idle ones of other folders end."""
    seen = folder if _bubblewrap() else None
    with _lock:
        fitting = next((server for server in _idle if server.folder == seen), None)
        stale = [server for server in _idle if server is not fitting and server.folder not in (None, seen)]
        _idle[:] = [server for server in _idle if server is not fitting and server not in stale]
    for server in stale:
        server.close()
    return (fitting, False) if fitting else (_Server(seen), True)


@functools.cache
def _bubblewrap() -> tuple[str, ...]:
    """How a command is started inside bubblewrap, where that is installed and works: a second layer around the server."""
    path = shutil.which("bwrap")
    if path is None:
        return ()
    command = (path, *_BUBBLEWRAP)
    try:
        done = subprocess.run([*command, sys.executable, "-S", "-c", ""], capture_output=True, timeout=20, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return command if done.returncode == 0 else ()


def _shared(folder: str | None) -> list[str]:
    return ["--bind", folder, folder] if folder is not None and _bubblewrap() else []


@atexit.register
def close() -> None:
    """Ends the idle servers; the next `run` starts a new one."""
    with _lock:
        servers, _idle[:] = _idle[:], []
    for server in servers:
        server.close()


def _forget() -> None:
    """In a forked process: its servers are its parent's."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget)
