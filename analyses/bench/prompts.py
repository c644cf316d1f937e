"""Long prompts that are really read, with MHA, GQA and GQA+CLA: time, memory, and speed after them beside `hunyuan kv-cache`.

One row a variant and context, all in bfloat16 by this project's generation. analyses/bench/contexts.py times decoding alone,
after caches of random values.

    prefill    the prompt in chunks, up to its first token: seconds, and its FLOPs over those of a square product
    cache      bytes of the tensors that are allocated, beside those of the closed form
    decode     tokens per second after the prompt, beside bandwidth over bytes; the two take turns

A context ends with the new tokens. Where MHA at the longest one does not fit the device, experts are halved until it does: a
token reads and computes the same whatever their number.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.bench.contexts import decoding_row, with_attention
from analyses.bench.decoders import LIMIT, DecodeWork, build, random_model
from analyses.bench.worker import worker
from analyses.memory.serving import Serving, device_memory, limiting_term
from model.config.hunyuan import HunyuanConfig
from model.config.shape import shape_of
from model.counts import flops_by_component, kv_cache_bytes, total_params
from model.errors import ConfigError

RESERVE = 0.1  # of the device: graphs, fragmentation, and the process that times the bandwidth


@dataclass(frozen=True)
class PromptWork:
    """What the process of a variant reads, for any context."""

    shape: str
    variant: str
    config: HunyuanConfig
    new_tokens: int
    chunk: int  # tokens of a prompt in a pass
    device: str = "cpu"
    threads: int = 2


def prompt_works(
    shape: str,
    config: HunyuanConfig,
    contexts: list[int],
    *,
    new_tokens: int,
    chunk: int,
    device: str,
    threads: int,
    memory: int | None,
) -> list[PromptWork]:
    """The variants of a shape that fits so many bytes at the longest context; ConfigError where none does."""
    longest = max(contexts)
    config = config.replace(max_position_embeddings=max(longest, config.max_position_embeddings))
    fitting = config if memory is None else _fitting(config, longest, chunk, memory)
    return [
        PromptWork(shape, variant, each, new_tokens, chunk, device, threads)
        for variant, each in with_attention(fitting).items()
    ]


def _fitting(config: HunyuanConfig, context: int, chunk: int, memory: int) -> HunyuanConfig:
    """The shape with its experts halved until all variants, of which MHA is the largest, fit with one sequence."""
    serving = Serving(memory=memory, reserve=RESERVE, prefill_chunk=chunk)
    while True:
        shape = shape_of(with_attention(config)["MHA"])
        if limiting_term(device_memory(shape, serving, context=context, batch=1), memory) is None:
            return config
        if config.num_experts < 4:
            raise ConfigError([
                f"a context of {context:,} tokens does not fit {memory / 1e9:,.0f} GB with MHA, whatever the experts: "
                "give a shorter --context"
            ])  # fmt: skip
        config = config.replace(num_experts=config.num_experts // 2)


def prompt_table(
    works: list[PromptWork],
    contexts: list[int],
    *,
    rounds: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a variant and context; `progress` is called after a prompt, and after each of the two turns of a round."""
    rows = []
    device, threads = works[0].device, works[0].threads
    with worker(LIMIT, DecodeWork(device=device, threads=threads), build) as ask_limit:
        for work in works:
            name, first = f"{work.variant} hunyuan bfloat16", (min(contexts), True)
            with worker(name, work, reader, take=_take, warm_up=first) as ask:
                for context in contexts:
                    found, memory = ask((context, True))
                    progress(1)
                    speeds, bandwidths = [], []
                    for _ in range(rounds):
                        bandwidths.append(1 / ask_limit(1)[0][0])
                        progress(1)
                        speeds.append(ask((context, False))[0]["tokens_per_second"])
                        progress(1)
                    rows.append(_row(work, context, found, memory, speeds, bandwidths))
    return pd.DataFrame(rows)


def reader(name: str, work: PromptWork, device: Any) -> Callable[[int, bool], dict[str, float]]:
    """read(context, afresh): a prompt and the new tokens after it; not afresh, the prompt is that of the call before."""
    import torch

    from model.device import measure_peak_flops
    from model.generation.generate import GenerationStats, generate_batch
    from model.generation.request import Request
    from model.generation.sampling import Sampling
    from model.generation.session import Session

    net = random_model(work.config, "bfloat16", device)
    ceiling = measure_peak_flops(device, torch.bfloat16)
    sessions: list[Session] = []

    def read(context: int, afresh: bool) -> dict[str, float]:
        if afresh:
            sessions.clear()  # first: two caches may not fit
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            sessions.append(Session(net))
        generator = torch.Generator().manual_seed(context)
        prompt = torch.randint(work.config.vocab_size, (context - work.new_tokens,), generator=generator).tolist()
        stats = GenerationStats()
        events = generate_batch(
            net, [Request(prompt, work.new_tokens)], sampling=Sampling(), slots=1, prefill_chunk=work.chunk,
            session=sessions[0], stats=stats,
        )  # fmt: skip
        next(events)  # the first token, out of the prompt
        start = time.perf_counter()
        for _ in events:
            pass
        return {
            "prefill_seconds": stats.prefill_seconds,
            "prefill_tokens": stats.prompt_tokens,
            "tokens_per_second": (work.new_tokens - 1) / (time.perf_counter() - start),
            "cache_bytes": stats.cache_bytes,
            "weights_bytes": sum(p.numel() * p.element_size() for p in net.parameters()),
            "flops_per_second": ceiling,
        }

    return read


def _take(read: Callable[[int, bool], dict[str, float]], asked: tuple[int, bool], device: Any) -> dict[str, float]:
    return read(*asked)


def prompt_flops(config: HunyuanConfig, tokens: int) -> int:
    """FLOPs of reading so many tokens: of attention the causal half, of the head the last token's."""
    parts = flops_by_component(config, tokens // 2)
    head = parts.pop("head")
    return tokens * sum(parts.values()) + head


def _row(
    work: PromptWork, context: int, found: dict[str, float], memory: int, speeds: list[float], bandwidths: list[float]
) -> dict[str, Any]:
    """found: what the process of the variant says of the prompt; speeds and bandwidths: of each round."""
    tokens, seconds = round(found["prefill_tokens"]), found["prefill_seconds"]
    decode = DecodeWork(work.shape, work.config, 1, context - work.new_tokens, work.new_tokens)
    row = decoding_row(work.variant, "bfloat16", decode, speeds, bandwidths)
    return row | {
        "prefill_seconds": seconds, "prefill_tokens_per_second": tokens / seconds,
        "prefill_of_ceiling": prompt_flops(work.config, tokens) / seconds / found["flops_per_second"],
        "cache_bytes": round(found["cache_bytes"]), "kv_cache_bytes": kv_cache_bytes(work.config, tokens=context),
        "weights_bytes": round(found["weights_bytes"]), "peak_memory_bytes": memory,
        "total_params": total_params(work.config), "num_experts": work.config.num_experts,
    }  # fmt: skip
