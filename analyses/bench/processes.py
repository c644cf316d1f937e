"""The training step on several processes against the step on one: tokens per second, and what travels between them.

Weak scaling: every process has a micro-batch of the size that the one process has, so that N processes are ideally N times as
fast. `of_ideal` is the share of that, `speedup` the ratio itself, both against the one process of the same round.

    1 process       the step of `hunyuan train` alone
    replicate       every process has the weights, gradients are summed
    fsdp            weights shared out, gathered block by block
    ep              experts shared out, their rows exchanged; the rest replicated
    ep x fsdp       experts shared out, the rest as in fsdp

sent_bytes counts in closed form what a process sends in a step (`sent_bytes` below); bus_seconds is the time that this takes at
the bandwidth of the same run, measured on a sum of 256 MB. What is overlapped with computation is not waited for.
"""

import contextlib
import itertools
import multiprocessing
import statistics
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.bench.training import Workload
from analyses.bench.worker import peak_memory, seconds_of
from model.config.hunyuan import HunyuanConfig
from model.parallel.layout import Layout
from model.parallel.pieces import is_replicated

ALONE = "1 process"
PROBE = 1 << 28  # bytes of the sum that measures the bandwidth


def layouts(processes: int, config: HunyuanConfig) -> dict[str, Layout]:
    """The contenders on so many processes."""
    found = {"replicate": Layout(processes=processes, shard=1), "fsdp": Layout(processes=processes)}
    if not config.is_dense and config.num_experts % processes == 0:
        found["ep"] = Layout(processes=processes, expert_parallel=processes, shard=1)
        found["ep x fsdp"] = Layout(processes=processes, expert_parallel=processes)
    return found


def processes_table(
    work: Workload,
    processes: int,
    *,
    rounds: int = 3,
    steps: int = 3,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a contender, which follow one another: medians over rounds of tokens/s, with speedup, memory and bytes sent."""
    rows: list[dict[str, Any]] = []
    for name, layout in {ALONE: Layout(), **layouts(processes, work.config)}.items():
        with ranks(work, layout) as ask:
            answers = []
            for _ in range(rounds):
                answers.append(ask(steps))
                progress(1)
        speeds = [layout.processes * work.tokens / statistics.median(times) for times, _, _ in answers]
        row: dict[str, Any] = {"contender": name, "processes": layout.processes}
        row |= {"tokens_per_second": statistics.median(speeds), "least": min(speeds), "most": max(speeds)}
        alone = rows[0]["tokens_per_second"] if rows else row["tokens_per_second"]
        row |= {"speedup": row["tokens_per_second"] / alone}
        row |= {
            "of_ideal": row["speedup"] / layout.processes,
            "peak_memory_bytes": max(memory for _, memory, _ in answers),
        }
        row["sent_bytes"] = sent_bytes(work, layout)
        bandwidth = answers[-1][2]
        row |= {"bus_bytes_per_second": bandwidth, "bus_seconds": row["sent_bytes"] / bandwidth if bandwidth else 0.0}
        row["step_seconds"] = layout.processes * work.tokens / row["tokens_per_second"]
        rows.append(row)
    return pd.DataFrame(rows)


def sent_bytes(work: Workload, layout: Layout) -> int:
    """What a process sends in one step of one micro-batch, in messages that go round in rings, at balanced routing.

    Of a group of n, gathering or scattering a tensor sends (n - 1) / n of it, summing it twice that. Weights are gathered for
    the forward and again for the backward pass, but for those outside of the blocks; rows of experts go four ways.
    """
    import torch

    from model.checkpoint.run import WithoutDrawing  # these load torch
    from model.training.split_adamw import is_split
    from model.transformer import Hunyuan

    with torch.device("meta"), WithoutDrawing():
        net = Hunyuan(work.config)
    total = 0.0
    for name, parameter in net.named_parameters():
        value = 2 if work.on_gpu and is_split(name, parameter) else 4
        size = parameter.numel() * value
        if is_replicated(name, tuple(parameter.shape)):
            total += 2 * size * _part(layout.processes)
            continue
        shard, replicate = layout.shard, layout.replicate
        if ".experts." in name:
            size //= layout.expert_parallel
            shard, replicate = layout.expert_shard, layout.expert_replicate
        gathers = 2 if name.startswith("layers.") else 1
        total += size * (gathers + 1) * _part(shard) + 2 * size / shard * _part(replicate)
    row = work.config.hidden_size * (2 if work.on_gpu else 4)
    for layer in range(0 if work.config.is_dense else work.config.num_hidden_layers):
        total += 4 * work.tokens * work.config.topk(layer) * row * _part(layout.expert_parallel)
    return round(total)


def _part(processes: int) -> float:
    return (processes - 1) / processes


# --- the processes -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ranks(work: Workload, layout: Layout) -> Iterator[Callable[[int], tuple[list[float], int, float]]]:
    """Processes that take steps together; yields the function that asks for some: seconds, peak bytes, bytes/s of the bus."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ends, members = [], []
        for rank in range(layout.processes):
            here, there = context.Pipe()
            given = (rank, work, layout, str(Path(folder) / "meeting"), there)
            members.append(context.Process(target=_serve, args=given, daemon=True))
            members[-1].start()
            there.close()
            ends.append(here)

        def ask(steps: int) -> tuple[list[float], int, float]:
            for end in ends:
                end.send(steps)
            answers = []
            for rank, end in enumerate(ends):
                try:
                    answers.append(end.recv())
                except (EOFError, ConnectionError) as error:
                    raise RuntimeError(f"process {rank} of {layout.processes} ended early") from error
                if isinstance(answers[-1], Exception):
                    raise answers[-1]
            seconds, _, bandwidth = answers[0]
            return seconds, max(memory for _, memory, _ in answers), bandwidth

        try:
            ask(3)  # to warm up
            yield ask
        finally:
            for member in members:
                member.terminate()
            for member in members:
                member.join()


def _serve(rank: int, work: Workload, layout: Layout, meeting: str, pipe: Any) -> None:
    import os

    import torch
    import torch.distributed as dist

    from model.errors import HunyuanError

    torch.set_num_threads(work.threads)
    os.environ["LOCAL_RANK"] = str(rank)
    device = torch.device("cuda", rank) if work.on_gpu else torch.device("cpu")
    try:
        if work.on_gpu:
            torch.cuda.set_device(device)
        if layout.processes > 1:
            store = dist.FileStore(meeting, layout.processes)
            backend = "cpu:gloo,cuda:nccl" if work.on_gpu else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=layout.processes)
        step = _step(rank, work, layout, device)
        while True:
            steps = pipe.recv()
            if work.on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            seconds = seconds_of(step, steps, device)
            pipe.send((seconds, peak_memory(device), _bandwidth(layout, device)))
    except EOFError:  # the asker is done
        return
    except Exception as error:
        pipe.send(
            HunyuanError(f"process {rank} of {layout.processes} cannot run ({' '.join(str(error).split())[:300]})")
        )


def _step(rank: int, work: Workload, layout: Layout, device: Any) -> Callable[[], None]:
    """The step of `hunyuan train` on micro-batches of the workload's size, one for each process."""
    import torch

    from model.device import compute_dtype, keep_freed_memory
    from model.parallel.shard import shared_model
    from model.parallel.start import ranks_of
    from model.training.config import TrainingConfig
    from model.training.optimizer import build_optimizer
    from model.training.prepare import prepare
    from model.training.settings import RunSettings
    from model.training.split_adamw import SplitAdamW
    from model.training.step import TrainStep
    from model.training.task import SameBatches
    from model.transformer import Hunyuan

    keep_freed_memory(device)
    generator = torch.Generator().manual_seed(0)
    shape = (layout.processes, work.batch, work.sequence_length + 1)
    ids = torch.randint(work.config.vocab_size, shape, generator=generator).to(device)
    sizes: dict[str, Any] = {"sequence_length": work.sequence_length, "micro_batch_size": work.batch}
    training = TrainingConfig(**sizes, global_batch_tokens=layout.processes * work.tokens, graph=False)
    shards = None
    if layout.processes == 1:
        with device:
            net = Hunyuan(work.config, torch.Generator(device).manual_seed(0))
        prepare(net, training, device)
        optimizer = build_optimizer(net, work.config, training)
    else:
        shards, optimizer = shared_model(work.config, training, ranks_of(layout, rank, device))
        net = shards.net
        std = work.config.initializer_range
        for name, piece in shards.pieces.items():
            value = torch.ones(piece.shape, device=device)
            if len(piece.shape) > 1:  # the same on all that hold the same
                drawn = torch.Generator(device).manual_seed(zlib.crc32(f"{name} {piece.start}".encode()))
                value.normal_(0.0, std, generator=drawn)
            shards.fill([(name, value)], optimizer.state)
        if isinstance(optimizer, SplitAdamW):
            optimizer.begin()
    settings, numbers = RunSettings(model=work.config, training=training), itertools.count()
    dtype = compute_dtype(training.precision, device)
    step = TrainStep(net, optimizer, settings, SameBatches(ids), device, dtype, shards=shards)

    def run() -> None:
        step(next(numbers), training.learning_rate)

    return run


def _bandwidth(layout: Layout, device: Any) -> float:
    """Bytes a second that a process sends while all sum 256 MB; 0 for one process."""
    import time

    import torch
    import torch.distributed as dist

    from model.device import synchronize

    if layout.processes == 1:
        return 0.0
    tensor, best = torch.zeros(PROBE // 4, device=device), 0.0
    for _ in range(4):
        synchronize(device)
        start = time.perf_counter()
        dist.all_reduce(tensor)
        synchronize(device)
        best = max(best, 2 * PROBE * _part(layout.processes) / (time.perf_counter() - start))
    return best
