"""Decoding after long contexts, with MHA, GQA and GQA+CLA, beside what `hunyuan kv-cache` predicts of it.

The prediction is analyses/memory/serving.py's: bandwidth over the bytes of the weights that a token reads and of the cache.
Keys and values are random, so that no prompt is read; a cache of so many tokens costs the same whatever it holds.
"""

import statistics
from collections.abc import Callable
from typing import Any

import pandas as pd

from analyses.bench.decoders import LIMIT, DecodeWork
from analyses.bench.decoding import INT8, PRECISIONS, limit_worker, paired, take_turns
from analyses.memory.serving import Serving, decode_rows
from model.config.hunyuan import HunyuanConfig
from model.config.shape import shape_of
from model.config.variants import Variant
from model.counts import kv_cache_bytes


def with_attention(config: HunyuanConfig) -> dict[str, HunyuanConfig]:
    """The shape with other keys and values, by the names of `hunyuan kv-cache`."""
    return {
        "MHA": config.replace(num_key_value_heads=config.num_attention_heads, cla_share_factor=1),
        "GQA": config.replace(cla_share_factor=1),
        "GQA+CLA": config.replace(cla_share_factor=2),
    }


def context_works(work: DecodeWork, contexts: list[int], *, int8: bool) -> list[tuple[str, str, DecodeWork]]:
    """(variant, precision, what is generated) of every row: a context ends with the new tokens."""
    return [
        (variant, precision, DecodeWork(work.shape, config, 1, context - work.new_tokens, work.new_tokens, work.device,
                                        work.threads, filled=True))
        for context in contexts
        for variant, config in with_attention(work.config).items()
        for precision in ("bfloat16", "int8")[: 1 + int8]
    ]  # fmt: skip


def context_table(
    works: list[tuple[str, str, DecodeWork]],
    *,
    rounds: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a context, variant and precision: tokens/s, and the prediction at the bandwidth of the same rounds."""
    rows = []
    with limit_worker(works[0][2].device if works else "cpu") as limit:
        for variant, precision, work in works:
            name = f"hunyuan {precision}"
            rates, memory = take_turns([LIMIT, name], work, rounds, progress, limit)
            row = decoding_row(variant, precision, work, rates[name], rates[LIMIT])
            rows.append(row | {"peak_memory_bytes": memory[name]})
    return pd.DataFrame(rows)


def decoding_row(
    variant: str, precision: str, work: DecodeWork, speeds: list[float], bandwidths: list[float]
) -> dict[str, Any]:
    """What was measured of generation after a context, beside its prediction.

    speeds: tokens per second of each round; bandwidths: bytes per second.
    """
    context, cache = work.prompt_tokens + work.new_tokens, PRECISIONS["bfloat16"]
    mean = work.prompt_tokens + work.new_tokens // 2  # the context of the mean token
    weights = INT8 if precision == "int8" else cache
    model = Variant(variant, shape_of(work.config), True)
    predicted = [
        decode_rows([model], [Serving(bandwidth=round(bandwidth), weights=weights, cache=cache)], [mean], [1])[0]
        for bandwidth in bandwidths
    ]
    limits = [row["tokens_per_second"] for row in predicted]
    return {
        "shape": work.shape, "variant": variant, "context": context, "contender": f"hunyuan {precision}",
        "tokens_per_second": statistics.median(speeds), "least": min(speeds), "most": max(speeds),
        "predicted_tokens_per_second": statistics.median(limits), "of_predicted": paired(speeds, limits),
        "bytes_per_second": statistics.median(bandwidths), "weights_read_bytes": predicted[0]["weights_read_bytes"],
        "cache_read_bytes": kv_cache_bytes(work.config, tokens=mean, storage=cache),
    }  # fmt: skip
