"""Decoding speed against the memory's bandwidth and against a peer, in one run.

A token of a batch of one reads every activated weight once, so bandwidth over bytes is a limit that no program passes. As in
analyses/bench/training.py every contender lives in a process of its own and they take turns; ratios are medians over rounds.

    memory bandwidth   bytes per second of reading a tensor far larger than the caches
    hunyuan            this project's generation
    transformers       generate() of HunYuanMoEV1 at the same shape

All generate greedily from the same prompts; the tokens per second of a turn are the new tokens over the whole call, the
prompt's part included.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.bench.training import SHAPE, peer_model
from analyses.bench.worker import Step, worker
from model.config.hunyuan import HunyuanConfig
from model.config.storage import STORAGE, Storage
from model.counts import kv_cache_bytes, parameter_counts

# Weights that fit a processor's last cache, and weights that do not: 273M activated, 1.1 GB in float32.
SHAPES = {
    "small": SHAPE,
    "large": HunyuanConfig.from_name("base", num_experts=4, cla_share_factor=1),
}
LIMIT = "memory bandwidth"
READ_BYTES = 1 << 30
PRECISIONS = {"float32": STORAGE["fp32"], "bfloat16": STORAGE["bf16"]}


@dataclass(frozen=True)
class DecodeWork:
    """What every contender generates in a turn."""

    shape: str = "small"
    config: HunyuanConfig = SHAPE
    batch: int = 1
    prompt_tokens: int = 32
    new_tokens: int = 128
    device: str = "cpu"
    threads: int = 2


def decode_bytes(config: HunyuanConfig, context: int, storage: Storage) -> int:
    """Bytes that one token of a batch of one must read: activated weights, the head and not the embedding, and the cache."""
    counts = {name: count.activated for name, count in parameter_counts(config).items()}
    weights = sum(counts.values()) - (0 if config.tie_word_embeddings else counts["embedding"])
    return weights * storage.bits // 8 + kv_cache_bytes(config, tokens=context, storage=storage)


def contenders(work: DecodeWork, *, peer: bool, compiled: bool) -> list[str]:
    """The names of those that take part: of the peer's implementations of experts the two fastest, at `large` the faster.

    The compiled step is for a batch of one on a processor, and needs a C++ compiler; a GPU's steps are recorded.
    """
    names = [LIMIT, *(f"hunyuan {precision}" for precision in PRECISIONS)]
    if compiled and work.batch == 1 and work.device == "cpu":
        names += [f"hunyuan compiled {precision}" for precision in PRECISIONS]
    peers = ["grouped_mm", "eager"] if work.shape == "small" else ["grouped_mm"]
    return names + [f"transformers {experts} float32" for experts in peers if peer]


def decode_table(
    works: list[DecodeWork],
    *,
    rounds: int = 5,
    peer: bool = False,
    compiled: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a workload and contender: tokens/s (median, least, most), share of the bandwidth's limit, ratio to the peer."""
    rows = []
    for work in works:
        rates: dict[str, list[float]] = {name: [] for name in contenders(work, peer=peer, compiled=compiled)}
        memory = {}
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(worker(name, work, build)) for name in rates}
            for _ in range(rounds):
                for name, ask in workers.items():
                    seconds, memory[name] = ask(1)
                    rates[name].append(1 / seconds[0])
                    progress(1)
        rows += _rows(work, rates, memory)
    return pd.DataFrame(rows)


def _rows(work: DecodeWork, rates: dict[str, list[float]], memory: dict[str, int]) -> list[dict[str, Any]]:
    """rates: turns per second of each round (of the limit, bytes per second)."""
    peers = [name for name in rates if name.startswith("transformers")]
    best = max(peers, key=lambda name: statistics.median(rates[name]), default=None)
    rows = []
    for name, values in rates.items():
        row: dict[str, Any] = {"shape": work.shape, "batch": work.batch, "contender": name}
        if name == LIMIT:
            rows.append(row | {"bytes_per_second": statistics.median(values)})
            continue
        speeds = [rate * work.batch * work.new_tokens for rate in values]
        row |= {"tokens_per_second": statistics.median(speeds), "least": min(speeds), "most": max(speeds)}
        if work.batch == 1:
            context = work.prompt_tokens + work.new_tokens // 2  # of the mean token
            read = decode_bytes(work.config, context, PRECISIONS[name.split()[-1]])
            row |= {"of_bandwidth": _paired([speed * read for speed in speeds], rates[LIMIT])}
        if best is not None and name.startswith("hunyuan"):
            row |= {"of_peer": _paired(values, rates[best])}
        rows.append(row | {"peak_memory_bytes": memory[name]})
    return rows


def _paired(values: list[float], base: list[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


# --- contenders, each in its own process ---------------------------------------------------------------------------


def build(name: str, work: DecodeWork, device: Any) -> Step:
    """One turn of a contender as a function; the limit's returns its bytes per second."""
    import torch

    if name == LIMIT:
        return _reader(device)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(work.config.vocab_size, (work.batch, work.prompt_tokens), generator=generator)
    kind, *how, precision = name.split()
    if kind == "hunyuan":
        return _hunyuan(work, precision, prompts, device, compiled=how == ["compiled"])
    return _peer(work, how[0], prompts, device)


def _reader(device: Any) -> Step:
    import torch

    from model.device import synchronize

    tensor = torch.ones(READ_BYTES // 4, device=device)

    def read() -> float:
        best = float("inf")
        for _ in range(3):
            synchronize(device)
            start = time.perf_counter()
            tensor.sum()
            synchronize(device)
            best = min(best, time.perf_counter() - start)
        return READ_BYTES / best

    return read


def _hunyuan(work: DecodeWork, precision: str, prompts: Any, device: Any, *, compiled: bool) -> Step:
    import torch

    from model.generation.generate import generate_batch
    from model.generation.request import Request
    from model.generation.sampling import Sampling
    from model.generation.session import Session
    from model.transformer import Hunyuan

    net = Hunyuan(work.config, torch.Generator().manual_seed(0)).to(device, getattr(torch, precision)).eval()
    session = Session(net)

    def turn() -> None:
        session.kept = []  # the prompt is read again
        requests = [Request(prompt, work.new_tokens) for prompt in prompts.tolist()]
        for _ in generate_batch(
            net, requests, sampling=Sampling(), slots=work.batch, compiled=compiled, session=session
        ):
            pass

    return turn


def _peer(work: DecodeWork, experts: str, prompts: Any, device: Any) -> Step:
    net, prompts = peer_model(work.config, experts, device).eval(), prompts.to(device)
    length = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens}

    def turn() -> None:
        net.generate(prompts, attention_mask=prompts.new_ones(prompts.shape), do_sample=False, **length)

    return turn
