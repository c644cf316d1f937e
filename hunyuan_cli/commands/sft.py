"""`hunyuan sft`: fine-tune a model on conversations."""

import shlex

import typer

from hunyuan_cli.console import data_progress, stderr
from hunyuan_cli.options.common import OptionalDevice, OptionalSeed
from hunyuan_cli.options.posttraining import Epochs, From, StageConfig, StageOut, stage_of, stage_settings
from hunyuan_cli.options.sft import Chats, EndToken, Template, TrainOn
from hunyuan_cli.options.train import Quiet, Resume, Set, Steps, TensorBoard, changed_sections
from hunyuan_cli.run_figures import draw_run
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal


def sft(
    source: From = None,
    data: Chats = None,
    out: StageOut = None,
    config: StageConfig = None,
    settings: Set = None,
    epochs: Epochs = None,
    steps: Steps = None,
    train_on: TrainOn = None,
    template: Template = None,
    end_token: EndToken = None,
    resume: Resume = False,
    seed: OptionalSeed = None,
    device: OptionalDevice = None,
    quiet: Quiet = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Fine-tune a model on conversations: messages, ShareGPT, alpaca, or prompts and completions.

    The loss is on the assistant's answers alone, each up to the token that ends it. Ctrl-C finishes the step and saves.

    The learning rate falls from 2e-5 to 2e-6, in a model of under 100M parameters from 3e-3 to 3e-4.

    Example: hunyuan sft --from runs/demo --data chats.jsonl --out runs/sft

    A line of chats.jsonl: {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

    Then: hunyuan chat --checkpoint runs/sft
    """
    from hunyuan_cli.views.training import run_reporter
    from model.posttraining.finetuning import fine_tune
    from model.posttraining.sft_config import training_defaults
    from model.training.resume import resumed_settings

    options = {
        ("data", "sources"): data, ("sft", "epochs"): epochs, ("sft", "train_on"): train_on, ("sft", "template"): template,
        ("sft", "end_token"): end_token, ("training", "steps"): steps, ("training", "seed"): seed,
        ("training", "device"): device,
    }  # fmt: skip
    changes = changed_sections(options, settings)
    if resume:
        chosen = resumed_settings(stage_of(out, "sft", without={"--from": source, "--config": config}), changes)
    else:
        chosen = stage_settings("sft", out, source, config, changes, training_defaults)
    assert out is not None, "both have asked for it"
    with run_reporter(quiet, tensorboard) as reporter, stop_on_signal(reporter.note, FINISH_STEP) as stop:
        progress = None if quiet else data_progress(reporter.note)
        show = (lambda sentence: None) if quiet else reporter.note
        summary = fine_tune(out, chosen, reporter, resume=resume, should_stop=stop, progress=progress, show=show)
    draw_run(out, dense=chosen.model.is_dense, quiet=quiet)
    folder = shlex.quote(str(out))
    if summary["status"] == "interrupted":
        stderr(f"stopped after step {summary['steps']} and saved; continue with: hunyuan sft --out {folder} --resume")
        raise typer.Exit(130)
    if not quiet:
        stderr(f"next: hunyuan chat --checkpoint {folder}")
