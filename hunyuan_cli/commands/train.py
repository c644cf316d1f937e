"""`hunyuan train`: pre-train a model from a preset, a run file, given weights, or settings on the command line."""

import shlex
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import typer

from hunyuan_cli.console import data_progress, stderr
from hunyuan_cli.options.common import Flops, OptionalDevice, OptionalSeed, Tokens
from hunyuan_cli.options.train import (
    ConfigFile,
    Data,
    InitFrom,
    Out,
    Preset,
    Quiet,
    Resume,
    Set,
    Steps,
    TensorBoard,
    changed_sections,
    new_settings,
)
from hunyuan_cli.run_figures import draw_run
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal


def train(
    model: Preset = None,
    config: ConfigFile = None,
    init_from: InitFrom = None,
    settings: Set = None,
    data: Data = None,
    out: Out = None,
    steps: Steps = None,
    tokens: Tokens = None,
    flops: Flops = None,
    resume: Resume = False,
    seed: OptionalSeed = None,
    device: OptionalDevice = None,
    quiet: Quiet = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a mixture of experts on text; with no options, the toy preset on the Python standard library's sources.

    Ctrl-C finishes the step, saves, and prints the command that continues.

    Example: hunyuan train --model toy --steps 200 --set model.moe_routing=recycle --out runs/recycle

    Own text: hunyuan train --data notes/ --data 'books/*.txt' --tokens 2M

    Long documents, the files of each folder joined: hunyuan train --data src/ --set 'data.join=["src/"]' --out runs/long

    Go on: hunyuan train --out runs/recycle --resume --steps 400; or with other text: --init-from runs/recycle --data notes/
    """
    from hunyuan_cli.views.training import run_reporter
    from model.training import run_folder
    from model.training.pretraining import pretrain
    from model.training.resume import resumed_settings

    options = {
        ("model", "preset"): model, ("data", "sources"): data, ("training", "seed"): seed, ("training", "device"): device,
        ("training", "steps"): steps, ("training", "tokens"): tokens, ("training", "flops"): flops,
        ("training", "init_from"): init_from and str(init_from),
    }  # fmt: skip
    changes = changed_sections(options, settings)
    if resume:
        if out is None:
            raise typer.BadParameter("--resume needs the folder of the run: add --out RUN")
        for name, value in {"--model": model, "--config": config, "--init-from": init_from}.items():
            if value is not None:
                raise typer.BadParameter(f"{name} cannot change a run that is resumed: leave it out")
        chosen = resumed_settings(run_folder.settings_of(out), changes)
    else:
        chosen, name = new_settings(config, changes, new_length=bool(steps or tokens or flops))
        out = out or _free_folder(name)
        run_folder.refuse_other_run(out)
        _refuse_in_use(out, chosen.corpus.all_sources)

    with ExitStack() as stack:
        reporter = stack.enter_context(run_reporter(quiet, tensorboard))
        stop = stack.enter_context(stop_on_signal(reporter.note, FINISH_STEP))
        progress = None if quiet else data_progress(reporter.note)
        summary = pretrain(out, chosen, reporter, resume=resume, should_stop=stop, progress=progress)
    draw_run(out, dense=chosen.model.is_dense, quiet=quiet)
    folder = shlex.quote(str(out))
    if summary["status"] == "interrupted":
        stderr(f"stopped after step {summary['steps']} and saved; continue with: hunyuan train --out {folder} --resume")
        raise typer.Exit(130)
    if not quiet:
        stderr(f"next: hunyuan infer {shlex.quote(run_folder.first_prompt(out))} --checkpoint {folder}")


def _refuse_in_use(out: Path, sources: Iterable[str]) -> None:
    """ConfigError where a run's files would mix with those of a sweep, or become its own text."""
    from model.errors import ConfigError
    from model.sweep.runner import plan_of

    if plan_of(out) is not None:
        raise ConfigError([f"{out} holds a sweep: choose another folder with --out"])
    if any(Path(source).expanduser().resolve() == out.resolve() for source in sources):
        raise ConfigError([f"{out} is also a folder of the text: choose another one with --out"])


def _free_folder(name: str) -> Path:
    """runs/NAME-N with the first N that is not taken."""
    number = 1
    while Path("runs", f"{name}-{number}").exists():
        number += 1
    return Path("runs", f"{name}-{number}")
