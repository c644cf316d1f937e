"""hunyuan_cli/views/training.py and tensorboard.py: what a person sees of a training run."""

import io
import sys
import time
from pathlib import Path

import pytest

from hunyuan_cli.views import training as live
from hunyuan_cli.views.tensorboard import TensorBoardReporter
from model.errors import MissingExtraError
from model.training.events import RunPlan

GROUP = {"name": "expert matrices", "tensors": 3, "params": 2000, "lr": 1e-3, "lr_scale": 0.25, "weight_decay": 0.1}
ROW = {"step": 1, "tokens": 64, "loss": 2.5, "lr": 1e-3, "mfu": 0.3, "tokens_per_expert": [[30, 10, 10, 10], []]}


def plan(folder=Path("runs/a"), steps=5):
    return RunPlan(
        folder=folder, device="cpu", steps=steps, start_step=0, tokens=320, global_batch_tokens=64, total_params=4000,
        activated_params=1000, flops_per_token=6000.0, peak_flops=1e12, groups=[GROUP], data="embedded corpus",
    )  # fmt: skip


def test_lines_for_first_last_and_evaluated_steps(capsys):
    with live.PlainReporter(interval=60) as reporter:
        reporter.start(plan())
        for step in range(1, 6):
            reporter.step(ROW | {"step": step} | ({"val_loss": 2.6} if step == 3 else {}))
        reporter.note("checkpoint saved")
        reporter.finish({"status": "finished", "steps": 5, "loss": 2.5})
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["1/5", "3/5", "5/5"]
    assert "expert matrices" in captured.err and "1.00e-03" in captured.err and "0.25x" in captured.err
    assert lines[-2:] == ["checkpoint saved", "finished after 5 steps, loss 2.5000"]


def test_quiet_keeps_the_notes(capsys):
    reporter = live.make_reporter(quiet=True)
    reporter.start(plan())
    reporter.step(ROW)
    reporter.note("checkpoint saved")
    assert capsys.readouterr().err == "checkpoint saved\n"


@pytest.mark.parametrize("width", [1, 20, 200])
def test_display_survives_narrow_terminals_and_missing_numbers(width):
    reporter = live.LiveReporter()
    reporter.console = type(reporter.console)(file=io.StringIO(), width=width, force_terminal=True)
    with reporter:
        reporter.start(plan())
        for row in ({}, ROW, {"step": 2, "loss": None, "tokens_per_expert": []}, {"step": 3, "loss": float("nan")}):
            reporter._drawn = -1e9  # draw each
            reporter.step(row)
        reporter.note("[not markup]")
        reporter.finish({})
    shown = reporter.console.file.getvalue()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is given back
    if width == 200:
        assert "[not markup]" in shown and "2.5000" in shown and live.bar_chart([2.0, 2 / 3, 2 / 3, 2 / 3]) in shown


def test_display_is_drawn_at_most_four_times_a_second():
    reporter = live.LiveReporter()
    reporter.console = type(reporter.console)(file=io.StringIO(), width=100, force_terminal=True)
    with reporter:
        reporter.start(plan(steps=2000))
        began = time.monotonic()
        for step in range(1, 2001):
            reporter.step(ROW | {"step": step})
        seconds = time.monotonic() - began
    assert reporter.console.file.getvalue().count("/2,000") <= 4 * seconds + 4


def test_display_gives_the_terminal_back_when_training_fails():
    reporter = live.LiveReporter()
    reporter.console = type(reporter.console)(file=io.StringIO(), width=80, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), reporter:
        reporter.start(plan())
        raise KeyboardInterrupt
    assert reporter.console.file.getvalue().count("\x1b[?25h") == 1


def test_loads_are_relative_to_an_even_share():
    (title, load), *rest = live.loads({"tokens_per_expert": [[], [30, 10, 10, 10]]})[::-1]
    assert title.startswith("layer 1, busiest 2.00x") and load == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])
    assert len(rest) == 1
    assert live.facts({"loss": float("nan"), "mfu": None, "tokens": 2_000_000}) == [("tokens", "2M")]
    assert (
        live.loads({}) == live.loads({"tokens_per_expert": None}) == live.loads({"tokens_per_expert": [[0, 0]]}) == []
    )


def test_tensorboard_files_hold_the_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with live.Reporters([live.PlainReporter(), TensorBoardReporter()]) as reporter:
        reporter.start(plan(tmp_path))
        reporter.step(ROW)
        reporter.step(ROW | {"step": 2, "loss": 2.25, "val_loss": 2.75})
        reporter.note("checkpoint saved")
        reporter.finish({})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/training")] == [(1, 2.5), (2, 2.25)]
    assert [(event.step, event.value) for event in events.Scalars("loss/validation")] == [(2, 2.75)]


def test_tensorboard_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hunyuan\[tensorboard\]'"):
        TensorBoardReporter()
