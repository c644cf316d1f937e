"""Options of `hunyuan bench`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Turns that every contender takes.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Training steps per turn.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Processor threads of each contender.")]
Peer = Annotated[bool, typer.Option("--peer/--no-peer", help="Also run transformers' HunYuanMoEV1 (extra: hf).")]
Compiled = Annotated[
    bool,
    typer.Option("--compile/--no-compile", help="Also time torch.compile (needs a C++ compiler; no more on cuda)."),
]
BenchDevice = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Shape = Annotated[
    Literal["small", "large", "both"],
    typer.Option(
        "--shape",
        help="small: 5M activated parameters, within a cache. large: 273M, beyond any; on a GPU 1.98B of 14.4B.",
    ),
]
BenchProcesses = Annotated[
    int,
    typer.Option(
        "--processes",
        min=1,
        help="Time instead steps on so many processes, a GPU each, in every way to share out the weights, against one.",
    ),
]
BenchLayouts = Annotated[
    str | None,
    typer.Option("--layouts", metavar="NAMES", help="With --processes, those alone, beside one process: fsdp,ep."),
]
TrainShape = Annotated[
    Literal["small", "large", "toy"] | None,
    typer.Option(
        "--shape",
        help="small: 5M activated parameters, 8 x 256 tokens. large: 273M of 1.83B, 16 x 2048. toy: the preset, 16 x 256. "
        "[default: large on cuda, else small]",
    ),
]
Batches = Annotated[str, typer.Option("--batch", metavar="SIZES", help="Sequences at a time, with commas: 1,8.")]
NewTokens = Annotated[int, typer.Option("--new-tokens", min=2, help="Tokens that are generated in a turn.")]
PromptTokens = Annotated[int, typer.Option("--prompt-tokens", min=1, help="Tokens of each prompt.")]
Weights = Annotated[
    Literal["int8"] | None, typer.Option("--weights", help="Also time this project's generation with int8 weights.")
]
Contexts = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="LENGTHS",
        help="Also time each shape after contexts of so many tokens, such as 32K,128K, with MHA, GQA and GQA+CLA.",
    ),
]  # fmt: skip
ReadContexts = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="LENGTHS",
        help="Tokens of prompt and answer together. [default: 32K,128K,256K on cuda, else 512,1K]",
    ),
]  # fmt: skip
PrefillChunk = Annotated[
    str, typer.Option("--prefill-chunk", metavar="TOKENS", help="Tokens of a prompt that are read in one pass.")
]
StartedCheckpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", exists=True, help="Also time infer: one token of the model in this folder."),
]
BenchRuns = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN.json...", exists=True, dir_okay=False, show_default=False, help="Files of hunyuan bench."
    ),
]
