"""A stage of post-training, from its settings to its summary: the device, the folder, the data, then the one loop.

What a stage is, is told by `prepare`: the task that its data makes, once the tokenizer's folder and the device are known.
"""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.run import steps_saved
from model.counts import training_flops_per_token
from model.device import pick_device
from model.files import write_file
from model.training import run_folder
from model.training.config import TrainingConfig
from model.training.events import Reporter
from model.training.graph import check_recording
from model.training.loop import train
from model.training.prepare import check_grouped_product, check_memory
from model.training.pretraining import precision_note
from model.training.settings import RunSettings
from model.training.task import Task


@dataclass(frozen=True)
class Stage:
    """What `prepare` makes of a run's data."""

    task: Task
    record: run_folder.DataRecord
    data: str  # one line on it
    steps: int  # that one reading of it, or as many as are asked for, take; training.steps goes before it
    batch: str = ""  # what a step learns from, where that is not so many tokens
    files: dict[str, str] = field(default_factory=dict)  # further files of the run folder
    notes: list[str] = field(default_factory=list)
    training: TrainingConfig | None = None  # what the loop is given, where that is not what was asked for


def run_stage(
    folder: Path,
    settings: RunSettings,
    prepare: Callable[[RunSettings, Path, torch.device], Stage],
    reporter: Reporter,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    beside: int = 0,
    of_what: str = "",
) -> dict[str, Any]:
    """Trains `settings` into a new run folder, or goes on with the run in it; returns the run's summary.

    `prepare` is given the settings, the folder of the tokenizer and the chat template, and the device. The length of the run
    is recorded in steps. Other processes are kept out of the folder. `beside` and `of_what` are those of `check_memory`.
    """
    with ExitStack() as stack:
        if not resume:
            run_folder.refuse_other_run(folder)  # before minutes are spent on the data
        else:
            stack.enter_context(run_folder.locked(folder))
        device = pick_device(settings.training.device)
        saved = steps_saved(folder) if resume else []
        trained = run_folder.own_precision(folder, settings) if saved else settings
        check_memory(settings.model, trained.training, device, beside=beside, of_what=of_what)
        check_grouped_product(settings.model, trained.training, device)
        check_recording(settings.model, trained.training, device)
        home = run_folder.own_tokenizer(folder, settings).data.tokenizer if saved else settings.data.tokenizer
        stage = prepare(trained, Path(home), device)
        per_token = training_flops_per_token(settings.model, settings.training.sequence_length)
        if stage.training is not None:
            trained = dataclasses.replace(trained, training=stage.training)
        if not _has_length(settings):
            settings, trained = (_of_steps(each, stage.steps) for each in (settings, trained))
        steps = steps_before = settings.training.total_steps(per_token)
        if saved:
            steps_before = run_folder.settings_of(folder).training.total_steps(per_token)
            run_folder.check_same_data(folder, stage.record.fingerprint)
            run_folder.record_changes(folder, settings, saved[-1])
            if note := precision_note(settings.training.precision, trained.training.precision, device):
                reporter.note(note)
        else:
            if resume:
                run_folder.check_same_weights(folder)
            else:
                stack.enter_context(run_folder.locked(folder))
                run_folder.refuse_other_run(folder)  # nor has one begun meanwhile
            run_folder.create(folder, settings, stage.record, device)
            for name, content in stage.files.items():
                write_file(folder / name, content)
        for note in stage.notes:
            reporter.note(note)
        return train(
            folder,
            trained,
            stage.task,
            reporter,
            steps=steps,
            steps_before=steps_before,
            device=device,
            data=stage.data,
            batch=stage.batch,
            resume=bool(saved),
            should_stop=should_stop,
        )


def _has_length(settings: RunSettings) -> bool:
    return bool(settings.training.steps or settings.training.tokens or settings.training.flops)


def _of_steps(settings: RunSettings, steps: int) -> RunSettings:
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, steps=steps))
