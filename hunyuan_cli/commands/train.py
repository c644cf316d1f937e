"""`hunyuan train`: pre-train a model from a preset, a run file, or settings on the command line."""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Flops, OptionalDevice, OptionalSeed, Tokens
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal

if TYPE_CHECKING:
    from model.training.settings import RunSettings

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", exists=True, dir_okay=False, help="A run file: TOML with the tables model, data and training."
    ),
]
Preset = Annotated[
    str | None, typer.Option("--model", metavar="PRESET", help="toy, toy-dense, small, base or ladder-256.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change any setting of the run file; repeatable."),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="A file, folder, glob, hf:NAME or stdlib (this interpreter's library); repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", file_okay=False, help="The run folder; by default runs/PRESET-N.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps; or give --tokens or --flops.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, from its newest intact checkpoint.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only warnings and the last line.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events (extra: tensorboard).")]


def train(
    model: Preset = None,
    config: ConfigFile = None,
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
    """
    from model.training import run_folder
    from model.training.pretraining import pretrain
    from model.training.settings import override, read_sections

    if resume:
        changed: dict[str, Any] = {
            "--model": model,
            "--config": config,
            "--set": settings,
            "--data": data,
            "--steps": steps,
        }
        changed |= {"--tokens": tokens, "--flops": flops, "--seed": seed}
        given = [name for name, value in changed.items() if value is not None]
        if given:
            raise typer.BadParameter(f"{' and '.join(given)} cannot change a run that is resumed: leave it out")
        if out is None:
            raise typer.BadParameter("--resume needs the folder of the run: add --out RUN")
        chosen = run_folder.settings_of(out)
        if device is not None:
            chosen = _with_device(chosen, device)
    else:
        sections: dict[str, dict[str, Any]] = read_sections(config) if config else {"model": {"preset": "toy"}}
        options = {
            ("model", "preset"): model, ("data", "sources"): data, ("training", "steps"): steps,
            ("training", "tokens"): tokens, ("training", "flops"): flops, ("training", "seed"): seed,
            ("training", "device"): device,
        }  # fmt: skip
        if steps or tokens or flops:  # one length on the command line replaces the file's
            for name in ("steps", "tokens", "flops"):
                sections.get("training", {}).pop(name, None)
        for (section, key), value in options.items():
            if value is not None:
                sections.setdefault(section, {})[key] = value
        for assignment in settings or []:
            override(sections, assignment)
        chosen = _resolve(sections)
        out = out or _free_folder(sections.get("model", {}).get("preset", "run" if config else "toy"))
        run_folder.refuse_other_run(out)

    with ExitStack() as stack:
        reporter = stack.enter_context(_reporter(quiet, tensorboard))
        stop = stack.enter_context(stop_on_signal(reporter.note, FINISH_STEP))
        progress = None if quiet else _data_progress(reporter.note)
        summary = pretrain(out, chosen, reporter, resume=resume, should_stop=stop, progress=progress)
    _draw(out, dense=chosen.model.is_dense, quiet=quiet)
    folder = shlex.quote(str(out))
    if summary["status"] == "interrupted":
        stderr(f"stopped after step {summary['steps']} and saved; continue with: hunyuan train --out {folder} --resume")
        raise typer.Exit(130)
    if not quiet:
        stderr(f"next: hunyuan infer 'def ' --checkpoint {folder}")


def _resolve(sections: dict[str, dict[str, Any]]) -> "RunSettings":
    from model.training.settings import RunSettings

    settings = RunSettings.from_sections(sections)
    return dataclasses.replace(settings, data=settings.data.absolute())


def _with_device(settings: "RunSettings", device: str) -> "RunSettings":
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, device=device))


def _free_folder(name: str) -> Path:
    """runs/NAME-N with the first N that is not taken."""
    number = 1
    while Path("runs", f"{name}-{number}").exists():
        number += 1
    return Path("runs", f"{name}-{number}")


def _reporter(quiet: bool, tensorboard: bool) -> Any:
    from hunyuan_cli.views.training import Reporters, make_reporter

    if not tensorboard:
        return make_reporter(quiet)
    from hunyuan_cli.views.tensorboard import TensorBoardReporter

    return Reporters([make_reporter(quiet), TensorBoardReporter()])


def _data_progress(note: Callable[[str], None]) -> Callable[[str, float], None]:
    """Says each stage of the data's preparation once, when it starts."""
    told: set[str] = set()

    def report(stage: str, share: float) -> None:
        del share
        if stage not in told:
            told.add(stage)
            note(f"data: {stage}")

    return report


def _draw(out: Path, *, dense: bool, quiet: bool) -> None:
    """Leaves the loss and expert-load figures in the run folder; a run is not lost for want of a figure."""
    from analyses.training import plots as run_plots
    from analyses.training import runs
    from model.errors import HunyuanError

    try:
        run = runs.load_run(out)
        save_figure(run_plots.plot_training(run), out / "loss.png", quiet=quiet)
        if not dense:
            save_figure(run_plots.plot_expert_load(run), out / "expert_load.png", quiet=quiet)
    except (HunyuanError, OSError) as error:
        print(f"no figures were drawn: {error}", file=sys.stderr)
