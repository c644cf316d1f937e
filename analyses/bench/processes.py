"""The training step on several processes against the step on one: tokens per second, and what travels between them.

Weak scaling: every process has a micro-batch of the size that the one process has, so that N processes are ideally N times as
fast. `of_ideal` is the share of that, `speedup` the ratio itself, both against the one process of the same round.

    1 process        the step of `hunyuan train` alone
    apart            every process takes that step, all at once, and none sends anything: what the machine itself allows
    replicate        every process has the weights, gradients are summed
    fsdp             weights shared out, gathered block by block; kept for the backward pass where a GPU has room
    ep               experts shared out, their rows exchanged; the rest replicated
    ep x fsdp        experts shared out, the rest as in fsdp
    fsdp regathered  on a GPU: gathered again for the backward pass, as where there is no room

sent_bytes counts in closed form what a process sends in a step (`sent_bytes` below); bus_seconds is the time that this takes at
the bandwidth of the same run, measured on a sum of 256 MB. On a GPU a profile of two more steps says what of NCCL's time is
overlapped (overlap.py). A contender that fails has a row that says why, and the others go on.
"""

import contextlib
import itertools
import multiprocessing
import statistics
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analyses.bench.overlap import Overlap, profiled
from analyses.bench.training import Workload
from analyses.bench.worker import peak_memory, seconds_of
from model.config.hunyuan import HunyuanConfig
from model.errors import HunyuanError
from model.parallel.layout import Layout
from model.parallel.pieces import is_replicated

ALONE, APART, REGATHERED = "1 process", "apart", "fsdp regathered"
PROBE = 1 << 28  # bytes of the sum that measures the bandwidth
PROFILED = 2  # steps


class Answer(NamedTuple):
    """What a process says of the steps that it was asked for."""

    seconds: list[float]
    memory: int  # peak bytes
    bandwidth: float  # bytes a second of the bus
    loss: float  # of the last step
    overlap: Overlap | None  # of steps after those, on a GPU


def layouts(processes: int, config: HunyuanConfig, *, on_gpu: bool = False) -> dict[str, Layout]:
    """The contenders on so many processes."""
    found = {APART: Layout(), "replicate": Layout(processes=processes, shard=1), "fsdp": Layout(processes=processes)}
    if not config.is_dense and config.num_experts % processes == 0:
        found["ep"] = Layout(processes=processes, expert_parallel=processes, shard=1)
        found["ep x fsdp"] = Layout(processes=processes, expert_parallel=processes)
    return found | ({REGATHERED: Layout(processes=processes)} if on_gpu else {})


def processes_table(
    work: Workload,
    processes: int,
    *,
    rounds: int = 3,
    steps: int = 3,
    only: Collection[str] = (),
    progress: Callable[[int], None] = lambda done: None,
    note: Callable[[dict[str, Any]], None] = lambda row: None,
) -> pd.DataFrame:
    """One row a contender, which follow one another: medians over rounds of tokens/s, with speedup, memory and bytes sent.

    `only` names those that take part; that of one process always does. `note` is told every row as soon as it is there.
    """
    rows: list[dict[str, Any]] = []
    for name, layout in {ALONE: Layout(), **layouts(processes, work.config, on_gpu=work.on_gpu)}.items():
        if only and name not in (ALONE, *only):
            continue
        members = processes if name == APART else layout.processes
        row: dict[str, Any] = {"contender": name, "processes": members}
        try:
            with ranks(work, layout, members, keep_gathered=False if name == REGATHERED else None) as ask:
                answers = []
                for turn in range(rounds):
                    answers.append(ask(steps, profile=work.on_gpu and turn == rounds - 1))
                    progress(1)
        except (HunyuanError, RuntimeError) as error:
            rows.append(row | {"failed": str(error)})
            note(rows[-1])
            continue
        speeds = [members * work.tokens / statistics.median(answer.seconds) for answer in answers]
        last = answers[-1]
        row |= {"tokens_per_second": statistics.median(speeds), "least": min(speeds), "most": max(speeds)}
        alone = rows[0].get("tokens_per_second") if rows else row["tokens_per_second"]
        speedup = row["tokens_per_second"] / alone if alone else None
        row |= {"speedup": speedup, "of_ideal": speedup and speedup / members}
        row |= {"peak_memory_bytes": max(answer.memory for answer in answers)}
        row["sent_bytes"] = sent_bytes(work, layout, regathered=name == REGATHERED or not work.on_gpu)
        row["bus_bytes_per_second"] = last.bandwidth
        row["bus_seconds"] = row["sent_bytes"] / last.bandwidth if last.bandwidth else 0.0
        row["step_seconds"] = members * work.tokens / row["tokens_per_second"]
        row["loss"] = last.loss
        rows.append(row | ({} if last.overlap is None else last.overlap._asdict()))
        note(rows[-1])
    return pd.DataFrame(rows)


def sent_bytes(work: Workload, layout: Layout, *, regathered: bool = True) -> int:
    """What a process sends in one step of one micro-batch, in messages that go round in rings, at balanced routing.

    Of a group of n, gathering or scattering a tensor sends (n - 1) / n of it, summing it twice that. Weights are gathered for
    the forward and where they are `regathered` again for the backward pass, but for those outside of the blocks; rows of
    experts go four ways.
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
        gathers = 2 if regathered and name.startswith("layers.") else 1
        total += size * (gathers + 1) * _part(shard) + 2 * size / shard * _part(replicate)
    row = work.config.hidden_size * (2 if work.on_gpu else 4)
    for layer in range(0 if work.config.is_dense else work.config.num_hidden_layers):
        total += 4 * work.tokens * work.config.topk(layer) * row * _part(layout.expert_parallel)
    return round(total)


def _part(processes: int) -> float:
    return (processes - 1) / processes


# --- the processes -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ranks(
    work: Workload, layout: Layout, members: int, *, keep_gathered: bool | None = None
) -> Iterator[Callable[..., Answer]]:
    """Processes that take steps together, or each by itself where the layout is that of one.

    Yields the function that asks them for some: the seconds are those of the slowest process.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ends, processes = [], []
        for rank in range(members):
            here, there = context.Pipe()
            given = (rank, work, layout, keep_gathered, str(Path(folder) / "meeting"), there)
            processes.append(context.Process(target=_serve, args=given, daemon=True))
            processes[-1].start()
            there.close()
            ends.append(here)

        def ask(steps: int, *, profile: bool = False) -> Answer:
            for end in ends:
                end.send((steps, profile))
            answers: list[Answer] = []
            for rank, end in enumerate(ends):
                try:
                    answer = end.recv()
                except (EOFError, ConnectionError) as error:
                    raise RuntimeError(f"process {rank} of {members} ended early") from error
                if isinstance(answer, Exception):
                    raise answer
                answers.append(answer)
            slowest = max(answers, key=lambda answer: statistics.median(answer.seconds))
            return slowest._replace(memory=max(answer.memory for answer in answers))

        try:
            ask(3)  # to warm up
            yield ask
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()


def _serve(rank: int, work: Workload, layout: Layout, keep_gathered: bool | None, meeting: str, pipe: Any) -> None:
    import os

    import torch
    import torch.distributed as dist

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
        step = _step(rank, work, layout, device, keep_gathered)
        last: list[Any] = [None]

        def run() -> None:
            last[0] = step()

        while True:
            steps, profile = pipe.recv()
            if work.on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            seconds = seconds_of(run, steps, device)
            memory, loss = peak_memory(device), last[0].result().loss
            overlap = profiled(run, PROFILED, device) if profile else None
            pipe.send(Answer(seconds, memory, _bandwidth(layout, device), loss, overlap))
    except EOFError:  # the asker is done
        return
    except Exception as error:
        where = f"process {rank} of {layout.processes} cannot run"
        pipe.send(HunyuanError(f"{where} ({type(error).__name__}: {' '.join(str(error).split())[:600]})"))


def _step(
    rank: int, work: Workload, layout: Layout, device: Any, keep_gathered: bool | None = None
) -> Callable[[], Any]:
    """The step of `hunyuan train` on micro-batches of the workload's size, one for each process, the same in every step."""
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
    training = TrainingConfig(
        **sizes, global_batch_tokens=layout.processes * work.tokens, graph=False, learning_rate=3e-4
    )
    shards = None
    if layout.processes == 1:
        with device:
            net = Hunyuan(work.config, torch.Generator(device).manual_seed(0))
        prepare(net, training, device)
        optimizer = build_optimizer(net, work.config, training)
    else:
        shards, optimizer = shared_model(
            work.config, training, ranks_of(layout, rank, device), keep_gathered=keep_gathered
        )
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

    return lambda: step(next(numbers), training.learning_rate)


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
