"""One stage of preferences, from its settings to a run folder: data, rewards, the task for the one loop, averaged weights."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.run import run_of, save_weights
from model.config.hunyuan import HunyuanConfig
from model.counts import total_params
from model.errors import ConfigError, HunyuanError
from model.files import folder_aside, write_file
from model.posttraining.draws import shared
from model.posttraining.preference_data import PreferenceData, Progress, prepare_preferences
from model.posttraining.preferences import Preferences
from model.posttraining.rewards import CHECKS, Reward, find_reward
from model.posttraining.stage import Stage, run_stage
from model.tokenizer.folder import TOKENIZER_FILES
from model.training.events import Reporter
from model.training.run_folder import DataRecord
from model.training.settings import RunSettings
from model.transformer import Hunyuan

AVERAGED = "average"  # the folder in a run's that holds its averaged weights, a run folder itself


def learn_preferences(
    folder: Path,
    settings: RunSettings,
    reporter: Reporter,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains `settings` into a new run folder, or goes on with the run in it; returns the run's summary.

    The averaged weights are left in FOLDER/average, which every command takes as it takes a run.
    """
    tasks: list[Preferences] = []

    def prepare(trained: RunSettings, home: Path, device: torch.device) -> Stage:
        c = trained.dpo
        assert c is not None, "the settings of a run of preferences"
        _check_batch(trained)
        reward, true_reward = (find_reward(name, device) if name else None for name in (c.reward, c.true_reward))
        data = prepare_preferences(trained, home, progress)
        _check_rewards(data, reward, true_reward)
        tasks.append(Preferences(trained, data, folder, device, reporter.note, reward, true_reward))
        first = (data.prompts or data.held_out_prompts)[:1]
        prompt = data.asking.tokenizer.decode(first[0].ids) if first else ""
        record = DataRecord(data.asking.tokenizer, data.fingerprint, data.counts, prompt)
        return Stage(tasks[0], record, data.describe(), steps=_one_reading(trained, data), notes=data.notes)

    beside, of_what = _beside(settings)
    summary = run_stage(
        folder, settings, prepare, reporter, resume=resume, should_stop=should_stop, beside=beside, of_what=of_what
    )
    if tasks[0].average is not None:
        _write_average(folder, tasks[0].average.net)
    return summary


def _beside(settings: RunSettings) -> tuple[int, str]:
    """Bytes of the float32 weights that are in memory beside the policy and its optimizer, and whose they are."""
    c = settings.dpo
    assert c is not None
    sizes = {"the reference": total_params(settings.model)}  # where it is not kept, an evaluation reads it
    if c.average:
        sizes["the average"] = total_params(settings.model)
    for name in (c.reward, c.true_reward):
        if name and name not in CHECKS:
            with contextlib.suppress(HunyuanError, OSError):  # that it is no reward model is told where it is read
                size = total_params(HunyuanConfig.from_file(run_of(Path(name).expanduser())))
                sizes["reward models"] = sizes.get("reward models", 0) + size
    *first, last = sizes
    return 4 * sum(sizes.values()), f"{', '.join(first)} and {last}" if first else last


def _check_batch(settings: RunSettings) -> None:
    c, training = settings.dpo, settings.training
    assert c is not None
    problems = []
    if training.batch_sequences < 2 or training.batch_sequences % 2 or training.micro_batch_size % 2:
        problems.append(
            f"a step has {training.batch_sequences} sequences in parts of {training.micro_batch_size}: a pair has two, so give "
            "even numbers, as --pairs does"
        )
    elif training.batch_sequences == 2 and 0 < c.online_share < 1:
        problems.append(
            "one pair a step cannot be shared between offline and online: raise --pairs, or set --online-share to 0 or 1"
        )
    if problems:
        raise ConfigError(problems)


def _check_rewards(data: PreferenceData, reward: Reward | None, true_reward: Reward | None) -> None:
    """Every prompt has what its rewards need, before anything is computed."""
    asked = [prompt.question for prompt in (*data.prompts, *data.held_out_prompts)]
    for judge in (reward, true_reward):
        if judge is not None:
            judge.check(asked)
    judge = true_reward or reward
    if data.other_prompts and judge is None:
        raise ConfigError(["--other-prompts need a reward to be measured by: give --true-reward or --reward"])
    if judge is not None:
        judge.check([prompt.question for prompt in data.other_prompts])


def _one_reading(settings: RunSettings, data: PreferenceData) -> int:
    """Steps in which the offline pairs are read once, or where there are none the prompts."""
    assert settings.dpo is not None
    pairs = settings.training.batch_sequences // 2
    online = shared(pairs, settings.dpo.online_share)
    if data.pairs:
        return -(-len(data.pairs) // (pairs - online))
    return max(1, -(-len(data.prompts) // online))


def _write_average(run: Path, net: Hunyuan) -> None:
    with folder_aside(run / AVERAGED) as aside:
        for name in ("config.json", "environment.json", *TOKENIZER_FILES):
            if (run / name).is_file():
                write_file(aside / name, (run / name).read_bytes())
        save_weights(aside, net)
