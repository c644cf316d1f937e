"""`hunyuan bench`: speed as ratios, to the machine's ceiling and to a peer, measured in one run."""

import json
import sys

import typer

from hunyuan_cli.console import progress, stderr
from hunyuan_cli.options.bench import (
    Batches,
    BenchDevice,
    BenchLayouts,
    BenchProcesses,
    BenchRuns,
    Compiled,
    Contexts,
    NewTokens,
    Peer,
    PrefillChunk,
    PromptTokens,
    ReadContexts,
    Rounds,
    Shape,
    StartedCheckpoint,
    Steps,
    Threads,
    TrainShape,
    Weights,
)
from hunyuan_cli.options.common import Format, Output
from hunyuan_cli.options.sizes import parse_context, parse_count, parse_list
from hunyuan_cli.results import emit

app = typer.Typer(no_args_is_help=True, help="Measure speed against the machine's ceiling and a peer.")


@app.callback()
def bench() -> None:
    """Measure speed against the machine's ceiling and a peer."""


@app.command("train")
def train(
    shape: TrainShape = None,
    rounds: Rounds = 5,
    steps: Steps = 3,
    threads: Threads = 2,
    peer: Peer = False,
    compiled: Compiled = False,
    device: BenchDevice = "cpu",
    processes: BenchProcesses = 1,
    layouts: BenchLayouts = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Time a training step: forward, backward and update of a mixture.

    Contenders take turns; on a GPU they are compiled and follow one another, with the ceiling timed before every turn.

    Example: hunyuan bench train --device cuda --peer --format json

    Two GPUs against one: hunyuan bench train --device cuda --processes 2 --rounds 3
    """
    from analyses.bench.processes import layouts as contenders_of
    from analyses.bench.processes import processes_table
    from analyses.bench.training import contenders, describe, training_table, turns, workload
    from model.device import pick_device

    work = workload(shape, str(pick_device(device)), threads)
    if processes > 1:
        known = list(contenders_of(processes, work.config, on_gpu=work.on_gpu))
        only = known if layouts is None else [name.strip() for name in layouts.split(",")]
        if unknown := [name for name in only if name not in known]:
            raise typer.BadParameter(f"--layouts does not know {unknown[0]!r}: choose from {', '.join(known)}")
        count = rounds * (1 + len(only))
        with progress("timing training steps on several processes", total=count) as advance:
            table = processes_table(
                work, processes, rounds=rounds, steps=steps, only=only, progress=advance,
                note=lambda row: stderr(json.dumps(row)),  # what is there is not lost when a later one is stopped
            )  # fmt: skip
        emit(describe(work) | {"contenders": table}, format=format, output=output)
        return
    total = turns(work, contenders(work, peer=peer, compiled=compiled), rounds)
    with progress("timing training steps", total=total) as advance:
        table = training_table(work, rounds=rounds, steps=steps, peer=peer, compiled=compiled, progress=advance)
    emit(describe(work) | {"contenders": table}, format=format, output=output)


@app.command("layer")
def layer(
    rounds: Rounds = 5,
    steps: Steps = 3,
    threads: Threads = 2,
    peer: Peer = False,
    device: BenchDevice = "cpu",
    format: Format = "table",
    output: Output = None,
) -> None:
    """Time one mixture layer, forward and backward, against a dense SwiGLU of equal FLOPs, a matrix product and a peer.

    On a GPU at 2048/5632 with 16,384 tokens and at 6400/18304 with 8,192, compiled, in bfloat16; on a processor a small one.

    Example: hunyuan bench layer --device cuda --peer --format json
    """
    import torch

    from analyses.bench.layer import contenders, layer_table, workloads
    from analyses.bench.worker import machine
    from model.device import pick_device

    place = str(pick_device(device))
    torch.set_num_threads(threads)
    works = workloads(place)
    with progress("timing layers", total=rounds * len(works) * len(contenders(peer=peer))) as advance:
        table = layer_table(works, rounds=rounds, steps=steps, peer=peer, progress=advance)
    emit(machine(place) | {"threads": threads, "contenders": table}, format=format, output=output)


@app.command("decode")
def decode(
    shape: Shape = "both",
    batch: Batches = "1,8",
    prompt_tokens: PromptTokens = 32,
    new_tokens: NewTokens = 128,
    context: Contexts = None,
    weights: Weights = None,
    rounds: Rounds = 5,
    threads: Threads = 2,
    peer: Peer = False,
    compiled: Compiled = False,
    device: BenchDevice = "cpu",
    format: Format = "table",
    output: Output = None,
) -> None:
    """Time generation against the memory's bandwidth, which no program passes, and against a peer.

    Ratios are medians over rounds in which the contenders take turns. With --context a second table, of long caches.

    Example: hunyuan bench decode --shape small --peer --compile --rounds 5

    On a GPU: hunyuan bench decode --device cuda --shape large --batch 1,32 --weights int8 --context 32K,128K --peer
    """
    from analyses.bench.contexts import context_table, context_works
    from analyses.bench.decoding import SHAPES, DecodeWork, contenders, decode_table, shape_of_name, turns
    from analyses.bench.worker import machine
    from model.device import pick_device

    place, int8 = str(pick_device(device)), weights == "int8"
    names = list(SHAPES) if shape == "both" else [shape]
    works = [
        DecodeWork(name, shape_of_name(name, place), size, prompt_tokens, new_tokens, place, threads)
        for name in names
        for size in parse_list(batch, parse_count)
    ]
    most = min(work.config.max_position_embeddings for work in works)
    if prompt_tokens + new_tokens > most:
        raise typer.BadParameter(
            f"{prompt_tokens} prompt and {new_tokens} new tokens exceed the context of {most}: ask for fewer"
        )
    lengths = parse_list(context, parse_context) if context else []
    if any(not new_tokens < length <= most for length in lengths):
        raise typer.BadParameter(f"--context must be more than {new_tokens} new tokens, and at most {most} here")
    long = [each for work in works[:: len(works) // len(names)] for each in context_works(work, lengths, int8=int8)]
    options = {"peer": peer, "compiled": compiled, "int8": int8}
    count = sum(turns(contenders(work, **options), place, rounds) for work in works) + 2 * rounds * len(long)
    with progress("timing generation", total=count) as advance:
        table = decode_table(works, rounds=rounds, progress=advance, **options)
        after = context_table(long, rounds=rounds, progress=advance) if long else None
    facts = machine(place) | {"threads": threads, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    emit(
        facts | {"contenders": table} | ({"contexts": after} if after is not None else {}), format=format, output=output
    )


@app.command("context")
def context(
    context: ReadContexts = None,
    new_tokens: NewTokens = 32,
    prefill_chunk: PrefillChunk = "8K",
    rounds: Rounds = 5,
    threads: Threads = 2,
    device: BenchDevice = "cpu",
    format: Format = "table",
    output: Output = None,
) -> None:
    """Read long prompts and go on after them with MHA, GQA and GQA+CLA: time and memory beside those of kv-cache.

    Every prompt is read once, in bfloat16; tokens/s are medians over rounds. On a GPU at 24 layers, hidden 2048, 1.98B
    activated, with 16 experts or as many as fit.

    Example: hunyuan bench context --device cuda --context 32K,128K,256K --format json
    """
    from analyses.bench.decoding import shape_of_name
    from analyses.bench.prompts import prompt_table, prompt_works
    from analyses.bench.worker import machine
    from model.device import memory_bytes, pick_device

    place = pick_device(device)
    on_gpu, chunk = place.type == "cuda", parse_context(prefill_chunk)
    lengths = parse_list(context or ("32K,128K,256K" if on_gpu else "512,1K"), parse_context)
    if min(lengths) <= new_tokens:
        raise typer.BadParameter(f"--context must be more than {new_tokens} new tokens")
    name = "large" if on_gpu else "small"
    works = prompt_works(
        name, shape_of_name(name, str(place)), lengths, new_tokens=new_tokens, chunk=chunk, device=str(place),
        threads=threads, memory=memory_bytes(place),
    )  # fmt: skip
    with progress("reading prompts", total=len(works) * len(lengths) * (1 + 2 * rounds)) as advance:
        table = prompt_table(works, lengths, rounds=rounds, progress=advance)
    facts = {"threads": threads, "new_tokens": new_tokens, "prefill_chunk": chunk}
    emit(machine(str(place)) | facts | {"contexts": table}, format=format, output=output)


@app.command("startup")
def startup(
    rounds: Rounds = 5, checkpoint: StartedCheckpoint = None, format: Format = "table", output: Output = None
) -> None:
    """Time --help, kv-cache and params from start to end, as ratios to `python -c pass`, which takes its turn too.

    Processor seconds stand beside the clock's: on a busy machine they tell more.

    Example: hunyuan bench startup --rounds 10 --checkpoint runs/first --format json
    """
    from analyses.bench.startup import startup_table

    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    for arguments in (["--help"], ["kv-cache"], ["params"]):
        commands[f"hunyuan {arguments[0]}"] = [sys.executable, "-m", "hunyuan_cli", *arguments]
    if checkpoint is not None:
        infer = ["infer", "The", "--checkpoint", str(checkpoint), "--max-new-tokens", "1"]
        commands["hunyuan infer"] = [sys.executable, "-m", "hunyuan_cli", *infer]
    with progress("timing starts", total=rounds * len(commands)) as advance:
        table = startup_table(commands, rounds=rounds, progress=advance)
    emit({"rounds": rounds, "commands": table}, format=format, output=output)


@app.command("report")
def report(runs: BenchRuns, format: Format = "table", output: Output = None) -> None:
    """Put runs that were written with --format json side by side: each contender's figures, with the card.

    Example: hunyuan bench report train.json layer.json --format csv
    """
    from analyses.bench.report import read_runs, report_table

    emit(report_table(read_runs(runs)), format=format, output=output)
