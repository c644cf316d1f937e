"""How much memory the keys and values of a model take, by attention variant, context, batch and storage format.

Rows are plain dicts, so that the command answers without loading pandas; `kv_cache_table` is the same as a DataFrame.
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from model.config.hunyuan import HunyuanConfig
from model.config.shape import LatentAttention, ModelShape, shape_of
from model.config.storage import BF16, Storage
from model.config.variants import Variant, variants_of, with_variant
from model.counts import kv_cache_bytes
from model.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


def kv_cache_rows(
    variants: Sequence[Variant],
    *,
    contexts: Sequence[int] = (262_144,),
    batches: Sequence[int] = (1,),
    storages: Sequence[Storage] = (BF16,),
) -> list[dict[str, Any]]:
    """One row for each format, context, batch and variant.

    bytes_per_token is what a token adds in all layers together until a sliding window is full. capped_layers counts the
    cached layers whose window is shorter than the context, and bytes_per_token_at_context is the mean over the context.
    fraction_of_mha compares bytes with those of the same model with MHA, in the same format and over all tokens.
    """
    rows = []
    for storage, context, batch in product(storages, contexts, batches):
        for variant in variants:
            size, most = (
                kv_cache_bytes(shape, tokens=context, batch=batch, storage=storage)
                for shape in (variant.shape, with_variant(variant.shape, "MHA"))
            )
            rows.append(
                {
                    "model": variant.shape.name,
                    "variant": variant.name,
                    "own": variant.own,
                    "context": context,
                    "batch": batch,
                    "dtype": storage.name,
                    "bytes_per_token": kv_cache_bytes(variant.shape, tokens=1, storage=storage),
                    "bytes": size,
                    "gib": size / 2**30,
                    "fraction_of_mha": size / most,
                    "bytes_per_token_at_context": size / (context * batch),
                    "capped_layers": sum(_capped(variant.shape, context).values()),
                }
            )
    return rows


def window_notes(variants: Sequence[Variant], contexts: Sequence[int]) -> list[str]:
    """Where sliding windows are shorter than the longest context: which layers keep less, one sentence a variant."""
    notes, context = [], max(contexts)
    for variant in variants:
        capped = _capped(variant.shape, context)
        if capped:
            owners = sum(layer.attention.owns_cache for layer in variant.shape.layers)
            kept = " and ".join(
                f"{count} keep{'s' * (count == 1)} at most {window:,} tokens" for window, count in capped.items()
            )
            notes.append(
                f"{variant.shape.name} {variant.name}: bytes per token holds until the windows are full; of {owners} cached "
                f"layers {kept}"
            )
    return notes


def _capped(shape: ModelShape, context: int) -> dict[int, int]:
    """Cached layers by their window, of those whose window is shorter than the context."""
    windows = [layer.attention.window for layer in shape.layers if layer.attention.owns_cache]
    return dict(Counter(window for window in windows if window is not None and window < context))


def kv_cache_table(
    model: HunyuanConfig | ModelShape, *, context: int = 262_144, batch: int = 1, storage: Storage = BF16
) -> "pd.DataFrame":
    """The variants of one model, as a DataFrame."""
    import pandas as pd

    rows = kv_cache_rows(variants_of(shape_of(model)), contexts=[context], batches=[batch], storages=[storage])
    return pd.DataFrame(rows)


def check_measured(storages: Sequence[Storage]) -> None:
    """Refuses the formats that the real cache is not allocated in."""
    for storage in storages:
        if storage.name not in MEASURED:
            raise ConfigError([f"--measure cannot allocate {storage.name}: give --dtype {' or '.join(MEASURED)}"])


def measure_cache(
    config: HunyuanConfig, variant: Variant, *, context: int, batch: int, storage: Storage, limit: int | None = None
) -> dict[str, Any] | None:
    """Allocates this project's real cache and compares it with the closed form; None for a variant that is not built.

    The context is halved until the cache takes at most `limit` bytes, by default half of the machine's free memory.
    """
    import torch

    from model.layers.kv_cache import KVCache

    check_measured([storage])
    built = _built(config, variant.shape)
    if built is None:
        return None
    limit = _free_memory() // 2 if limit is None else limit

    def closed_form(tokens: int) -> int:
        return kv_cache_bytes(variant.shape, tokens=tokens, batch=batch, storage=storage)

    while context > 1 and closed_form(context) > limit:
        context //= 2
    if closed_form(context) > limit:
        raise ConfigError(
            [f"even one token of {batch:,} sequences is too much to allocate here: give a smaller --batch"]
        )
    cache = KVCache(built, batch=batch, max_tokens=context, dtype=getattr(torch, MEASURED[storage.name]))
    storages = [tensor.untyped_storage() for slot in cache.slots.values() for tensor in slot]
    measured = sum({memory.data_ptr(): memory.nbytes() for memory in storages}.values())
    return {
        "model": variant.shape.name,
        "variant": variant.name,
        "context": context,
        "batch": batch,
        "dtype": storage.name,
        "measured_bytes": measured,
        "closed_form_bytes": closed_form(context),
        "equal": measured == closed_form(context),
    }


MEASURED = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}  # what the real cache is allocated in


def _free_memory() -> int:
    """Bytes; 1 GiB where the system does not say."""
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**30


def _built(config: HunyuanConfig, shape: ModelShape) -> HunyuanConfig | None:
    """The configuration with a variant's attention; None where this project's block cannot have it."""
    first = shape.layers[0].attention
    owners = [index for index, layer in enumerate(shape.layers) if layer.attention.owns_cache]
    share = owners[1] if len(owners) > 1 else len(shape.layers)
    if isinstance(first, LatentAttention):
        return None
    built = config.replace(num_key_value_heads=first.kv_heads, cla_share_factor=share)
    return built if shape_of(built).layers == shape.layers else None
