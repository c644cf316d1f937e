"""Decoding speed against the memory's bandwidth and against a peer, in one run.

A step of decoding reads every weight that it uses once, so bandwidth over bytes is a limit that no program passes. As in
analyses/bench/worker.py every contender lives in a process of its own and they take turns; ratios are medians over rounds.

    memory bandwidth   bytes per second of reading a tensor far larger than the caches; on a GPU of copying, both ways counted
    experts touched    of a batch: how many experts of a layer a step really uses, counted once
    hunyuan            this project's generation, in the precision named; int8 is bfloat16 with weights of 8 bits
    transformers       generate() of HunYuanMoEV1 at the same shape

All generate greedily from the same prompts. The tokens per second of a turn are those after the first token, over the time
since it: the prompt's part is left out. On a GPU contenders may not fit beside each other: there each has its rounds alone with
the limit.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from analyses.bench.decoders import LIMIT, TOUCHED, DecodeWork, build
from analyses.bench.training import SHAPE
from analyses.bench.worker import worker
from model.config.hunyuan import HunyuanConfig
from model.config.storage import STORAGE, Storage
from model.counts import kv_cache_bytes, parameter_counts

# Weights that fit a processor's last cache, and weights that do not: 273M activated, 1.1 GB in float32.
SHAPES = {
    "small": SHAPE,
    "large": HunyuanConfig.from_name("base", num_experts=4, cla_share_factor=1),
}
# 14.4B parameters, 1.98B of them activated: 4.0 GB a token in bfloat16.
LARGE_ON_GPU = HunyuanConfig(
    vocab_size=32_768,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=16,
    max_position_embeddings=262_144,
)
PRECISIONS = {"float32": STORAGE["fp32"], "bfloat16": STORAGE["bf16"]}
Ask = Callable[[int], tuple[list[float], int]]  # of a worker (analyses/bench/worker.py)
INT8 = Storage("int8", 8)  # its scales, one a channel, are 4 bytes of thousands


def shape_of_name(name: str, device: str) -> HunyuanConfig:
    """The configuration of a shape: `large` is larger on a GPU."""
    return LARGE_ON_GPU if name == "large" and device.startswith("cuda") else SHAPES[name]


def decode_bytes(
    config: HunyuanConfig,
    context: int,
    storage: Storage,
    *,
    batch: int = 1,
    experts: float | None = None,
    weights: Storage | None = None,
) -> float:
    """Bytes that one step must read: the weights it uses, the head and not the embedding, and every sequence's cache.

    `experts` of a layer are used, by default a token's. `weights` is the format of linear maps and experts, else `storage`.
    """
    counts = parameter_counts(config)
    routed = counts["routed"]
    used = routed.activated if experts is None else routed.total / config.num_experts * experts
    maps = counts["attention"].activated + counts["shared"].activated + used
    others = sum(counts[name].activated for name in ("embedding", "router", "norms", "head"))
    others -= 0 if config.tie_word_embeddings else counts["embedding"].activated
    read = maps * (weights or storage).bits / 8 + others * storage.bits / 8
    return read + kv_cache_bytes(config, tokens=context, batch=batch, storage=storage)


def contenders(work: DecodeWork, *, peer: bool, compiled: bool, int8: bool = False) -> list[str]:
    """The names of those that take part: of the peer's implementations of experts the two fastest, at `large` the faster.

    The compiled step is for a batch of one on a processor, and needs a C++ compiler; a GPU's steps are recorded. `large` on a
    GPU is for bfloat16.
    """
    on_gpu = work.device != "cpu"
    precisions = ["bfloat16"] if on_gpu and work.shape == "large" else list(PRECISIONS)
    precisions += ["int8"] if int8 else []
    names = [LIMIT, *([TOUCHED] if work.batch > 1 and not work.config.is_dense else [])]
    names += [f"hunyuan {precision}" for precision in precisions]
    if compiled and work.batch == 1 and not on_gpu:
        names += [f"hunyuan compiled {precision}" for precision in precisions]
    peers = ["grouped_mm", "eager"] if work.shape == "small" else ["grouped_mm"]
    return names + [f"transformers {experts} {precisions[0]}" for experts in peers if peer]


def turns(names: list[str], device: str, rounds: int) -> int:
    """How many turns a workload takes in all, for its progress."""
    return sum(rounds * len(group) for group in _groups(names, device)) + names.count(TOUCHED)


def _groups(names: list[str], device: str) -> list[list[str]]:
    """Which contenders live at a time: on a GPU one and the limit."""
    timed = [name for name in names if name not in (LIMIT, TOUCHED)]
    return [[LIMIT, *timed]] if device == "cpu" else [[LIMIT, name] for name in timed]


def decode_table(
    works: list[DecodeWork],
    *,
    rounds: int = 5,
    peer: bool = False,
    compiled: bool = False,
    int8: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a workload and contender: tokens/s (median, least, most), share of the bandwidth's limit, ratio to the peer."""
    rows = []
    with limit_worker(works[0].device) as limit:
        for work in works:
            names = contenders(work, peer=peer, compiled=compiled, int8=int8)
            rates: dict[str, list[float]] = {name: [] for name in names}
            limits: dict[str, list[float]] = {}
            memory: dict[str, int] = {}
            if TOUCHED in names:
                with worker(TOUCHED, work, build) as ask:
                    seconds, memory[TOUCHED] = ask(1)
                rates[TOUCHED].append(1 / seconds[0])
                progress(1)
            for group in _groups(names, work.device):
                found, memory_of = take_turns(group, work, rounds, progress, limit)
                limits |= dict.fromkeys(group, found[LIMIT])
                memory |= memory_of
                for name, values in found.items():
                    rates[name] += values
            rows += _rows(work, rates, memory, limits)
    return pd.DataFrame(rows)


@contextlib.contextmanager
def limit_worker(device: str) -> Iterator[Ask | None]:
    """On a GPU, whose processes take seconds to start, one for the limit of all workloads; on a processor each has its own."""
    if device == "cpu":
        yield None
        return
    with worker(LIMIT, DecodeWork(device=device), build) as ask:
        yield ask


def take_turns(
    names: list[str], work: DecodeWork, rounds: int, progress: Callable[[int], None], limit: Ask | None
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """The rates of every round and the peak memory of contenders that live beside each other."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    with contextlib.ExitStack() as stack:
        workers = {
            name: limit if name == LIMIT and limit else stack.enter_context(worker(name, work, build)) for name in names
        }
        for _ in range(rounds):
            for name, ask in workers.items():
                seconds, memory[name] = ask(1)
                rates[name].append(1 / seconds[0])
                progress(1)
    return rates, memory


def _rows(
    work: DecodeWork, rates: dict[str, list[float]], memory: dict[str, int], limits: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """rates: steps per second of each round, of the limit bytes per second; limits: those of the rounds of each contender."""
    peers = [name for name in rates if name.startswith("transformers")]
    best = max(peers, key=lambda name: statistics.median(rates[name]), default=None)
    touched = statistics.median(rates[TOUCHED]) if TOUCHED in rates else None
    rows = []
    for name, values in rates.items():
        row: dict[str, Any] = {"shape": work.shape, "batch": work.batch, "contender": name}
        if name == LIMIT:
            rows.append(row | {"bytes_per_second": statistics.median(values)})
            continue
        if name == TOUCHED:
            rows.append(row | {"experts_per_layer": touched})
            continue
        speeds = [rate * work.batch for rate in values]
        row |= {"tokens_per_second": statistics.median(speeds), "least": min(speeds), "most": max(speeds)}
        context = work.prompt_tokens + work.new_tokens // 2  # of the mean token
        precision = name.split()[-1]
        storage, weights = (PRECISIONS["bfloat16"], INT8) if precision == "int8" else (PRECISIONS[precision], None)
        read = decode_bytes(work.config, context, storage, batch=work.batch, experts=touched, weights=weights)
        row |= {"bytes_per_step": round(read), "of_bandwidth": paired([rate * read for rate in values], limits[name])}
        if best is not None and name.startswith("hunyuan"):
            row |= {"of_peer": paired(values, rates[best])}
        rows.append(row | {"peak_memory_bytes": memory[name]})
    return rows


def paired(values: list[float], base: list[float]) -> float:
    """The median over rounds of one rate over another of the same round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))
