"""The system calls that a confined program may make: an allow-list as a BPF program for the kernel's seccomp filter.

Landlock decides which files may be opened. This list decides what may be done at all: nothing that starts a process, opens a
socket, sends a signal to another process, or changes the mode, owner, times or attributes of a file, which Landlock does not
watch. What is not listed fails with EPERM, so that the program gets a PermissionError it can show. An allow-list is right
with kernels to come: a new call is refused until somebody has read what it does.

The filter's language: linux/filter.h, linux/seccomp.h; numbers of calls: asm/unistd.h of each architecture.
"""

import ctypes
import platform
import struct
from collections.abc import Sequence

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # ld abs, jeq, jge, and: of 32-bit words
X32_CALLS = 0x40000000  # the x86_64 kernel has a second table of calls from this number on

# AUDIT_ARCH_*, and the place of the architecture in the tables below.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Number of the call on (x86_64, aarch64); None where there is no such call. Those used most stand first.
CALLS: dict[str, tuple[int | None, int | None]] = {
    # what is open already, and memory
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "select": (23, None), "pselect6": (270, 72), "poll": (7, None),
    "ppoll": (271, 73), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "madvise": (28, 233), "brk": (12, 214),
    # names and folders: Landlock says which
    "newfstatat": (262, 79), "fstat": (5, 80), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "readlink": (89, None),
    "readlinkat": (267, 78), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "ftruncate": (77, 46),
    # itself
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getrusage": (98, 165), "times": (100, 153), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "getcpu": (309, 168), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "getrlimit": (97, 163),
    "exit": (60, 93), "exit_group": (231, 94),
    # signals to itself, time, chance
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "getrandom": (318, 278),
}  # fmt: skip

# Calls that are allowed for some arguments only.
OPENAT, IOCTL, FCNTL, PRLIMIT, TGKILL, CLONE3 = (257, 56), (16, 29), (72, 25), (302, 261), (234, 131), (435, 435)
TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x5450, 0x5451, 0x5421)  # TCGETS, TIOCGWINSZ, FIONCLEX, FIOCLEX, FIONBIO
DESCRIPTOR_FLAGS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; no F_SETOWN
SPECIAL_BITS = 0o7000  # set-user-id, set-group-id, sticky
O_ACCMODE, O_TRUNC = 0o3, 0o1000


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _argument(index: int, half: int = 0) -> bytes:
    """Loads the low (or with half=1 the high) word of an argument; struct seccomp_data, little-endian."""
    return _op(LOAD, 16 + 8 * index + 4 * half)


def _only(number: int | None, checks: Sequence[bytes]) -> list[bytes]:
    """Instructions that are run for one call; the number stands in the accumulator before and after others."""
    return [] if number is None else [_op(EQUAL, number, 0, len(checks)), *checks]


def _one_of(index: int, values: Sequence[int]) -> list[bytes]:
    """Allows a 32-bit argument of these values."""
    tests = [_op(EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_argument(index), *tests, _op(RETURN, ERRNO | EPERM), _op(RETURN, ALLOW)]


def program(machine: str, pid: int) -> bytes:
    """The filter for a machine such as x86_64, for the process `pid`, which may signal itself; KeyError for others."""
    architecture, column = ARCHITECTURES[machine]
    refuse, allow = _op(RETURN, ERRNO | EPERM), _op(RETURN, ALLOW)
    # A file is made without special bits, and one opened to be read is not emptied (Landlock watches that from ABI 3 on).
    opening = [
        _argument(3), _op(AND, SPECIAL_BITS), _op(EQUAL, 0, 1, 0), refuse,
        _argument(2), _op(AND, O_ACCMODE | O_TRUNC), _op(EQUAL, O_TRUNC, 0, 1), refuse,
        allow,
    ]  # fmt: skip
    # Limits may be read, not set: the third argument is a null pointer.
    limits = [_argument(2), _op(EQUAL, 0, 0, 2), _argument(2, 1), _op(EQUAL, 0, 1, 0), refuse, *_one_of(0, (0, pid))]
    code = [
        _op(LOAD, 4), _op(EQUAL, architecture, 1, 0), _op(RETURN, KILL),
        _op(LOAD, 0), _op(AT_LEAST, X32_CALLS, 0, 1), _op(RETURN, KILL),
        *_only(OPENAT[column], opening),
        *_only(IOCTL[column], _one_of(1, TERMINAL_QUESTIONS)),
        *_only(FCNTL[column], _one_of(1, DESCRIPTOR_FLAGS)),
        *_only(PRLIMIT[column], limits),
        *_only(TGKILL[column], _one_of(0, (pid,))),
        *_only(CLONE3[column], [_op(RETURN, ERRNO | ENOSYS)]),  # the C library then tries clone, which is refused
    ]  # fmt: skip
    for numbers in CALLS.values():
        code += _only(numbers[column], [allow])
    return b"".join([*code, refuse])


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def restrict(pid: int) -> None:
    """Puts the filter on the calling thread, for good; needs no_new_privs. OSError, KeyError where that cannot be."""
    code = program(platform.machine(), pid)
    libc = ctypes.CDLL(None, use_errno=True)
    prog = _Filter(len(code) // 8, code)
    if libc.prctl(22, 2, ctypes.byref(prog), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "the kernel has no seccomp filters")
