"""hunyuan train --processes: one command that starts its ranks, stops with them, and tells how to go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hunyuan_cli import failures, main

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "training" / "tiny.toml")


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (("--expert-parallel", "2"), 2, "--expert-parallel 2 needs several processes: add --processes"),
        (
            ("--processes", "4", "--expert-parallel", "3"),
            1,
            "--expert-parallel is 3 and must divide the 4 processes: 1, 2 and 4",
        ),
        (
            ("--processes", "3"),
            1,
            "a step has 2 micro-batches, which 3 processes cannot take in equal turns: 1 and 2 processes",
        ),
        (("--processes", "8", "--expert-parallel", "8"), 1, "--expert-parallel is 8 and must divide the 4 experts"),
        (("--processes", "2", "--set", "training.graph=true"), 1, "training.graph records the step of one process"),
        (
            ("--processes", "2", "--context-parallel", "2", "--set", "training.measure_noise_scale=true"),
            1,
            "--context-parallel leaves it in parts",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_a_process_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], status: int, sentence: str
) -> None:
    assert main.run(["train", "--config", TINY, "--out", str(tmp_path / "run"), *options]) == status
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_number_than_torchrun_started_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main.run(["train", "--config", TINY, "--out", str(tmp_path / "run"), "--processes", "4"]) == 2
    assert "--processes is 4 and torchrun has started 2: leave --processes out" in capfd.readouterr().err


@pytest.mark.slow
def test_a_dead_rank_is_started_again_and_a_signal_saves_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    """SIGKILL to a rank, then SIGTERM to the command alone: every rank finishes the step, one sentence says how to go on."""
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the quick brown fox jumps over the lazy dog " * 800)
    command = [sys.executable, "-m", "hunyuan_cli", "train", "--out", str(run)]
    fresh = ["--config", TINY, "--data", str(text), "--set", f"data.cache_dir={tmp_path / 'cache'}", "--steps", "4000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [*command, *fresh, "--processes", "2", "--expert-parallel", "2", "--restarts", "1"],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    wait_until(child, lambda: any(run.glob("checkpoints/step-*")))
    first = ranks_of(child.pid)
    os.kill(first[1], signal.SIGKILL)
    wait_until(
        child, lambda: len(ranks_of(child.pid)) == 2 and not set(first.values()) & set(ranks_of(child.pid).values())
    )
    newest = max(run.glob("checkpoints/step-*"))
    wait_until(child, lambda: max(run.glob("checkpoints/step-*")) > newest)
    second = ranks_of(child.pid)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=100)
    assert child.returncode == 143, said
    steps = json.loads((run / "summary.json").read_text())["steps"]
    assert "rank 1 of 2 was ended by SIGKILL: the machine may be out of memory; starting all again from step" in said
    assert said.count("(restart 1 of 1)") == said.count("resuming at step") == 1
    assert (
        f"stopped after step {steps} and saved; continue with: hunyuan train --processes 2 --expert-parallel 2 --restarts 1"
        in said
    )
    assert said.count("saved; continue with") == 1 and "Traceback" not in said and "error" not in said
    assert json.loads((run / "environment.json").read_text())["layout"]["expert_parallel"] == 2
    assert not [pid for pid in (*first.values(), *second.values()) if Path(f"/proc/{pid}").exists()]


def wait_until(child: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 200
    while child.poll() is None and time.monotonic() < limit and not happened():
        time.sleep(0.05)


def ranks_of(launcher: int) -> dict[int, int]:
    """The process of each rank that a command has started."""
    found = {}
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with suppress(OSError):  # it has just ended
            variables = dict(
                word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word
            )
            if failures.FILE in variables and "RANK" in variables:
                found[int(variables["RANK"])] = int(pid)
    return found
