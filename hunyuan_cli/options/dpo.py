"""The options of `hunyuan dpo` alone, each a key of the section [dpo] or of [training]."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunyuan_cli.options.posttraining import Defaults, Sections

if TYPE_CHECKING:
    from model.config.hunyuan import HunyuanConfig

_FILE = "FILE|hf:NAME"

Offline = Annotated[
    list[str] | None,
    typer.Option("--offline", metavar=_FILE, help="Pairs with prompt, chosen and rejected; repeatable."),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts", metavar=_FILE,
        help='What the policy answers: {"prompt": "..."} or {"messages": [...]}, with what a check needs, such as "answer".',
    ),
]  # fmt: skip
OtherPrompts = Annotated[
    str | None,
    typer.Option(
        "--other-prompts", metavar=_FILE, help="Prompts of other skills, measured alone: what the stage costs them."
    ),
]
RewardName = Annotated[
    str | None,
    typer.Option(
        "--reward", metavar="RUN|CHECK",
        help="What chooses the best and the worst answer: a run of hunyuan reward, or exact, format, unit-tests, digits, "
        "digits-flawed.",
    ),
]  # fmt: skip
TrueReward = Annotated[
    str | None,
    typer.Option("--true-reward", metavar="RUN|CHECK", help="A second reward, measured and never learnt from."),
]
OnlineShare = Annotated[
    float | None, typer.Option("--online-share", help="Share of the policy's own pairs: 0 is offline, 1 online (0.5).")
]
OnlineEvery = Annotated[int | None, typer.Option("--online-every", help="Steps between rounds of answers (1).")]
Samples = Annotated[int | None, typer.Option("--samples", help="Answers to each prompt of a round (8).")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="At which they are drawn (1).")]
SFTCoefficient = Annotated[
    float | None,
    typer.Option(
        "--sft-coefficient",
        help="Weight of the SFT loss on the chosen answers, which keeps them probable; 0 leaves it out (0.2).",
    ),
]
Average = Annotated[
    float | None,
    typer.Option(
        "--average",
        help="Decay of the moving average of the weights, left in OUT/average; it lags about 1 / (1 - decay) steps, so give "
        "less to a short run; 0 keeps none (0.99).",
    ),
]
Beta = Annotated[float | None, typer.Option("--beta", help="How dear it is to leave the reference (0.1).")]
KindOfLoss = Annotated[
    str | None,
    typer.Option("--kind", metavar="sigmoid|ipo|sigmoid_norm|robust|hinge", help="The preference loss (sigmoid)."),
]
LabelSmoothing = Annotated[
    float | None, typer.Option("--label-smoothing", help="How often labels are wrong, for sigmoid and robust (0).")
]
PairsPerStep = Annotated[int | None, typer.Option("--pairs", min=1, help="Pairs a step (16).")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", help="The peak (5e-7, for small models 3e-4).")]
SequenceLength = Annotated[
    int | None, typer.Option("--sequence-length", min=4, help="Most tokens of a prompt with its answer (1,024).")
]


def with_pairs(defaults: Defaults, pairs: int | None) -> Defaults:
    """The defaults with a batch of so many pairs, in parts of at most 16 that are all alike."""
    if pairs is None:
        return defaults
    size = next(size for size in range(min(16, pairs), 0, -1) if pairs % size == 0)

    def changed(model: "HunyuanConfig", given: Mapping[str, Any]) -> dict[str, Any]:
        found = defaults(model, given)
        return found | {"micro_batch_size": 2 * size, "global_batch_tokens": 2 * pairs * found["sequence_length"]}

    return changed


def with_sources(config: Path | None, changes: Sections) -> Sections:
    """The same changes, with the files of pairs and prompts as the run's sources."""
    from model.training.settings import read_sections

    dpo = (read_sections(config).get("dpo", {}) if config else {}) | changes.get("dpo", {})
    offline, prompts = dpo.get("offline") or [], dpo.get("prompts")
    sources = [*([offline] if isinstance(offline, str) else offline), *([prompts] if prompts else [])]
    return changes | {"data": changes.get("data", {}) | {"sources": sources}}
