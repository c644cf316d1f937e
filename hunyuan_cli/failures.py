"""How the processes of a run tell one sentence of a failure: a process that the launcher started writes it for that to say.

HUNYUAN_FAILURE    the file that the first process to fail writes, where `hunyuan train --processes` started it
HUNYUAN_RESTARTS   how often the processes have been started again (model/parallel/start.py)
"""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hunyuan_cli.console import stderr

if TYPE_CHECKING:
    from model.parallel.watch import Failure

FILE, RESTARTS = "HUNYUAN_FAILURE", "HUNYUAN_RESTARTS"


def has_launcher() -> bool:
    """Whether this process is one of several that `hunyuan train --processes` has started."""
    return FILE in os.environ and "RANK" in os.environ


def teller(
    sentence: Callable[[Exception], str], go_on: Callable[[], str]
) -> "Callable[[Failure, Exception | None], None]":
    """What a process does with the failure that it declares. `sentence` words an error, `go_on` says what to do then."""

    def tell(failure: "Failure", error: Exception | None) -> None:
        if error is not None:
            failure = dataclasses.replace(failure, what=sentence(error))
        if has_launcher():
            write(failure)
        else:
            stderr(f"error: {told(failure, int(os.environ['WORLD_SIZE']), go_on())}")

    return tell


def told(failure: "Failure", processes: int, go_on: str) -> str:
    """Which rank, what happened, and what to do."""
    verb = failure.kind in ("died", "hung")
    said = f"rank {failure.rank} of {processes}{'' if verb else ':'} {failure.what}"
    return f"{said}; {go_on}" if go_on and failure.kind != "final" else said


def write(failure: "Failure") -> None:
    """Leaves a failure for the launcher; the first one stays."""
    place = Path(os.environ[FILE])
    aside = place.with_name(f"{os.getpid()}.json")
    try:
        aside.write_text(json.dumps(dataclasses.asdict(failure)), encoding="utf-8")
        os.link(aside, place)
    except OSError:  # where it cannot be written, the launcher says with which status the process ended
        pass
    finally:
        aside.unlink(missing_ok=True)


def before_meeting(error: Exception, arguments: list[str]) -> "Failure":
    """That of a process which fails alone: before it meets the others, or after it has left them."""
    from hunyuan_cli.sentences import sentence
    from model.parallel.watch import Failure, kind_of

    rank = int(os.environ["RANK"])
    return Failure(rank, kind_of(error), sentence(error, arguments), rank)


def read(place: Path, statuses: dict[int, int]) -> "Failure | None":
    """What the processes left, or what their statuses tell by rank; signals are negative."""
    from model.parallel.watch import Failure

    with suppress(OSError, ValueError, TypeError):
        failure = Failure(**json.loads(place.read_text(encoding="utf-8")))
        if failure.kind == "died" and failure.rank in statuses:
            return dataclasses.replace(failure, what=_ended(statuses[failure.rank]))
        return failure
    if not statuses:
        return None
    # SIGTERM is what the others are ended with.
    rank = min(statuses, key=lambda rank: (statuses[rank] == -signal.SIGTERM, statuses[rank] >= 0, rank))
    return Failure(rank, "died", _ended(statuses[rank]), rank)


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (": the machine may be out of memory" if name == "SIGKILL" else "")
