"""A stage of preferences that is killed in the midst of rounds ends like one that never was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from preference_runs import assert_same_run, ending, rows_of

from tests.posttraining.conftest import write_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# "letters" is a reward that random answers differ in.
CODE = """
import sys
from model.posttraining import rewards
rewards.CHECKS["letters"] = (lambda row, text: float(sum(map(str.isalpha, text))), "answer")
import model.training.loop
model.training.loop.measure_peak_flops = lambda device, dtype: 1e11
import hunyuan_cli.run_figures
hunyuan_cli.run_figures.draw_run = lambda out, **_: None
from hunyuan_cli.main import main
main()
"""
KEYS = (
    "training.sequence_length=48 training.micro_batch_size=4 training.global_batch_tokens=384 training.log_every=1 "
    "training.precision=float32 training.device=cpu training.evaluate_every=7 training.checkpoint_every=3 "
    "dpo.max_new_tokens=6 dpo.evaluation_prompts=3"
).split()


def start(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, "dpo", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_kill_9_loses_nothing(base, pairs, tmp_path):
    rows = [{"prompt": f"{number} expert?", "answer": "yes"} for number in range(24)]
    prompts = write_lines(tmp_path / "prompts.jsonl", rows)
    options = [
        "--from",
        ending(base, tmp_path / "base"),
        "--offline",
        pairs,
        "--prompts",
        prompts,
        "--reward",
        "letters",
        "--true-reward",
        "letters",
    ]
    options += ["--online-every", 2, "--samples", 3, "--steps", 20, "--learning-rate", 0.01, "--average", 0.9]
    options += [part for key in KEYS for part in ("--set", key)]
    whole = start(*options, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    for kill, until in enumerate((5, 11)):  # within a round, and after the checkpoints of steps 3 and 9
        child = start(*(options if kill == 0 else ["--resume"]), "--out", killed)
        while child.poll() is None and lines(killed) < until:
            time.sleep(0.002)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
    child = start("--resume", "--out", killed)
    for process in (child, whole):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert_same_run(killed, tmp_path / "whole", 20)
    assert (killed / "average" / "checkpoints").is_dir()
    assert any(
        row["online_share"] == 0.5 for row in rows_of(killed)
    )  # there were pairs of the policy's own to go on with
