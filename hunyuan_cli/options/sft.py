"""The options of `hunyuan sft` alone."""

from typing import Annotated

import typer

Chats = Annotated[
    list[str] | None,
    typer.Option(
        "--data", metavar="FILE|FOLDER|hf:NAME",
        help="Conversations: jsonl, json or parquet files, or a data set of the hub; repeatable. Shares of several: "
        "--set data.weights='[3, 1]'.",
    ),
]  # fmt: skip
TrainOn = Annotated[
    str | None, typer.Option("--train-on", metavar="answers|last|all", help="What of a conversation is learnt.")
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template", metavar="FILE|turns|none",
        help="A chat template as Jinja; turns: User: and Assistant:, for models without one; none: plain text. Without it the "
        "model's own.",
    ),
]  # fmt: skip
EndToken = Annotated[
    str | None,
    typer.Option("--end-token", metavar="NAME", help="A special token that ends an answer of this template."),
]
