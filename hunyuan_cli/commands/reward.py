"""`hunyuan reward`: train a model that judges answers, from pairs of a better and a worse one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hunyuan_cli.console import data_progress, stderr
from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import OptionalDevice, OptionalSeed
from hunyuan_cli.options.posttraining import Epochs, From, StageConfig, StageOut, stage_of, stage_settings
from hunyuan_cli.options.train import Quiet, Resume, Set, Steps, TensorBoard, changed_sections
from hunyuan_cli.run_figures import draw_run
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal

Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--data", metavar="FILE|FOLDER|hf:NAME",
        help="Pairs: jsonl, json or parquet files with prompt, chosen and rejected, or a data set of the hub; repeatable.",
    ),
]  # fmt: skip


def reward(
    source: From = None,
    data: Pairs = None,
    out: StageOut = None,
    config: StageConfig = None,
    settings: Set = None,
    epochs: Epochs = None,
    steps: Steps = None,
    resume: Resume = False,
    seed: OptionalSeed = None,
    device: OptionalDevice = None,
    quiet: Quiet = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a reward model on pairs of answers; it says how far it can be believed, on pairs that it has not seen.

    Its folder has calibration.png and held_out.jsonl, the rewards of the held-out pairs. Ctrl-C finishes the step and saves.

    Example: hunyuan reward --from runs/sft --data pairs.jsonl --out runs/reward

    A line of pairs.jsonl: {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    """
    from hunyuan_cli.views.training import run_reporter
    from model.posttraining.reward_config import training_defaults
    from model.posttraining.reward_training import train_reward
    from model.training.resume import resumed_settings

    options = {
        ("data", "sources"): data, ("reward", "epochs"): epochs, ("training", "steps"): steps, ("training", "seed"): seed,
        ("training", "device"): device,
    }  # fmt: skip
    changes = changed_sections(options, settings)
    if resume:
        chosen = resumed_settings(stage_of(out, "reward", without={"--from": source, "--config": config}), changes)
    else:
        chosen = stage_settings("reward", out, source, config, changes, training_defaults)
    assert out is not None, "both have asked for it"
    with run_reporter(quiet, tensorboard) as reporter, stop_on_signal(reporter.note, FINISH_STEP) as stop:
        progress = None if quiet else data_progress(reporter.note)
        summary = train_reward(out, chosen, reporter, resume=resume, should_stop=stop, progress=progress)
    draw_run(out, dense=chosen.model.is_dense, quiet=quiet)
    _draw_calibration(out, quiet)
    folder = shlex.quote(str(out))
    if summary["status"] == "interrupted":
        stderr(
            f"stopped after step {summary['steps']} and saved; continue with: hunyuan reward --out {folder} --resume"
        )
        raise typer.Exit(130)
    if not quiet:
        stderr(f"next: hunyuan dpo --reward {folder}")


def _draw_calibration(out: Path, quiet: bool) -> None:
    from analyses.posttraining.reward import load_held_out, plot_calibration
    from model.errors import HunyuanError

    try:
        save_figure(plot_calibration(load_held_out(out), out.name), out / "calibration.png", quiet=quiet)
    except (HunyuanError, OSError) as error:
        stderr(f"no calibration was drawn: {error}")
