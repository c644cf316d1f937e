"""The launcher alone: its processes are programs of a few lines instead of `python -m hunyuan_cli`."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hunyuan_cli import failures
from hunyuan_cli.launch import launch

ROOT = Path(__file__).parents[2]
WORKER = f"""#!{sys.executable}
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
rank, start = int(os.environ["RANK"]), int(os.environ["HUNYUAN_RESTARTS"])
"""
WRITES = """
import json
from hunyuan_cli import failures
with open(os.environ["HUNYUAN_FAILURE"], "w") as file:
    json.dump({{"rank": 1, "kind": {kind!r}, "what": "what to change", "declared_by": 1}}, file)
sys.exit(1)
"""


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The program that each process runs; the signals are as they were afterwards."""
    program = tmp_path / "worker"
    monkeypatch.setattr(sys, "executable", str(program))
    for name in (failures.FILE, failures.RESTARTS, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
        if name != "OMP_NUM_THREADS":
            monkeypatch.delenv(name)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]
    yield program
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("code", "restarts", "status", "said"),
    [
        (
            "if rank == start % 2 and start < 5: os.kill(os.getpid(), signal.SIGKILL)", 5, 0,
            [f"rank {start % 2} of 2 was ended by SIGKILL: the machine may be out of memory; from step 3 "
             f"(restart {start + 1} of 5)" for start in range(5)],
        ),
        (
            "if rank == 1: sys.exit(7)", 1, 1,
            ["rank 1 of 2 ended with status 7; from step 3 (restart 1 of 1)",
             "error: rank 1 of 2 ended with status 7; go on with --resume"],
        ),
        (WRITES.format(kind="mistake"), 5, 1, ["error: rank 1 of 2: what to change; go on with --resume"]),
        (WRITES.format(kind="final"), 5, 1, ["error: rank 1 of 2: what to change"]),
        (WRITES.format(kind="hung"), 0, 1, ["error: rank 1 of 2 what to change; go on with --resume"]),
    ],
    ids=["killed", "ended", "mistake", "final", "hung"],
)  # fmt: skip
def test_one_sentence_a_failure_and_a_restart_where_it_may_help(
    workers: Path, capfd: pytest.CaptureFixture[str], code: str, restarts: int, status: int, said: list[str]
) -> None:
    workers.write_text(WORKER + code)
    workers.chmod(0o755)
    go_on = {True: "from step 3", False: "go on with --resume"}.__getitem__
    assert launch(2, ["train"], restarts=restarts, go_on=go_on) == status
    assert capfd.readouterr().err.splitlines() == said


def test_the_first_failure_that_is_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "failure.json"
    monkeypatch.setenv(failures.FILE, str(place))
    monkeypatch.setenv("RANK", "1")
    failures.write(failures.before_meeting(ValueError("first"), ["train"]))
    failures.write(failures.before_meeting(MemoryError(), ["train"]))
    failure = failures.read(place, {0: -signal.SIGTERM, 1: 1})
    assert failure is not None
    assert (failure.rank, failure.kind) == (1, "raised")
    assert "ValueError: first" in failure.what
    place.unlink()
    failure = failures.read(place, {0: -signal.SIGTERM, 1: -signal.SIGSEGV})
    assert failure is not None
    assert (failure.rank, failure.what) == (1, "was ended by SIGSEGV")


def test_restarts_need_several_processes(capfd: pytest.CaptureFixture[str]) -> None:
    from hunyuan_cli import main

    assert main.run(["train", "--restarts", "2"]) == 2
    assert "--restarts starts several --processes again; torchrun has --max-restarts" in capfd.readouterr().err
    assert main.run(["train", "--hang-timeout", "20"]) == 2
    assert "--hang-timeout is of several processes" in capfd.readouterr().err
