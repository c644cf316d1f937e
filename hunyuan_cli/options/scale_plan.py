"""The options of `hunyuan scale-plan`."""

from pathlib import Path
from typing import Annotated

import typer

_RUN = "How the model is trained"
_COST = "Memory and time"

Budgets = Annotated[
    list[str], typer.Option("--flops", metavar="FLOPS", help="The training budget, such as 1e21; repeatable.")
]
Law = Annotated[
    str,
    typer.Option("--law", metavar="NAME|FILE", help="paper, chinchilla, or the JSON that hunyuan scale-fit writes."),
]
FamilyName = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME",
        help="The shapes to choose from: report (the default: the ladder of the sweep), or hunyuan-large (its proportions).",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME|PATH", help="Plan for this shape instead of a family's.")
]
VocabSize = Annotated[
    int | None,
    typer.Option(
        "--vocab-size", min=2, max=10**9, help="Rows of the embedding; by default those of the preset of that size."
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="TOKENS", help="Tokens of a sequence; by default 4 times the hidden size, up to 8K.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
BatchTokens = Annotated[
    str | None,
    typer.Option(
        "--batch-tokens", metavar="TOKENS", help="Tokens of a step; by default the critical batch, for at least 1,000 steps.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", help="Peak rate; by default 4e-3 * (1.22e6 / N)^0.3.", rich_help_panel=_RUN),
]
Loss = Annotated[
    float | None,
    typer.Option(
        "--loss", help="The final loss in nats per token, for the critical batch; by default the law's own, or Chinchilla's.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
Rates = Annotated[
    Path | None,
    typer.Option(
        "--rates",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Learning rate and batch by the laws that hunyuan scale-fit --rates has written.",
        rich_help_panel=_RUN,
    ),
]
Price = Annotated[
    float | None,
    typer.Option(
        "--price-per-hour", metavar="PRICE", help="Of one device: the run's price, at --mfu.", rich_help_panel=_COST
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", dir_okay=False, help="Write the run file that hunyuan train --config takes."),
]
Gpu = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="The device, such as h200 or 4090.", rich_help_panel=_COST)
]
Mfu = Annotated[
    str,
    typer.Option(
        "--mfu",
        metavar="SHARE",
        help="The share of its bf16 peak that training reaches, such as 0.35.",
        rich_help_panel=_COST,
    ),
]
Devices = Annotated[
    int, typer.Option("--devices", min=1, max=10**6, help="The number of devices (FSDP).", rich_help_panel=_COST)
]
ExpertParallel = Annotated[
    int | None,
    typer.Option(
        "--expert-parallel",
        min=1,
        max=10**6,
        help="The number of devices over which the experts of a layer are spread; by default chosen.",
        rich_help_panel=_COST,
    ),
]
ContextParallel = Annotated[
    int | None,
    typer.Option(
        "--context-parallel",
        min=1,
        max=10**6,
        help="The number of devices that share out the tokens of a sequence; by default chosen.",
        rich_help_panel=_COST,
    ),
]
