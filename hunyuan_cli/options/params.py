"""The options of `hunyuan params`."""

from typing import Annotated, Literal

import typer

Context = Annotated[
    str, typer.Option("--context", metavar="TOKENS", help="Context of attention and training, such as 8K.")
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, max=10**9, help="Sequences per device and micro-batch in training.")
]
Precision = Annotated[
    Literal["bfloat16", "float32"], typer.Option("--precision", help="Precision of training's matrix products.")
]
Devices = Annotated[
    int, typer.Option("--devices", min=1, max=10**6, help="Devices that share the training state (FSDP).")
]
ExpertParallel = Annotated[
    int, typer.Option("--expert-parallel", min=1, max=10**6, help="Devices that share out the experts of a layer.")
]
ContextParallel = Annotated[
    int, typer.Option("--context-parallel", min=1, max=10**6, help="Devices that share out the tokens of a sequence.")
]
