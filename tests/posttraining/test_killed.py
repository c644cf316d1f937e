"""A run of fine-tuning that is killed in the middle of a step goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.options.posttraining import stage_settings
from model.checkpoint.run import steps_saved
from model.posttraining.finetuning import fine_tune
from model.posttraining.sft_config import training_defaults
from model.training.events import Silent
from model.training.run_folder import settings_of
from tests.posttraining.conftest import TINY
from tests.training.tiny import assert_same_run

KILL = """
import os, signal
from model.training import loop
step = loop._Session._train_step
def killed(session, stop):
    if session.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(session, stop)
loop._Session._train_step = killed
loop.measure_peak_flops = lambda device, dtype: 1e11
from hunyuan_cli.main import main
main()
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(base, chats, tmp_path):
    sections = {
        "data": {"sources": [str(chats)], "validation_fraction": 0.2},
        "training": TINY,
        "sft": {"sample_tokens": 8},
    }
    whole = tmp_path / "whole"
    fine_tune(whole, stage_settings("sft", whole, base, None, sections, training_defaults), Silent())
    run = tmp_path / "run"
    arguments = ["sft", "--config", str(whole / "run.toml"), "--from", str(base), "--out", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILL, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert steps_saved(run)[-1] == 4
    fine_tune(run, settings_of(run), Silent(), resume=True)
    assert_same_run(run, whole, 6)
    assert (run / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
