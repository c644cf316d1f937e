"""`hunyuan bench`: speed as ratios, to the machine's ceiling and to a peer, measured in one run."""

from typing import Annotated, Literal

import typer

from hunyuan_cli.console import progress
from hunyuan_cli.options.common import Format, Output
from hunyuan_cli.options.sizes import parse_count, parse_list
from hunyuan_cli.results import emit

app = typer.Typer(no_args_is_help=True, help="Measure speed against the machine's ceiling and a peer.")

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Turns that every contender takes.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Training steps per turn.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Processor threads of each contender.")]
Peer = Annotated[bool, typer.Option("--peer/--no-peer", help="Also run transformers' HunYuanMoEV1 (extra: hf).")]
Compiled = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Also time torch.compile (needs a C++ compiler).")
]
BenchDevice = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


@app.callback()
def bench() -> None:
    """Measure speed against the machine's ceiling and a peer."""


@app.command("train")
def train(
    rounds: Rounds = 5,
    steps: Steps = 3,
    threads: Threads = 2,
    peer: Peer = False,
    compiled: Compiled = False,
    device: BenchDevice = "cpu",
    format: Format = "table",
    output: Output = None,
) -> None:
    """Time a training step: forward, backward and update of a small mixture on 8 x 256 tokens.

    Ratios are medians over rounds in which the contenders take turns.

    Example: hunyuan bench train --peer --rounds 5 --format json
    """
    from analyses.bench.training import Workload, contenders, describe, training_table
    from model.device import pick_device

    work = Workload(device=str(pick_device(device)), threads=threads)
    turns = rounds * len(contenders(peer=peer, compiled=compiled))
    with progress("timing training steps", total=turns) as advance:
        table = training_table(work, rounds=rounds, steps=steps, peer=peer, compiled=compiled, progress=advance)
    emit(describe(work) | {"contenders": table}, format=format, output=output)


Shape = Annotated[
    Literal["small", "large", "both"],
    typer.Option("--shape", help="small: 5M activated parameters, within a cache. large: 273M, beyond any."),
]
Batches = Annotated[str, typer.Option("--batch", metavar="SIZES", help="Sequences at a time, with commas: 1,8.")]
NewTokens = Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens that are generated in a turn.")]
PromptTokens = Annotated[int, typer.Option("--prompt-tokens", min=1, help="Tokens of each prompt.")]


@app.command("decode")
def decode(
    shape: Shape = "both",
    batch: Batches = "1,8",
    prompt_tokens: PromptTokens = 32,
    new_tokens: NewTokens = 128,
    rounds: Rounds = 5,
    threads: Threads = 2,
    peer: Peer = False,
    compiled: Compiled = False,
    device: BenchDevice = "cpu",
    format: Format = "table",
    output: Output = None,
) -> None:
    """Time generation against the memory's bandwidth, which no batch of one can pass, and against a peer.

    Ratios are medians over rounds in which the contenders take turns.

    Example: hunyuan bench decode --shape small --peer --compile --rounds 5
    """
    from analyses.bench.decoding import SHAPES, DecodeWork, contenders, decode_table
    from model.device import pick_device

    place = str(pick_device(device))
    works = [
        DecodeWork(name, SHAPES[name], size, prompt_tokens, new_tokens, place, threads)
        for name in (SHAPES if shape == "both" else [shape])
        for size in parse_list(batch, parse_count)
    ]
    context = min(work.config.max_position_embeddings for work in works)
    if prompt_tokens + new_tokens > context:
        raise typer.BadParameter(
            f"{prompt_tokens} prompt and {new_tokens} new tokens exceed the context of {context}: ask for fewer"
        )
    turns = rounds * sum(len(contenders(work, peer=peer, compiled=compiled)) for work in works)
    with progress("timing generation", total=turns) as advance:
        table = decode_table(works, rounds=rounds, peer=peer, compiled=compiled, progress=advance)
    facts = {"device": place, "threads": threads, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    emit(facts | {"contenders": table}, format=format, output=output)
