"""The contenders of analyses/bench/decoding.py, each in a process of its own: what a turn of one is, as a function."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analyses.bench.training import SHAPE, peer_model
from analyses.bench.worker import Step
from model.config.hunyuan import HunyuanConfig

LIMIT, TOUCHED = "memory bandwidth", "experts touched"
READ_BYTES = 1 << 30


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
    filled: bool = False  # the prompt, of a batch of one, is not read: random keys and values stand for it


def build(name: str, work: DecodeWork, device: Any) -> Step:
    """One turn of a contender as a function. It returns steps per second, of the limit bytes per second."""
    import torch

    if name == LIMIT:
        return _reader(device)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(work.config.vocab_size, (work.batch, work.prompt_tokens), generator=generator)
    if name == TOUCHED:
        return _touched(work, prompts, device)
    kind, *how, precision = name.split()
    if kind == "hunyuan":
        return _hunyuan(work, precision, prompts, device, compiled=how == ["compiled"])
    return _peer(work, how[0], precision, prompts, device)


def _reader(device: Any) -> Step:
    import torch

    from model.device import synchronize

    tensor = torch.ones(READ_BYTES // 4, device=device)
    target = torch.empty_like(tensor) if device.type == "cuda" else None

    def read() -> float:
        best = float("inf")
        for _ in range(3 if target is None else 10):
            synchronize(device)
            start = time.perf_counter()
            if target is None:
                tensor.sum()
            else:
                target.copy_(tensor)
            synchronize(device)
            best = min(best, time.perf_counter() - start)
        return READ_BYTES * (1 if target is None else 2) / best

    return read


def random_model(config: HunyuanConfig, precision: str, device: Any) -> Any:
    """The model with random weights; on a GPU they are made there."""
    import torch

    from model.int8_weights import to_int8
    from model.transformer import Hunyuan

    dtype = torch.bfloat16 if precision == "int8" else getattr(torch, precision)
    if device.type == "cpu":
        net = Hunyuan(config, torch.Generator().manual_seed(0)).to(dtype).eval()
    else:
        with _made_there(device, dtype):
            net = Hunyuan(config, torch.Generator(device).manual_seed(0)).eval()
    return to_int8(net, device) if precision == "int8" else net


@contextlib.contextmanager
def _made_there(device: Any, dtype: Any) -> Iterator[None]:
    """What is made inside lies on the device, in that precision."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _hunyuan(work: DecodeWork, precision: str, prompts: Any, device: Any, *, compiled: bool) -> Step:
    from model.generation.generate import generate_batch
    from model.generation.request import Request
    from model.generation.sampling import Sampling
    from model.generation.session import Session

    session = Session(random_model(work.config, precision, device))
    if work.filled:
        for slot in session.reserve(1, work.prompt_tokens + work.new_tokens).slots.values():
            for tensor in slot:
                tensor.normal_()

    def turn() -> float:
        session.kept = prompts[0].tolist() if work.filled else []  # else the prompt is read again
        requests = [Request(prompt, work.new_tokens) for prompt in prompts.tolist()]
        events = generate_batch(
            session.net, requests, sampling=Sampling(), slots=work.batch, compiled=compiled, session=session
        )
        for _ in range(work.batch):
            next(events)  # the first token of every sequence
        start = time.perf_counter()
        for _ in events:
            pass
        return (work.new_tokens - 1) / (time.perf_counter() - start)

    return turn


def _touched(work: DecodeWork, prompts: Any, device: Any) -> Step:
    """How many experts of a layer the steps of a batch use, on average: a number in the place of a rate, counted once."""
    import torch

    from model.layers.kv_cache import KVCache
    from model.moe.layer import MoE, Router
    from model.moe.router import choose_experts

    net, config = random_model(work.config, "bfloat16" if device.type == "cuda" else "float32", device), work.config
    counts: list[int] = []

    def count(layer: MoE, router: Router, logits: Any) -> None:
        _, chosen = choose_experts(logits, layer.top_k, router.expert_bias)
        counts.append(chosen.unique().numel())

    for layer in net.layers:
        layer.mlp.router.register_forward_hook(lambda router, _, logits, layer=layer: count(layer.mlp, router, logits))
    longest = work.prompt_tokens + work.new_tokens
    cache = KVCache(config, batch=work.batch, max_tokens=longest, dtype=net.norm.weight.dtype, device=device)
    with torch.inference_mode():
        tokens = net(prompts.to(device), cache=cache, last_only=True).logits[:, -1].argmax(-1)
        counts.clear()
        for _ in range(work.new_tokens - 1):
            tokens = net(tokens[:, None], cache=cache, last_only=True).logits[:, -1].argmax(-1)
    mean = statistics.mean(counts)
    return lambda: mean


def _peer(work: DecodeWork, experts: str, precision: str, prompts: Any, device: Any) -> Step:
    import torch

    from model.device import synchronize

    dtype = getattr(torch, precision)
    with _made_there(device, dtype):
        net = peer_model(work.config, experts, device, dtype).eval()
    prompts = prompts.to(device)
    length = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens}
    begun: list[float] = []

    def prompt_was_read(*_: Any) -> None:
        if not begun:
            synchronize(device)
            begun.append(time.perf_counter())

    net.register_forward_hook(prompt_was_read)

    def turn() -> float:
        begun.clear()
        net.generate(prompts, attention_mask=prompts.new_ones(prompts.shape), do_sample=False, **length)
        synchronize(device)
        return (work.new_tokens - 1) / (time.perf_counter() - begun[0])

    return turn
