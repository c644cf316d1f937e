"""`hunyuan train`: pre-train a model from a preset, a run file, given weights, or settings on the command line."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hunyuan_cli.console import data_progress, stderr
from hunyuan_cli.failures import teller
from hunyuan_cli.launch import launch, was_interrupted
from hunyuan_cli.options.common import Flops, OptionalDevice, OptionalSeed, Tokens
from hunyuan_cli.options.parallel import (
    HANG_SECONDS,
    ContextParallel,
    ExpertParallel,
    HangTimeout,
    Processes,
    Restarts,
    Shard,
    chosen_layout,
)
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
from hunyuan_cli.sentences import sentence
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal

if TYPE_CHECKING:
    from model.parallel.layout import Layout
    from model.parallel.start import Ranks
    from model.training.settings import RunSettings


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
    processes: Processes = None,
    expert_parallel: ExpertParallel = 1,
    context_parallel: ContextParallel = 1,
    shard: Shard = None,
    restarts: Restarts = 0,
    hang_timeout: HangTimeout = None,
) -> None:
    """Train a mixture of experts on text; with no options, the toy preset on the Python standard library's sources.

    Ctrl-C finishes the step, saves, and prints the command that continues.

    Example: hunyuan train --model toy --steps 200 --set model.moe_routing=recycle --out runs/recycle

    Own text: hunyuan train --data notes/ --data 'books/*.txt' --tokens 2M

    Long documents, the files of each folder joined: hunyuan train --data src/ --set 'data.join=["src/"]' --out runs/long

    Go on: hunyuan train --out runs/recycle --resume --steps 400; or with other text: --init-from runs/recycle --data notes/

    Several processes, with another number when the run goes on: hunyuan train --processes 4 --expert-parallel 2 --out runs/four

    All their micro-batches routed as one: --set model.capacity_scope=global --set model.balance_scope=global

    Started again from the last checkpoint when a process dies or hangs: hunyuan train --processes 4 --restarts 3
    """
    from model.parallel import start
    from model.training import run_folder
    from model.training.held import check_shared
    from model.training.resume import resumed_settings

    options = {
        ("model", "preset"): model, ("data", "sources"): data, ("training", "seed"): seed, ("training", "device"): device,
        ("training", "steps"): steps, ("training", "tokens"): tokens, ("training", "flops"): flops,
        ("training", "init_from"): init_from and str(init_from),
    }  # fmt: skip
    changes, out_given = changed_sections(options, settings), out is not None
    restarted = start.restarts() > 0 and not resume
    if restarted and out is None:
        raise typer.BadParameter("what torchrun starts again needs the folder of the run: add --out RUN")
    if resume:
        if out is None:
            raise typer.BadParameter("--resume needs the folder of the run: add --out RUN")
        for name, value in {"--model": model, "--config": config, "--init-from": init_from}.items():
            if value is not None:
                raise typer.BadParameter(f"{name} cannot change a run that is resumed: leave it out")
        chosen = resumed_settings(run_folder.settings_of(out), changes)
    elif restarted and out is not None and run_folder.is_begun(out):
        resume = True
        chosen = run_folder.settings_of(out)
    else:
        chosen, name = new_settings(config, changes, new_length=bool(steps or tokens or flops))
        out = out or _free_folder(name)
        run_folder.refuse_other_run(out)
        _refuse_in_use(out, chosen.corpus.all_sources)

    started = start.processes_started()
    layout = chosen_layout(
        processes, started, expert_parallel=expert_parallel, context_parallel=context_parallel, shard=shard
    )
    if restarts and (processes is None or layout is None):
        raise typer.BadParameter("--restarts starts several --processes again; torchrun has --max-restarts")
    if hang_timeout is not None and layout is None:
        raise typer.BadParameter("--hang-timeout is of several processes: leave it out")
    if layout is not None:
        check_shared(chosen, layout)
    command = _command(layout, restarts if processes is not None else None)
    if layout is not None and started == 1:
        arguments = [*sys.argv[1:], *(() if out_given else ("--out", str(out)))]
        status = launch(layout.processes, arguments, restarts=restarts, go_on=partial(_going_on, out, command))
        raise typer.Exit(130 if status == 0 and was_interrupted(out) else status)
    join = None
    if layout is not None:
        seconds = HANG_SECONDS if hang_timeout is None else hang_timeout
        join = partial(start.joined, layout, chosen.training.device, hang_seconds=seconds, leave=partial(os._exit, 1))
    _run(
        out, chosen, join, command,
        resume=resume, quiet=quiet, tensorboard=tensorboard,
    )  # fmt: skip


def _run(
    out: Path,
    settings: "RunSettings",
    join: "Callable[..., AbstractContextManager[Ranks]] | None",
    command: str,
    *,
    resume: bool,
    quiet: bool,
    tensorboard: bool,
) -> None:
    """Trains in this process, which may be one of several that `join`: the first of them speaks."""
    from hunyuan_cli.views.training import run_reporter
    from model.parallel.agree import of_first
    from model.training import run_folder
    from model.training.events import Reporter, Silent
    from model.training.pretraining import pretrain

    reporter: Reporter = Silent()
    with ExitStack() as stack:
        # When a process has failed, its launcher ends the others by SIGTERM: they have something else to say.
        noted = (signal.SIGINT, signal.SIGTERM) if join is None else (signal.SIGINT,)
        stop = stack.enter_context(stop_on_signal(lambda message: reporter.note(message), FINISH_STEP, noted=noted))
        ranks = None
        if join is not None:
            words = partial(sentence, arguments=sys.argv[1:])
            ranks = stack.enter_context(join(tell=teller(words, lambda: _going_on(out, command))))
            out = Path(of_first(ranks, str(out)))
        first = ranks is None or ranks.is_first
        if first:
            reporter = stack.enter_context(run_reporter(quiet, tensorboard))
        progress = data_progress(reporter.note) if first and not quiet else None
        summary = pretrain(out, settings, reporter, resume=resume, should_stop=stop, progress=progress, ranks=ranks)
    if not first:
        return
    draw_run(out, dense=settings.model.is_dense, quiet=quiet)
    folder = shlex.quote(str(out))
    if summary["status"] == "interrupted":
        stderr(f"stopped after step {summary['steps']} and saved; continue with: {command} --out {folder} --resume")
        if ranks is None:
            raise typer.Exit(130)
        return  # a launcher takes another status than 0 for a failure
    if not quiet:
        stderr(f"next: hunyuan infer {shlex.quote(run_folder.first_prompt(out))} --checkpoint {folder}")


def _going_on(folder: Path, command: str, by_itself: bool = False) -> str:
    """How a run that has failed goes on: by itself, or with which command."""
    from model.checkpoint.run import steps_saved
    from model.training.run_folder import is_begun

    saved = steps_saved(folder)
    since = f"from step {saved[-1]}" if saved else "from the beginning"
    if by_itself:
        return f"starting all again {since}"
    if not is_begun(folder):
        return ""  # there is nothing to go on with
    return f"go on {since} with: {command} --out {shlex.quote(str(folder))} --resume"


def _command(layout: "Layout | None", restarts: int | None) -> str:
    """How a run is started that has this layout; torchrun starts one for which no `restarts` are given."""
    if layout is None:
        return "hunyuan train"
    sizes = {
        "--expert-parallel": layout.expert_parallel if layout.expert_parallel > 1 else 0,
        "--context-parallel": layout.context_parallel if layout.context_parallel > 1 else 0,
        "--shard": layout.shard if layout.shard != layout.processes else 0,
        "--restarts": restarts or 0,
    }
    words = "".join(f" {name} {size}" for name, size in sizes.items() if size)
    if restarts is not None:
        return f"hunyuan train --processes {layout.processes}{words}"
    return f"torchrun --nproc-per-node {layout.processes} -m hunyuan_cli train{words}"


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
