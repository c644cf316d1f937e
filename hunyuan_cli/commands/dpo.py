"""`hunyuan dpo`: learn from preferences, offline pairs and the policy's own answers in one stage."""

import shlex

import typer

from hunyuan_cli.console import data_progress, stderr
from hunyuan_cli.options import dpo as options
from hunyuan_cli.options.common import OptionalDevice, OptionalSeed
from hunyuan_cli.options.posttraining import From, StageConfig, StageOut, stage_of, stage_settings
from hunyuan_cli.options.train import Quiet, Resume, Set, Steps, TensorBoard, changed_sections
from hunyuan_cli.run_figures import draw_run
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal


def dpo(
    source: From = None,
    offline: options.Offline = None,
    prompts: options.Prompts = None,
    reward: options.RewardName = None,
    out: StageOut = None,
    online_share: options.OnlineShare = None,
    sft_coefficient: options.SFTCoefficient = None,
    average: options.Average = None,
    true_reward: options.TrueReward = None,
    other_prompts: options.OtherPrompts = None,
    samples: options.Samples = None,
    online_every: options.OnlineEvery = None,
    temperature: options.Temperature = None,
    beta: options.Beta = None,
    kind: options.KindOfLoss = None,
    label_smoothing: options.LabelSmoothing = None,
    pairs: options.PairsPerStep = None,
    sequence_length: options.SequenceLength = None,
    learning_rate: options.LearningRate = None,
    steps: Steps = None,
    config: StageConfig = None,
    settings: Set = None,
    resume: Resume = False,
    seed: OptionalSeed = None,
    device: OptionalDevice = None,
    quiet: Quiet = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Learn from preferences (DPO): offline pairs, and the best and worst of the policy's own answers by a reward.

    A term of fine-tuning on the chosen answer goes with them, and the weights are averaged; the average is a model of its own
    in OUT/average. Ctrl-C finishes the step and saves.

    Example: hunyuan dpo --from runs/sft --offline pairs.jsonl --prompts prompts.jsonl --reward exact --out runs/dpo, where
    lines are {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"} and {"prompt": "3 + 4?", "answer": "7"}

    Offline alone: --online-share 0, without prompts and reward. Online alone: --online-share 1.

    Then: hunyuan chat --checkpoint runs/dpo/average; hunyuan compare runs/dpo runs/other --plot dpo.png
    """
    from hunyuan_cli.views.training import run_reporter
    from model.posttraining.dpo_config import training_defaults
    from model.posttraining.dpo_run import learn_preferences
    from model.training.resume import resumed_settings

    given = {
        "offline": offline, "prompts": prompts, "other_prompts": other_prompts, "reward": reward, "true_reward": true_reward,
        "online_share": online_share, "online_every": online_every, "samples": samples, "temperature": temperature,
        "sft_coefficient": sft_coefficient, "average": average, "beta": beta, "kind": kind,
        "label_smoothing": label_smoothing,
    }  # fmt: skip
    training = {
        "steps": steps, "seed": seed, "device": device, "learning_rate": learning_rate, "sequence_length": sequence_length,
    }  # fmt: skip
    named = {("dpo", key): value for key, value in given.items()} | {
        ("training", key): value for key, value in training.items()
    }
    changes = changed_sections(named, settings)
    if resume:
        without = {"--from": source, "--config": config, "--pairs": pairs}
        chosen = resumed_settings(stage_of(out, "dpo", without=without), changes)
    else:
        needs = "name pairs with --offline, or prompts with --prompts and a --reward"
        defaults = options.with_pairs(training_defaults, pairs)
        chosen = stage_settings(
            "dpo", out, source, config, options.with_sources(config, changes), defaults, needs=needs
        )
    assert out is not None and chosen.dpo is not None, "both have asked for it"
    with run_reporter(quiet, tensorboard) as reporter, stop_on_signal(reporter.note, FINISH_STEP) as stop:
        progress = None if quiet else data_progress(reporter.note)
        summary = learn_preferences(out, chosen, reporter, resume=resume, should_stop=stop, progress=progress)
    draw_run(out, dense=chosen.model.is_dense, quiet=quiet)
    folder = shlex.quote(str(out))
    if summary["status"] == "interrupted":
        stderr(f"stopped after step {summary['steps']} and saved; continue with: hunyuan dpo --out {folder} --resume")
        raise typer.Exit(130)
    if not quiet:
        stderr(f"next: hunyuan chat --checkpoint {folder}{'/average' if chosen.dpo.average else ''}")
