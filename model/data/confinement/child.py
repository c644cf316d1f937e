"""What a forked process does: give up its rights, run one program, and say how that ended.

The order matters: limits and Landlock need calls that the filter of system calls then refuses. A program is run only when
every layer is on, or the request says that fewer will do. How it ended goes through a pipe with a token that is new for each
program, so that nothing that it prints, and no early end, passes for having reached its last line. (It shares the process
with the lines that know the token: a program that searches its own memory can say "ok" too early. So a check compares what
the program printed with what is known outside.)
"""

import atexit
import builtins
import contextlib
import os
import random
import resource
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper

from model.data.confinement.kernel import die_with_parent, drop_capabilities, landlock, no_new_privileges
from model.data.confinement.seccomp import restrict

LAYERS = ("limits", "capabilities", "no_new_privs", "landlock", "seccomp")
FILE_BYTES = 4 << 20  # of one file that a program writes
DESCRIPTORS = 32
OUTPUT, VERDICT = 1, 3  # file descriptors of a program


@dataclass(frozen=True)
class Request:
    """One program and its limits."""

    program: str
    seconds: float  # of the processor and of the clock
    memory: int  # bytes that the program may take beyond what Python has taken
    folder: str | None  # where it may read and write plain files
    output: int  # bytes that it may print
    weaker: bool  # whether to run it with fewer layers than all


def confine(request: Request, readable: Sequence[str], base_memory: int) -> list[str]:
    """Puts on every layer that the kernel has, for good, and returns their names."""
    steps: list[tuple[str, Callable[[], None]]] = [
        ("limits", lambda: _limit(request, base_memory)),
        ("capabilities", drop_capabilities),
        ("no_new_privs", no_new_privileges),
        ("landlock", lambda: landlock(readable, request.folder)),
        ("seccomp", lambda: restrict(os.getpid())),
    ]
    applied = []
    for name, step in steps:
        try:
            step()
        except (OSError, AttributeError, KeyError, ValueError):
            continue
        applied.append(name)
    return applied


def _limit(request: Request, base_memory: int) -> None:
    cpu = int(request.seconds) + 1
    limits = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: base_memory + request.memory,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def run(request: Request, readable: Sequence[str], base_memory: int) -> bytes:
    """Confines this process, runs the request's program in it, and returns the verdict: status and reason."""
    with contextlib.suppress(OSError, AttributeError):
        die_with_parent()
    os.chdir(request.folder or "/")
    os.environ.clear()
    applied = confine(request, readable, base_memory)
    missing = [name for name in LAYERS if name not in applied]
    verdict = ("refused", " ".join(missing)) if missing and not request.weaker else _run_program(request)
    return "\0".join(verdict).encode("utf-8", "backslashreplace")[:2000]


def _run_program(request: Request) -> tuple[str, str]:
    """How the program ended (a status of pool.Outcome), and why."""
    printed = TextIOWrapper(os.fdopen(OUTPUT, "wb"), encoding="utf-8", errors="backslashreplace")
    sys.stdout = sys.__stdout__ = printed  # type: ignore[misc]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as Python's site gives them
    sys.argv, sys.path = ["program.py"], [*([request.folder] if request.folder else []), *sys.path]
    random.seed(0)  # as PYTHONHASHSEED=0: the same program prints the same
    try:
        try:
            exec(compile(request.program, "program.py", "exec", dont_inherit=True), main.__dict__)
        finally:
            atexit._run_exitfuncs()
            if not printed.closed:
                printed.flush()
    except SystemExit as error:
        code = 0 if error.code is None else error.code
        return "exit", f"called exit({code!r}) before its last line"
    except MemoryError:
        return "memory", f"needed more than {request.memory >> 20} MiB"
    except BaseException as error:
        return "error", describe(error)
    return "ok", ""


def describe(error: BaseException) -> str:
    """ValueError: what it says (line 3)."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        said = str(error)
    except BaseException:
        said = ""
    text = ": ".join(part for part in (type(error).__name__, said) if part)
    return f"{text[:1000]} (line {line})" if line else text[:1000]
