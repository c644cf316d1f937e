"""Which layout trains a model on so many GPUs, with the memory of a rank, the bytes it sends and the time of a step.

    layout_plan(shape, layout, ...)       one layout, every term of it
    choose_layout(shape, devices, ...)    of all layouts that fit, the one with the most tokens a second

A plan, not a run: the time is counted FLOPs by measured rates and counted bytes by the links' data sheets (speeds.py), with
balanced routing. Left out: norms, rotations and the optimizer, kernels of small sizes, waiting for the slowest rank.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from analyses.devices import DEVICES
from analyses.planning.speeds import DENSE, LINKS, MEASURED_ON, MIXTURE, SCORES, Links, Rate, nearest
from model.config.shape import ModelShape
from model.counts import flops_by_component
from model.errors import ConfigError
from model.memory import Precision, TrainingMemory, training_memory
from model.parallel.layout import Layout, divisors
from model.parallel.traffic import Exchange, traffic

ROOM = 0.9  # of a GPU's memory: the rest is the driver's, NCCL's, and lost between blocks of the allocator
PLAN_NOTE = (
    "a plan, not a run: counted FLOPs at measured rates, counted bytes at the links' data sheets, balanced routing"
)
MICRO_TOKENS = 16_384  # of a micro-batch on one rank, where its sequences are short: products are efficient then
MOST_CONTEXT_PARALLEL = 64


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step of one rank is made of besides the layout."""

    context: int  # tokens of a sequence
    batch: int = 1  # sequences of a micro-batch
    recompute: bool = False
    precision: Precision = "bfloat16"
    moments: Precision = "float32"
    micro_batches: int = 1  # of a rank


def layout_plan(shape: ModelShape, layout: Layout, step: Step, gpu: str | None) -> dict[str, Any]:
    """The document of one layout; what needs a GPU's speed or memory is None without one, or without its links."""
    memory = _memory(shape, layout, step.context, step.batch, step.precision, step.moments)
    needed = memory.total_recomputed if step.recompute else memory.total
    links = LINKS.get(gpu or "")
    exchanges = traffic(
        shape,
        layout,
        batch=step.batch,
        context=step.context,
        precision=step.precision,
        recompute=step.recompute,
        micro_batches=step.micro_batches,
    )
    sent = [_sent(exchange, links) for exchange in exchanges]
    computed = _computed(shape, layout, step, gpu) if gpu and DEVICES[gpu].peak_flops else []
    tokens = layout.data_parallel * step.batch * step.context * step.micro_batches
    plan = {
        "devices": layout.processes,
        "data_parallel": layout.data_parallel,
        "expert_parallel": layout.expert_parallel,
        "context_parallel": layout.context_parallel,
        "shard": layout.shard,
        "recompute": step.recompute,
        "context": step.context,
        "micro_batch_size": step.batch,
        "micro_batches": step.micro_batches,
        "tokens_per_step": tokens,
        "gpu": gpu,
        "memory_bytes": needed,
        "fits": None if gpu is None else needed <= ROOM * DEVICES[gpu].memory,
        "sent_bytes": sum(row["bytes"] for row in sent),
        "sent": sent,
        "computed": computed,
    }
    return plan | _times(sent, computed, tokens, layout.processes, gpu) | {"note": PLAN_NOTE}


@cache
def _memory(
    shape: ModelShape, layout: Layout, context: int, batch: int, precision: Precision, moments: Precision
) -> TrainingMemory:
    return training_memory(shape, batch=batch, context=context, precision=precision, moments=moments, layout=layout)


def _times(
    sent: list[dict[str, Any]], computed: list[dict[str, Any]], tokens: int, devices: int, gpu: str | None
) -> Any:
    """Seconds of a step: weights and gradients travel while products are made; for rows, keys and values those wait."""
    names = "compute_seconds waiting_seconds overlapped_seconds step_seconds step_seconds_without_overlap"
    if not computed or any(row["seconds"] is None for row in sent):
        return dict.fromkeys([*names.split(), "tokens_per_second", "mfu"])
    compute = sum(row["seconds"] for row in computed)
    overlapped = sum(row["seconds"] for row in sent if row["overlaps"])
    waiting = sum(row["seconds"] for row in sent if not row["overlaps"])
    seconds = max(compute, overlapped) + waiting
    useful = sum(row["flops"] for row in computed if row["part"] != "recomputation")
    found = compute, waiting, overlapped, seconds, compute + overlapped + waiting
    peak = DEVICES[gpu or ""].peak_flops or 0.0
    return dict(zip(names.split(), found, strict=True)) | {
        "tokens_per_second": tokens / seconds,
        "mfu": useful / seconds / peak,
    }


def _sent(exchange: Exchange, links: Links | None) -> dict[str, Any]:
    row = {
        "exchange": exchange.name,
        "collective": exchange.collective,
        "ranks": exchange.ranks,
        "bytes": exchange.bytes,
        "overlaps": exchange.overlaps,
        "rule": exchange.rule,
    }
    return row | ({"seconds": None, "bytes_per_second": None} if links is None else _seconds(exchange, links))


def _seconds(exchange: Exchange, links: Links) -> dict[str, float]:
    """Ranks of one machine come one after the other in a ring, so that its links outside carry each byte once for all of them.

    Rows to experts go to each rank by itself.
    """
    n = exchange.ranks
    here = min(n, max(1, links.machine // exchange.stride))  # ranks of the group in one machine
    if exchange.collective == "all-to-all":
        out, within = (n - here) / (n - 1), (here - 1) / (n - 1)
        seconds = max(exchange.bytes * out / links.outside, exchange.bytes * within / links.inside)
    else:
        machines = -(-n // here)
        whole = exchange.bytes * n / (n - 1)
        inside = exchange.bytes / links.inside if here > 1 else 0.0
        seconds = max(inside, whole * (machines - 1) / machines / (here * links.outside))
    return {"seconds": seconds, "bytes_per_second": exchange.bytes / seconds}


def _computed(shape: ModelShape, layout: Layout, step: Step, gpu: str) -> list[dict[str, Any]]:
    """FLOPs of one rank by their rates: forward and backward are three times forward, recomputation one time more.

    Scores are counted for the causal half, which is what kernels compute and what their rate was measured for.
    """
    forward = flops_by_component(shape, step.context)
    tokens = step.batch * step.context * step.micro_batches // layout.context_parallel
    mixture = any(layer.feed_forward.num_experts for layer in shape.layers)
    block, dense = nearest(MIXTURE if mixture else DENSE, shape.hidden_size), nearest(DENSE, shape.hidden_size)
    parts = {
        "projections of attention": (forward["attention"], dense),
        "scores of attention": (forward["scores"] / 2, SCORES),
        "shared and routed experts" if mixture else "feed-forward": (
            forward["shared"] + forward["routed"] + forward["router"],
            block,
        ),
    }
    scale = (DEVICES[gpu].peak_flops or 0.0) / (DEVICES[MEASURED_ON].peak_flops or 1.0)

    def row(part: str, flops: float, seconds: float, source: str) -> dict[str, Any]:
        return {
            "part": part,
            "flops": flops,
            "flops_per_second": flops / seconds,
            "seconds": seconds,
            "source": source,
        }

    def one(part: str, flops: float, rate: Rate) -> dict[str, Any]:
        return row(part, 3 * tokens * flops, 3 * tokens * flops / (rate.flops_per_second * scale), rate.source)

    rows = [one(part, flops, rate) for part, (flops, rate) in parts.items()]
    if step.recompute:
        flops, seconds = (sum(done[key] for done in rows) / 3 for key in ("flops", "seconds"))
        rows.append(row("recomputation", flops, seconds, "the blocks' forward pass once more, at their rates"))
    return [*rows, one("head", forward["head"], dense)]


# --- the choice -------------------------------------------------------------------------------------------------------


def choose_layout(
    shape: ModelShape,
    devices: int,
    gpu: str,
    step: Step,
    *,
    expert_parallel: int | None = None,
    context_parallel: int | None = None,
    sequences: int | None = None,
    batches: tuple[int, ...] | None = None,
) -> dict[str, Any] | None:
    """The plan with the most tokens a second of those that fit, or where links are unknown with the least bytes sent a token.

    What is given is kept. `sequences` are those of a step over all devices, and None comes back where these cannot share them
    out evenly; without them a rank has one micro-batch. Where nothing fits, the plan that needs the least memory, with `fits`
    False. ConfigError where the devices cannot share out the model.
    """
    found: list[tuple[int, Layout, Step]] = []  # with the bytes that each needs
    problems = []
    experts, contexts = _expert_sizes(shape, devices, expert_parallel), _context_sizes(devices, step, context_parallel)
    for parallel, parts in product(experts, contexts):
        try:
            layout = Layout(processes=devices, expert_parallel=parallel, context_parallel=parts)
            for batch in batches or _batches(step.context // parts):
                turns = 1 if sequences is None else sequences // (layout.data_parallel * batch)
                if sequences is None or turns * layout.data_parallel * batch == sequences:
                    chosen = replace(step, batch=batch, micro_batches=turns)
                    memory = _memory(shape, layout, step.context, batch, step.precision, step.moments)
                    found.append((memory.total, layout, replace(chosen, recompute=False)))
                    found.append((memory.total_recomputed, layout, replace(chosen, recompute=True)))
        except ConfigError as error:
            problems.append(error)
    if not found:
        if problems:
            raise problems[0]
        return None
    room = ROOM * DEVICES[gpu].memory
    plans = [layout_plan(shape, layout, chosen, gpu) for needed, layout, chosen in found if needed <= room]
    if not plans:
        _, layout, chosen = min(found, key=lambda one: one[0])
        return layout_plan(shape, layout, chosen, gpu)
    return max(plans, key=_worth)


def _worth(plan: dict[str, Any]) -> tuple[float, int]:
    """Tokens a second, by the mean of the times with and without overlap, for a run lies between; or bytes sent a token."""
    tokens = plan["tokens_per_step"]
    if plan["step_seconds"] is None:
        return -plan["sent_bytes"] * plan["devices"] / tokens, -plan["memory_bytes"]
    return tokens / (plan["step_seconds"] + plan["step_seconds_without_overlap"]), -plan["memory_bytes"]


def most_expert_parallel(shape: ModelShape, devices: int) -> int:
    """The largest size that divides the devices and the experts of every layer."""
    return math.gcd(devices, *({layer.feed_forward.num_experts for layer in shape.layers} - {0} or {1}))


def _expert_sizes(shape: ModelShape, devices: int, given: int | None) -> list[int]:
    if given is not None:
        return [given]
    return divisors(most_expert_parallel(shape, devices))


def _context_sizes(devices: int, step: Step, given: int | None) -> list[int]:
    if given is not None:
        return [given]
    sizes = [2**power for power in range(MOST_CONTEXT_PARALLEL.bit_length())]
    return [size for size in sizes if devices % size == 0 and (size == 1 or step.context % (2 * size) == 0)]


def _batches(tokens: int) -> Iterator[int]:
    """Sequences of a micro-batch: one, or more while their tokens on a rank are at most MICRO_TOKENS."""
    batch = 1
    yield batch
    while 2 * batch * tokens <= MICRO_TOKENS:
        batch *= 2
        yield batch


def nothing_fits(plan: dict[str, Any], model: str) -> str:
    """One sentence on a plan that does not fit."""
    gpu, needed = plan["gpu"], plan["memory_bytes"]
    have = ROOM * DEVICES[gpu].memory
    return (
        f"{model} at {plan['context']:,} tokens fits no layout of {plan['devices']:,} {gpu}: the least is "
        f"{needed / 1e9:,.0f} GB a rank (expert-parallel {plan['expert_parallel']}, context-parallel "
        f"{plan['context_parallel']}, recomputed) of {have / 1e9:,.0f} GB, {ROOM:.0%} of its memory: take more --devices or a "
        "shorter --context"
    )
