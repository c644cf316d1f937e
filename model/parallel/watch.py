"""Whether all processes of a run are alive and at work, watched by a thread in each of them: where one is not, all end.

A dead process leaves the others waiting in an exchange of tensors, on a GPU for ever, and a hung one does so everywhere. The
threads tell each other through the store in which the processes met:

    state/RANK     State of the process, written every half second
    failure        the first Failure of all, written once: who declares it tells the user, and all end

Every process looks whether those of its machine are alive and whether the first one gives signs of life; the first one
looks whether anybody gets on.
"""

import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.distributed import Store

from model.errors import HunyuanError, PeerError, TrainingError

LOOK_SECONDS = 0.5
SILENT_SECONDS = 10.0  # without a sign of life from a thread that gives one every LOOK_SECONDS
PATIENCE_SECONDS = 5.0  # that an error waits for the failure of another process, of which it may be what is seen here
GRACE_SECONDS = 5.0  # that a process has to end by itself after a failure
START_SECONDS = 900.0  # without progress while the run begins or files are read and written

_FAILURE = "failure"
_PACKAGE = Path(__file__).parents[1]
_WAITS = tuple(f"{os.sep}torch{os.sep}{part}{os.sep}" for part in ("distributed", "cuda"))  # for others, or for the GPU


Kind = Literal["raised", "died", "hung", "mistake", "final"]  # the last two would come again at once


@dataclass(frozen=True)
class Failure:
    """What ended a run: which rank did not do its part, and in which way."""

    rank: int
    kind: Kind
    what: str  # in words
    declared_by: int


@dataclass
class State:
    """What the thread of a process says of it."""

    beats: int = 0  # how often it has said so
    marks: int = 0  # how often the process has got on
    quick: bool = False  # whether it is in steps, and not at the start or busy with files
    waits: bool = False  # for others
    where: str = ""  # the line of this project that it is at
    done: bool = False
    pid: int = 0
    host: str = ""


@dataclass
class _Seen:
    """The newest state that is known of another process, and when it and its marks were new."""

    state: State
    beat: float
    mark: float


class Watch(threading.Thread):
    """The thread of one process. `tell` is given the failure that this one declares, and the error where it has one.

    `leave` ends the process at once. `hang_seconds` are those without progress after which a step counts as hung.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        processes: int,
        *,
        hang_seconds: float,
        tell: Callable[[Failure, Exception | None], None],
        leave: Callable[[], None],
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.rank = rank
        self.failure: Failure | None = None
        self._store, self._tell, self._leave = store, tell, leave
        self._hang_seconds, self._start_seconds = hang_seconds, max(START_SECONDS, hang_seconds)
        self._parent, self._main = os.getppid(), threading.get_ident()
        self._own = State(pid=os.getpid(), host=socket.gethostname())
        now = time.monotonic()
        self._seen = {other: _Seen(State(), now, now) for other in range(processes)}
        self._looked, self._stopped, self._known, self._lock = (
            now,
            threading.Event(),
            threading.Event(),
            threading.Lock(),
        )

    def start(self) -> None:
        """Says who the process is, before it can come to harm among the others."""
        self._say()
        super().start()

    def mark(self, quick: bool | None = None) -> None:
        """The process has got on; `quick` says whether what it does next should not take long."""
        self._own.marks += 1
        if quick is not None:
            self._own.quick = quick

    def done(self) -> None:
        """The process needs the others no longer, nor they it."""
        self._stopped.set()
        self.join()
        self._own.done = True
        with suppress(RuntimeError):  # the store may have gone with the process that held it
            self._say()

    def failed(self, error: Exception) -> None:
        """Declares an error of this process, unless it is what another one's failure looks like from here."""
        if isinstance(error, PeerError | RuntimeError):  # the second is what torch makes of a lost connection
            self._known.wait(PATIENCE_SECONDS)
        if not isinstance(error, PeerError):
            words = str(error) if isinstance(error, HunyuanError) else f"{type(error).__name__}: {error}"
            self._declare(kind_of(error), self.rank, words, error)

    def run(self) -> None:
        lost: Failure | None = None
        try:
            while self.failure is None and not self._stopped.wait(LOOK_SECONDS):
                self._look()
        except Exception as error:
            lost = self.failure = Failure(self.rank, "died", f"lost the other processes ({error})", self.rank)
        self._known.set()
        if self.failure is None or self._stopped.wait(GRACE_SECONDS):
            return
        if lost is not None:
            self._tell(lost, None)
        self._leave()

    def _look(self) -> None:
        if os.getppid() != self._parent:
            self._leave()  # nobody waits for this run, and nobody would end it
        self._say()
        if self._store.check([_FAILURE]):
            self._take(self._store.get(_FAILURE).decode())
            return
        self._read([other for other, seen in self._seen.items() if 0 in (self.rank, other) or seen.state.pid == 0])
        for other, seen in self._seen.items():
            if self._is_gone(seen.state) and not self._read([other])[0].state.done:
                self._declare("died", other, "died")
                return
        if hung := self._hung():
            other, words = hung
            self._declare("hung", other, words)
            state = self._seen[other].state
            if state.host == self._own.host and other != self.rank:
                os.kill(state.pid, signal.SIGKILL)  # it listens to nothing else

    def _say(self) -> None:
        self._own.beats += 1
        frame = sys._current_frames().get(self._main)
        self._own.waits, self._own.where = False, ""
        while frame is not None:
            name = frame.f_code.co_filename
            self._own.waits |= any(part in name for part in _WAITS)
            if not self._own.where and name.startswith(f"{_PACKAGE}{os.sep}"):
                self._own.where = f"{Path(name).relative_to(_PACKAGE.parent)}, line {frame.f_lineno}"
            frame = frame.f_back
        self._store.set(f"state/{self.rank}", json.dumps(dataclasses.asdict(self._own)))

    def _read(self, ranks: list[int]) -> list[_Seen]:
        """The states of some ranks as they are now."""
        now = time.monotonic()
        if now - self._looked > SILENT_SECONDS:  # this process was stopped itself, and the others perhaps too
            self._seen = {other: _Seen(seen.state, now, now) for other, seen in self._seen.items()}
        self._looked = now
        for other in ranks:
            seen, key = self._seen[other], f"state/{other}"
            if seen.state.beats == 0 and not self._store.check([key]):
                continue  # it has not come yet
            state = State(**json.loads(self._store.get(key)))
            beat = now if state.beats != seen.state.beats else seen.beat
            mark = now if state.marks != seen.state.marks or seen.state.beats == 0 else seen.mark
            self._seen[other] = _Seen(state, beat, mark)
        return [self._seen[other] for other in ranks]

    def _is_gone(self, state: State) -> bool:
        """Whether a process of this machine has ended. Another machine's is told by its own launcher."""
        if state.done or state.pid == 0 or state.host != self._own.host:
            return False
        try:
            os.kill(state.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def _hung(self) -> tuple[int, str] | None:
        """A rank that holds up all others, and how."""
        now = time.monotonic()
        at_work = {other: seen for other, seen in self._seen.items() if not seen.state.done}
        if self.rank != 0:  # the first one sees to the others, and they to it
            limit = self._hang_seconds if self._own.quick else self._start_seconds
            is_silent = 0 in at_work and now - at_work[0].beat > limit
            return (0, f"gave no sign of life for {limit:.0f} s") if is_silent else None
        silence = min(SILENT_SECONDS, self._hang_seconds / 2)
        silent = {other: seen for other, seen in at_work.items() if now - seen.beat > silence}
        quick = all(seen.state.quick for other, seen in at_work.items() if other not in silent)
        limit = self._hang_seconds if quick else self._start_seconds
        if not at_work or now - max(seen.mark for seen in at_work.values()) < limit:
            return None
        for other, seen in silent.items():
            return other, f"gave no sign of life for {now - seen.beat:.0f} s"
        busy = {other: seen for other, seen in at_work.items() if not seen.state.waits} or at_work
        other = min(busy, key=lambda rank: busy[rank].state.marks)
        where = f" (at {busy[other].state.where})" if busy[other].state.where else ""
        return other, f"hung for {limit:.0f} s{where} while the others waited for it"

    def _declare(self, kind: Kind, rank: int, words: str, error: Exception | None = None) -> None:
        """The first one of all processes is the failure of the run, and told where it was declared."""
        with self._lock:
            if self.failure is not None:
                return
            own = Failure(rank, kind, words, self.rank)
            try:
                text = self._store.compare_set(_FAILURE, "", json.dumps(dataclasses.asdict(own))).decode()
            except Exception:  # the store has gone with its process: then there is nobody to be the second of
                text = json.dumps(dataclasses.asdict(own))
            self._take(text)
            if self.failure == own:
                self._tell(own, error)

    def _take(self, text: str) -> None:
        self.failure = Failure(**json.loads(text))
        self._known.set()


def kind_of(error: Exception) -> Kind:
    """A mistake is to be put right before the run goes on; after what is final it would come to the same."""
    if isinstance(error, TrainingError):
        return "final"
    no_memory = "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error)  # torch's words
    return "mistake" if no_memory or isinstance(error, HunyuanError | MemoryError) else "raised"
