"""A resumed run that is given more steps, and two processes that want one run folder."""

import json

import pytest
import torch
from tiny import TINY, assert_same_run, rows_of

from model.errors import CheckpointError, ConfigError
from model.files import LOCK, hold
from model.training.config import TrainingConfig
from model.training.schedule import describe_lengthening, learning_rate_ratio

RECYCLE = ("model.moe_routing=recycle", "model.expert_bias_update_rate=0.01")
LONGER = (*RECYCLE, "training.steps=20")


@pytest.mark.parametrize("ended", [None, 5], ids=["finished", "interrupted"])
def test_a_longer_run_goes_on_and_repeats_to_the_bit(pretrain, tmp_path, ended):
    """Twice the same: once without, once with a further stop."""
    for name in ("one", "two"):
        pretrain(*RECYCLE, folder=tmp_path / name, stop_after=ended)
    rows = rows_of(tmp_path / "one")
    first = pretrain(*LONGER, folder=tmp_path / "one", resume=True)
    assert first.summary["status"] == "finished" and first.summary["steps"] == 20
    assert rows_of(tmp_path / "one")[: len(rows)] == rows
    pretrain(*LONGER, folder=tmp_path / "two", resume=True, stop_after=3)
    second = pretrain(*LONGER, folder=tmp_path / "two", resume=True)
    assert_same_run(tmp_path / "two", tmp_path / "one", 20)
    assert (len(first.notes), second.notes) == (1, [])  # the length is the run's own from then on


def test_the_rates_of_a_longer_run_are_those_of_its_new_length(pretrain, settings, tmp_path):
    pretrain()
    recorder = pretrain("training.steps=20", resume=True)
    config = settings().training
    rates = {row["step"]: row["lr"] for row in recorder.rows}
    assert rates == {step: 4e-3 * learning_rate_ratio(config, step - 1, 20) for step in range(13, 21)}
    record = json.loads((tmp_path / "run" / "environment.json").read_text())["changes"]
    assert [(change["step"], change["settings"]) for change in record] == [(12, {"training.steps": [12, 20]})]


def test_the_schedule_of_a_longer_run_is_stated():
    """Half-way of the cosine of 400 steps, less warm-up and annealing, the ratio is 0.65."""
    config = TrainingConfig(learning_rate=1e-2)
    assert describe_lengthening(config, 198, 200, 400) == (
        "the run is lengthened from 200 to 400 steps: from step 199 on the learning rate is that of a run of 400 steps, "
        "0.0065 where it was 0.0014; annealing begins at step 381 and it ends at 0.001"
    )


def test_a_run_in_its_annealing_text_is_not_lengthened(pretrain, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[:9000])
    annealed = (f'data.anneal_sources=["{other}"]', "training.anneal_fraction=0.5")
    pretrain(*annealed)
    with pytest.raises(ConfigError, match=r"annealing phase since step 7 and cannot go back .* --init-from"):
        pretrain(*annealed, "training.steps=20", resume=True)
    pretrain(*annealed, folder=tmp_path / "early", stop_after=5)
    assert pretrain(*annealed, "training.steps=20", folder=tmp_path / "early", resume=True).summary["steps"] == 20


# --- one process at a time -------------------------------------------------------------------------------------------


WAIT_IN_THE_FIRST_STEP = """
import time
from model.training import loop
def wait(self, stop):
    print("at step", self.step, flush=True)
    time.sleep(600)
loop._Session._train_step = wait
"""


@pytest.mark.slow
@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_another_process_trains_in_is_refused(process, text, tmp_path, resume):
    folder = tmp_path / "run"
    options = ("--config", TINY, "--data", text, "--out", folder, "--quiet", "--steps", 2)
    first = process(*options, code=WAIT_IN_THE_FIRST_STEP)
    assert first.stdout.readline() == "at step 0\n"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    second = process(*(("--out", folder, "--resume") if resume else options))
    _, err = second.communicate(timeout=120)
    assert second.returncode == 1
    says = "is being trained by another process: wait until it is done, or stop it" if resume else "already holds a run"
    assert says in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    first.kill()  # a lock does not outlive its process
    first.communicate()
    third = process("--out", folder, "--resume", "--quiet")
    assert "finished after 2 steps" in third.communicate(timeout=120)[1]


def test_the_lock_is_that_of_a_sweeps_cells(pretrain, tmp_path):
    pretrain("training.steps=2", stop_after=1)
    with hold(tmp_path / "run" / LOCK), pytest.raises(CheckpointError, match="is being trained by another process"):
        pretrain("training.steps=2", resume=True)
    assert pretrain("training.steps=2", resume=True).summary["status"] == "finished"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_of_a_processor_goes_on_on_an_accelerator(pretrain, tmp_path):
    pretrain(*RECYCLE, stop_after=5)
    recorder = pretrain(*RECYCLE, "training.device=cuda", resume=True)
    assert (recorder.plan.start_step, recorder.summary["status"]) == (5, "finished")
    assert recorder.plan.device.startswith("cuda")
