"""`hunyuan bench`: speed as ratios, to the machine's ceiling and to a peer, measured in one run."""

from typing import Annotated

import typer

from hunyuan_cli.console import emit, progress
from hunyuan_cli.options import Format, Output

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
    from analyses.benchmark import Workload, contenders, describe, training_table
    from model.training.transforms import pick_device

    work = Workload(device=str(pick_device(device)), threads=threads)
    turns = rounds * len(contenders(peer=peer, compiled=compiled))
    with progress("timing training steps", total=turns) as advance:
        table = training_table(work, rounds=rounds, steps=steps, peer=peer, compiled=compiled, progress=advance)
    emit(describe(work) | {"contenders": table}, format=format, output=output)
