"""The options of `hunyuan params`."""

from typing import Annotated, Literal

import typer

Context = Annotated[
    str,
    typer.Option(
        "--context", metavar="TOKENS", help="Context of attention and training, such as 8K; with --gpu also 8K,256K."
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, max=10**9, help="Sequences per device and micro-batch in training; 1, or chosen with --gpu."
    ),
]
Precision = Annotated[
    Literal["bfloat16", "float32"], typer.Option("--precision", help="Precision of training's matrix products.")
]
Devices = Annotated[
    str,
    typer.Option(
        "--devices", metavar="N", help="Devices that share the training state (FSDP); with --gpu also 512,1024."
    ),
]
ExpertParallel = Annotated[
    int | None,
    typer.Option(
        "--expert-parallel",
        min=1,
        max=10**6,
        help="Devices that share out the experts of a layer; 1, or chosen with --gpu.",
    ),
]
ContextParallel = Annotated[
    int | None,
    typer.Option(
        "--context-parallel",
        min=1,
        max=10**6,
        help="Devices that share out the tokens of a sequence; 1, or chosen with --gpu.",
    ),
]
Gpus = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="Choose the layout for the memory and speed of these devices, h100 or h200; repeatable, or with commas.",
    ),
]
