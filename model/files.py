"""Files and folders that appear whole or not at all, and the JSON in them.

Everything is written beside its place, synced and renamed. What a killed process left beside a place is removed by the next
write to it. Errors of the system are OSError: the caller knows what the user can do about them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

LOCK = ".lock"  # in a folder that one process at a time may work in


def write_file(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """A file, replaced in one move; text is written as UTF-8. A link stays a link."""
    with open_aside(path) as file:
        if isinstance(content, str):
            content = content.encode()
        for chunk in [content] if isinstance(content, bytes) else content:
            file.write(chunk)


@contextmanager
def open_aside(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, which takes its place when the block ends well; an exception leaves what was there before."""
    place = path.resolve()
    _clear_left_over(place)
    aside = _aside(place)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(place)
    finally:
        with contextlib.suppress(OSError):  # the folder may not be there, which the error says
            aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(place: Path) -> Iterator[Path]:
    """An empty folder that takes its place, synced, when the block ends well; a folder that is there already is replaced."""
    place = place.resolve()
    _clear_left_over(place)
    aside = _aside(place)
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in [*(path for path in aside.rglob("*") if path.is_file()), aside]:
            sync(path)
        if place.is_dir():
            shutil.rmtree(place)
        aside.rename(place)
        sync(place.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def hold(path: Path, seconds: float = 0.0) -> TextIO | None:
    """An exclusive lock on a file, until it is closed or the process ends; None when another has it after `seconds`."""
    file = path.open("a+", encoding="utf-8")
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= end:
                file.close()
                return None
            time.sleep(0.05)


def is_held(path: Path) -> bool:
    """Whether another process, or another file object of this one, holds the lock of `path`; it is not taken nor made."""
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file; a file system without locks
        return False
    return False


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """A JSON file, replaced in one move."""
    write_file(path, json_text(content))


def json_text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """The JSON document of a file, with or without a byte order mark; ValueError where it is none."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.writing")


def _clear_left_over(place: Path) -> None:
    """Removes what processes that are gone left beside a place."""
    with contextlib.suppress(OSError):
        for path in place.parent.glob(f".{_escaped(place.name)}.*.writing"):
            pid = path.name.removesuffix(".writing").rpartition(".")[2]
            if pid.isdigit() and not _is_alive(int(pid)):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
