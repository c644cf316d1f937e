"""The precision of products: what auto is on which device, and that a run goes on in the one that it began in."""

import json

import pytest
import torch
from tiny import assert_same_run, rows_of

from model.device import compute_dtype
from model.kernels import onednn
from model.training import pretraining
from model.training.config import begun_in

CPU = torch.device("cpu")
AUTO, FLOAT32, BFLOAT16 = (f"training.precision={name}" for name in ("auto", "float32", "bfloat16"))


@pytest.fixture
def units(monkeypatch):
    """units(True): the processor has bfloat16 units, whatever this machine has; products of these sizes are rounded."""
    monkeypatch.setattr(onednn, "WORK", 0)
    return lambda there: monkeypatch.setattr(onednn, "has_bfloat16_units", lambda: there)


@pytest.fixture
def record(tmp_path):
    """record() reads environment.json of the run; record(precision=None, ...) changes it, None taking a key away."""
    path = tmp_path / "run" / "environment.json"

    def read_or_change(**changes):
        found = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
        return found

    return read_or_change


@pytest.mark.parametrize(
    ("onednn_there", "rounds", "avx512_bf16", "expected"),
    [
        (True, True, True, torch.bfloat16),
        (True, False, True, torch.bfloat16),
        (True, False, False, torch.float32),
        (False, False, True, torch.float32),
    ],
)
def test_what_auto_is(monkeypatch, onednn_there, rounds, avx512_bf16, expected):
    monkeypatch.setattr(onednn, "ONEDNN", onednn_there)
    monkeypatch.setattr(onednn, "ROUNDS", rounds)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert compute_dtype("auto", CPU) == expected
    assert compute_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert compute_dtype("float32", CPU) == torch.float32
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
def test_the_record_and_the_plan_say_the_precision(pretrain, units, record, there, asked):
    units(there)
    plan = pretrain("training.steps=1", f"training.precision={asked}").plan
    precision = {"auto": "bfloat16" if there else "float32"}.get(asked, asked)
    assert record()["precision"] == precision
    assert plan.device == f"cpu {precision}"


@pytest.mark.parametrize(("begun", "explicit", "now"), [(False, FLOAT32, "bfloat16"), (True, BFLOAT16, "float32")])
def test_a_run_goes_on_in_what_it_began_in(pretrain, units, record, tmp_path, begun, explicit, now):
    """Bit for bit, on a machine whose auto is the other precision; and the settings stay as they were given."""
    pretrain(explicit, folder=tmp_path / "whole")
    units(begun)
    pretrain(AUTO, stop_after=5)
    given = (tmp_path / "run" / "run.toml").read_bytes()
    units(not begun)
    recorder = pretrain(AUTO, resume=True)
    precision = explicit.partition("=")[2]
    assert recorder.plan.device == f"cpu {precision}"
    assert recorder.notes == [
        f"the run goes on in {precision}, in which it began: training.precision auto is {now} here, but for new runs only"
    ]
    assert_same_run(tmp_path / "run", tmp_path / "whole", 12)
    assert (tmp_path / "run" / "run.toml").read_bytes() == given
    assert "changes" not in record()
    assert rows_of(tmp_path / "run") != pretrain(AUTO, folder=tmp_path / "new").rows  # which began in the other one


@pytest.mark.parametrize(("device", "precision"), [("cpu", "float32"), ("cuda:1", "bfloat16")])
@pytest.mark.parametrize("there", [True, False])
def test_a_run_of_an_older_version_goes_on_in_its_auto(pretrain, units, record, there, device, precision):
    """It did not record the precision: on a processor that was float32."""
    pretrain(AUTO, stop_after=5)
    record(precision=None, device=device)
    units(there)
    recorder = pretrain(AUTO, resume=True)
    assert recorder.plan.device == f"cpu {precision}"
    assert len(recorder.notes) == (precision != ("bfloat16" if there else "float32"))


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_a_run_that_was_given_its_precision_has_nothing_to_say(pretrain, units, precision):
    for there, resume in ((True, False), (False, True)):
        units(there)
        recorder = pretrain(precision, resume=resume, stop_after=None if resume else 5)
        assert recorder.plan.device == f"cpu {precision.partition('=')[2]}"
        assert recorder.notes == []


def test_before_the_first_checkpoint_a_run_begins_anew_in_todays_auto(pretrain, units, record):
    class Dying(pretraining.Pretraining):
        def micro_batches(self, step):
            raise KeyboardInterrupt

    units(True)
    with pytest.raises(KeyboardInterrupt):
        pretrain(AUTO, task=Dying)
    assert record()["precision"] == "bfloat16"
    units(False)
    recorder = pretrain(AUTO, "training.steps=1", resume=True)
    assert (recorder.plan.device, recorder.notes) == ("cpu float32", [])
    assert record()["precision"] == "float32"


@pytest.mark.parametrize(
    ("environment", "precision"),
    [
        ({}, "float32"),
        ({"device": "cpu"}, "float32"),
        ({"device": "cuda"}, "bfloat16"),
        ({"device": "cuda:1", "precision": "float32"}, "float32"),
        ({"device": "cpu", "precision": "bfloat16"}, "bfloat16"),
    ],
)
def test_what_a_record_says(environment, precision):
    assert begun_in(environment) == precision
