"""How long a sweep will take: a few steps measured at its smallest and largest size, the rest interpolated.

estimate() measures in a process, which gives its memory back: python -m MODULE JOB.json OUT.json, of the `module` that it is
given. That calls measure_job; the command line has it, hunyuan_cli/sweep_measure.py.

The speed in FLOP/s and the seconds of an update are taken to be power laws between the two sizes. Cells that share a GPU take
turns on it, so that they slow each other once it has no idle time left; `busy` is the part of a lone cell's time that it has.
An estimate, not a promise: other loads of the machine, compilation and the ray engine's start are not in it.
"""

import heapq
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.sweep.engines import module_process
from model.sweep.plan import Cell
from model.training.settings import RunSettings

MEASURE_SECONDS, GIVE_UP_SECONDS = 10.0, 120.0  # of measuring: in all, about; and at most, the start of torch included
START_SECONDS = 6.0  # of a cell's process: imports, the model, the last checkpoint
MOST_TOKENS = {"cpu": 2048, "cuda": 32_768}  # of a measured micro-batch


@dataclass(frozen=True)
class Speed:
    """What one size does alone on the device."""

    activated: int
    total: int
    flops_per_second: float  # forward and backward of a micro-batch
    update_seconds: float  # of the optimizer
    busy: float  # part of the time in which a GPU computes; 1 on a processor


@dataclass(frozen=True)
class Estimate:
    seconds: dict[str, float]  # of each cell by its id, beside the others
    total_seconds: float  # of all, on their workers


def estimate(
    cells: Sequence[Cell],
    *,
    module: str,
    workers: int,
    threads: int,
    gpus: list[str],
    processors: int,
    processes: int = 1,
) -> Estimate | None:
    """Measures, and schedules the cells on the workers, longest first; None when the measurement failed.

    One process is measured. Of `processes` to a cell each does its part, and what they exchange is not counted.
    """
    if not cells:
        return Estimate({}, 0.0)
    by_size = sorted(cells, key=lambda cell: cell.activated)
    ends = [by_size[0]] if by_size[0].activated == by_size[-1].activated else [by_size[0], by_size[-1]]
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder, "job.json"), Path(folder, "out.json")
        runs = [_one_rank(cell.settings, processes).to_toml() for cell in ends]
        job.write_text(json.dumps({"runs": runs, "threads": threads, "seconds": MEASURE_SECONDS}), encoding="utf-8")
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[0]} if gpus else {}
        process = module_process(module, [str(job), str(out)], Path(folder, "log"), threads, gpu)
        try:
            process.wait(timeout=GIVE_UP_SECONDS)
            speeds = [Speed(**speed) for speed in json.loads(out.read_text(encoding="utf-8"))]
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return None
        finally:
            process.kill()
            process.wait()
    busy = workers * processes
    crowding = busy * threads / processors
    if gpus:
        crowding = max(busy / processors, math.ceil(busy / len(gpus)) * speeds[0].busy)
    alone = {cell.id: seconds_alone(cell, speeds) / processes for cell in cells}
    seconds = {id: each * max(1.0, crowding) + START_SECONDS for id, each in alone.items()}
    return Estimate(seconds, makespan(list(seconds.values()), workers))


def _one_rank(settings: RunSettings, processes: int) -> RunSettings:
    """The settings with which one process computes as each of several does: without a recorded step."""
    if processes == 1:
        return settings
    return replace(settings, training=replace(settings.training, graph=False))


def seconds_alone(cell: Cell, speeds: Sequence[Speed]) -> float:
    """Training and the last evaluation of one cell that has its device to itself."""
    training = cell.settings.training
    rate = _power_law(cell.activated, [(s.activated, s.flops_per_second) for s in speeds])
    update = _power_law(cell.total, [(s.total, s.update_seconds) for s in speeds])
    forward = training.evaluation_tokens * cell.flops_per_token / 3
    return (cell.flops + forward) / rate + training.steps * update


def makespan(seconds: Sequence[float], workers: int) -> float:
    """The time until all are done when each worker takes the longest that is left."""
    free = [0.0] * max(1, workers)
    for duration in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _power_law(x: float, points: Sequence[tuple[float, float]]) -> float:
    """y of x between (and beyond) one or two points, straight in logarithms."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    if x0 == x1:
        return y0
    return float(y0 * (y1 / y0) ** (math.log(x / x0) / math.log(x1 / x0)))


def measure(settings: RunSettings, seconds: float) -> Speed:
    """Times forward and backward of one micro-batch, of no more than MOST_TOKENS, and the update.

    On a GPU a whole step is timed, as a run takes it, recorded where that would be (model/training/graph.py), and the update
    alone, which gives up its gradients.
    """
    import torch

    from model.counts import activated_params, total_params, training_flops_per_token
    from model.device import autocast, compute_dtype, keep_freed_memory, pick_device, synchronize
    from model.moe.place_keys import routing_key
    from model.training.optimizer import build_optimizer
    from model.training.prepare import check_memory
    from model.training.step import TrainStep
    from model.training.task import SameBatch
    from model.transformer import Hunyuan

    config, model = settings.training, settings.model
    device = pick_device(config.device)
    check_memory(model, config, device)
    keep_freed_memory(device)
    net = Hunyuan(model, torch.Generator().manual_seed(0)).to(device)
    optimizer = build_optimizer(net, model, config)
    generator = torch.Generator(device).manual_seed(0)
    dtype = compute_dtype(config.precision, device)
    most = max(1, MOST_TOKENS[device.type] // config.sequence_length)
    shape = (min(config.micro_batch_size, most), config.sequence_length + 1)
    ids = torch.randint(model.vocab_size, shape, generator=generator, device=device)

    task = SameBatch(ids)
    whole = TrainStep(net, optimizer, settings, task, device, dtype)
    on_gpu = device.type == "cuda"

    def gradients() -> None:
        with autocast(device, dtype):
            output = task.forward(net, ids, routing_key(0, device=device))
        assert output.loss is not None and output.aux_loss is not None
        (output.loss + output.aux_loss).backward()

    def step() -> None:
        if on_gpu:
            whole(0, 0.0)
        else:
            gradients()

    def update() -> float:
        if not on_gpu:
            return timed(optimizer.step)
        gradients()
        return _device_seconds(optimizer.step)

    def timed(work: Callable[[], object]) -> float:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - start

    end = time.perf_counter() + seconds
    for _ in range(2 if device.type == "cpu" else 4):  # the first ones choose kernels and fault memory in
        step()
    update_seconds = statistics.median(update() for _ in range(3))
    times = [timed(step)]
    while time.perf_counter() < end and len(times) < 20:
        times.append(timed(step))
    alone = statistics.median(times)
    passes = max(alone - update_seconds, 0.1 * alone) if on_gpu else alone
    tokens = shape[0] * config.sequence_length
    flops = tokens * training_flops_per_token(model, config.sequence_length)
    busy = min(1.0, _device_seconds(step) / alone) if device.type == "cuda" else 1.0
    return Speed(activated_params(model), total_params(model), flops / passes, update_seconds, busy)


def _device_seconds(step: Callable[[], object]) -> float:
    """What a GPU computes for one step, without the gaps in which it waits for the processor.

    A long wait is queued on it first; when that is over, the whole step is queued behind it.
    """
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # cycles, about half a second
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def measure_job(job: Path, out: Path) -> None:
    """Writes the speeds of the settings in `job` to `out`, both JSON; sets the threads of this process."""
    import tomllib

    import torch

    asked: dict[str, Any] = json.loads(job.read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    runs = [RunSettings.from_sections(tomllib.loads(text)) for text in asked["runs"]]
    speeds = [asdict(measure(settings, asked["seconds"] / len(runs) / 2)) for settings in runs]
    out.write_text(json.dumps(speeds), encoding="utf-8")
