"""What was sent and what came back, on the disk: nothing is paid twice, and what a run has cost is known over crashes.

One JSON object a line, appended and handed to the system before anybody acts on it:

    {"sent": key, "most": cost}     an attempt goes out, and may cost so much
    {"free": key}                   it came back without a reply that is charged for
    {"key": key, "reply": {...}}    the reply

A key names the request's whole body and the sample's number. An attempt without an end, because the process was killed or the
connection broke, is counted at the most that it may have cost. A torn last line is cut off. One process at a time.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.endpoint.answers import Reply
from model.errors import DataError
from model.files import hold

SYNC_SECONDS = 1.0  # a killed process loses nothing; a machine without power, at most this


def request_key(body: Mapping[str, Any], sample: int) -> str:
    """32 hexadecimal digits of the body and the sample: n samples of one body are n requests."""
    text = json.dumps([body, sample], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


class Journal:
    """The replies by key and the costs of one file; without a path they are kept in memory. For several threads."""

    def __init__(self, path: Path | None = None) -> None:
        self.spent = 0.0  # of replies
        self.unsettled = 0.0  # the most that attempts without an end may have cost
        self.unsettled_attempts = 0
        self._path, self._lock = path, threading.Lock()
        self._places: dict[str, int] = {}  # where the line of a key's reply begins
        self._replies: dict[str, Reply] = {}  # where there is no file
        self._end, self._synced_at = 0, time.monotonic()
        self._file = -1
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = hold(path)
        if self._held is None:
            raise DataError(f"{path} is being written by another process: wait until it is done, or write elsewhere")
        self._file = os.open(path, os.O_RDWR)
        open_attempts: dict[str, list[float]] = {}
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._read(json.loads(line), open_attempts)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(
                        f"{path}, line {number}, is damaged: remove the line, or the file to ask everything again"
                    ) from error
                self._end += len(line)
        os.ftruncate(self._file, self._end)
        self.unsettled = sum(map(sum, open_attempts.values()))
        self.unsettled_attempts = sum(map(len, open_attempts.values()))

    def _read(self, entry: dict[str, Any], open_attempts: dict[str, list[float]]) -> None:
        if "sent" in entry:
            open_attempts.setdefault(entry["sent"], []).append(float(entry["most"]))
            return
        key = entry.get("free") or entry["key"]
        attempts = open_attempts.get(key, [])
        if attempts:
            attempts.pop()
        if not attempts:
            open_attempts.pop(key, None)
        if "reply" in entry:
            self.spent += Reply(**entry["reply"]).cost
            self._places[key] = self._end

    def __len__(self) -> int:
        """How many replies there are."""
        return len(self._replies if self._path is None else self._places)

    def find(self, key: str) -> Reply | None:
        """The reply that is there already."""
        if self._path is None:
            found = self._replies.get(key)
        else:
            with self._lock:
                place = self._places.get(key)
            if place is None:
                return None
            with self._path.open("rb") as file:
                file.seek(place)
                found = Reply(**json.loads(file.readline())["reply"])
        return None if found is None else replace(found, cached=True)

    def sent(self, key: str, most: float) -> None:
        """An attempt is about to go out."""
        self._append({"sent": key, "most": most})

    def free(self, key: str) -> None:
        """The newest attempt was not charged for."""
        self._append({"free": key})

    def lost(self, most: float) -> None:
        """The newest attempt may have been charged for; its line "sent" says so to later runs."""
        with self._lock:
            self.unsettled += most
            self.unsettled_attempts += 1

    def keep(self, key: str, reply: Reply) -> None:
        with self._lock:
            self.spent += reply.cost
            if self._path is None:
                self._replies[key] = reply
                return
        fields = asdict(reply)
        del fields["cached"]
        place = self._append({"key": key, "reply": fields})
        with self._lock:
            self._places[key] = place

    def _append(self, entry: dict[str, Any]) -> int:
        """Writes a whole line or none; returns where it begins."""
        if self._path is None:
            return 0
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        with self._lock:
            place, written = self._end, 0
            try:
                while written < len(line):
                    written += os.pwrite(self._file, line[written:], place + written)
            except OSError:
                os.ftruncate(self._file, place)
                raise
            self._end += len(line)
            if time.monotonic() - self._synced_at > SYNC_SECONDS:
                os.fsync(self._file)
                self._synced_at = time.monotonic()
        return place

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1
                if self._held is not None:
                    self._held.close()
