"""Runs of the tiny model on ranks, with their folders, and parts of them: begun on some ranks and gone on with on others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from model.parallel.layout import Layout
from model.parallel.start import ranks_of
from model.training.events import Silent
from model.training.pretraining import pretrain
from model.training.settings import RunSettings, override, read_sections

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"
CHANGES = (
    *("training.steps=8", "training.checkpoint_every=4", "training.epsilon=1e-3", "model.moe_routing='recycle'"),
    *("model.expert_bias_update_rate=0.01", "training.evaluate_every=4", "training.micro_batch_size=2"),
)


def settings_of(text: Path, cache: Path, *changes: str) -> RunSettings:
    sections: dict[str, Any] = read_sections(TINY) | {"data": {"sources": [str(text)], "cache_dir": str(cache)}}
    for change in (*CHANGES, *changes):
        override(sections, change)
    return RunSettings.from_sections(sections)


def run_alone(folder: Path, settings: RunSettings, *, resume: bool = False, stop_after: int = 0) -> dict[str, Any]:
    """A run of one process, or a part of one."""
    with patch("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11):
        return pretrain(folder, settings, Silent(), resume=resume, should_stop=_after(stop_after))


def run_on_ranks(
    rank: int, folder: Path, settings: RunSettings, layout: Layout, resume: bool = False, stop_after: int = 0
) -> dict[str, Any]:
    """The same on ranks, of which the last alone is asked to stop: all do so after the step that it learns it in."""
    torch.set_num_threads(1)
    ranks = ranks_of(layout, rank, torch.device("cpu"))
    stop = _after(stop_after - 1 if rank == layout.processes - 1 and stop_after else 0)
    with patch("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11):
        return pretrain(folder, settings, Silent(), resume=resume, should_stop=stop, ranks=ranks)


def _after(steps: int) -> Any:
    """should_stop() that is True from the call after `steps` steps on; 0 never."""

    def turns() -> Iterator[bool]:
        done = 0
        while True:
            yield bool(steps) and done >= steps
            done += 1

    answers = turns()
    return lambda: next(answers)
