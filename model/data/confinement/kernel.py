"""Rights that a process gives up for good, through the C library: capabilities, new privileges, and files by Landlock.

Each function raises OSError (or AttributeError, where the C library has no such call) when the kernel cannot do it.
Landlock: linux/landlock.h and the kernel's documentation of it, userspace-api/landlock. It does not watch chmod, chown,
utime and extended attributes, which the filter of system calls refuses (model/data/confinement/seccomp.py).
"""

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
CAPSET = {"x86_64": 126, "aarch64": 91}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
O_PATH = getattr(os, "O_PATH", 0)

# Landlock's rights to files, and how many of them each version of its interface (ABI) knows.
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
KNOWN_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # from 5 on 16
OF_FILES = WRITE_FILE | READ_FILE | TRUNCATE
READ = READ_FILE | READ_DIR
# In its folder a program reads and writes plain files. It makes no folders, which could be nested too deep to be removed,
# no links, which whoever reads the folder later would follow, and no pipes, on which they would wait.
OWN = READ | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
NETWORK, SCOPES = 0b11, 0b11  # TCP bind and connect (ABI 4); abstract sockets and signals of others (ABI 6)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def drop_capabilities() -> None:
    """No capability is left, to root neither: files of others are closed to it, and so is all administration."""
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _checked(_libc().syscall(CAPSET.get(platform.machine(), -1), header, bytes(24)), "capset")


def no_new_privileges() -> None:
    """No set-user-id program gives anything back; the filters of the next layers need this."""
    libc = _libc()
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _checked(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")  # its memory is closed to its equals


def die_with_parent() -> None:
    """The kernel kills this process when the one that forked it is gone."""
    _checked(_libc().prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "pdeathsig")


def landlock_abi() -> int:
    """The version of Landlock's interface; 0 where the kernel has none, or has it turned off."""
    try:
        return max(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1), 0)
    except AttributeError:
        return 0


def landlock(readable: Iterable[str], own_folder: str | None) -> None:
    """From here on only `readable` (files and folders with all in them) can be opened, and plain files of `own_folder` made."""
    libc, abi = _libc(), landlock_abi()
    if abi == 0:
        raise OSError("the kernel has no Landlock")
    handled = (1 << KNOWN_RIGHTS.get(abi, 16)) - 1
    words = [handled] + [NETWORK] * (abi >= 4) + [SCOPES] * (abi >= 6)
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    for path, rights in [(path, READ) for path in readable] + ([(own_folder, OWN)] if own_folder else []):
        _add_rule(libc, ruleset, path, rights & handled)
    with contextlib.suppress(OSError):  # without a /dev/null it is one file less
        _add_rule(libc, ruleset, os.devnull, (READ_FILE | WRITE_FILE) & handled)
    _checked(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _add_rule(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """`rights` beneath a path; those that only folders have are left out of the rule of a file."""
    descriptor = os.open(path, O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & OF_FILES, descriptor)  # noqa: PTH112
        _checked(libc.syscall(ADD_RULE, ruleset, 1, rule, 0), "landlock")
    finally:
        os.close(descriptor)
