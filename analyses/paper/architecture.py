"""Table 1 and table 2: parameters and the cache of keys and values."""

from collections.abc import Iterator

from analyses.paper.row import Row
from model.config.load import load_shape
from model.config.variants import with_variant
from model.counts import kv_cache_bytes, parameter_counts

# Table 2 of the report, bytes per token in bf16: n_h = 80 heads, n_g = 8 key-value heads, d_h = 80, l = 64.
TABLE_2 = {
    "MHA": ("4 n_h d_h l", 4 * 80 * 80 * 64),
    "GQA": ("4 n_g d_h l", 4 * 8 * 80 * 64),
    "MQA": ("4 d_h l", 4 * 80 * 64),
    "CLA": ("2 n_h d_h l", 2 * 80 * 80 * 64),
    "GQA+CLA": ("2 n_g d_h l", 2 * 8 * 80 * 64),
}
SAVINGS = {"GQA": ("1 - n_g / n_h", None), "CLA": ("1 - 1/2", None), "GQA+CLA": ("1 - n_g / (2 n_h)", "95")}
CONTEXT = 256 * 1024


def rows() -> Iterator[Row]:
    yield from parameter_rows()
    yield from cache_rows()


def parameter_rows() -> Iterator[Row]:
    counts = parameter_counts(load_shape("hunyuan-large"))
    total, activated = (sum(getattr(c, which) for c in counts.values()) for which in ("total", "activated"))
    embedding = counts["embedding"].total
    yield Row(
        key="params.total", quantity="parameters", unit="params", published="389e9", value=total, where="abstract",
        formula="the sum of the components, sizes of table 1 and the released config",
    )  # fmt: skip
    yield Row(
        key="params.activated", quantity="activated parameters", unit="params", published="52e9", value=activated,
        where="abstract", formula="those of one token: 1 of 16 routed experts, the tied matrix once",
    )  # fmt: skip
    yield Row(
        key="params.activated_tied_twice", quantity="activated, embedding and head", unit="params", published="52e9",
        value=activated + embedding, where="abstract", formula="the same with the tied matrix as embedding and as head",
    )  # fmt: skip
    yield Row(
        key="params.activated_share", quantity="activated share", unit="percent", value=100 * activated / total,
        where="abstract", formula="activated / total",
    )  # fmt: skip
    for name, count in counts.items():
        if count.total:
            yield Row(
                key=f"params.share.{name}", quantity=f"share of {name}", unit="percent", value=100 * count.total / total,
                where="table 1", formula="of the total",
            )  # fmt: skip
            yield Row(
                key=f"params.activated_share.{name}", quantity=f"share of {name}, activated", unit="percent",
                value=100 * count.activated / activated, where="table 1", formula="of the activated",
            )  # fmt: skip


def cache_rows() -> Iterator[Row]:
    shape = load_shape("hunyuan-large")
    variants = {name: with_variant(shape, name) for name in TABLE_2}
    cache = {name: kv_cache_bytes(variant, tokens=1) for name, variant in variants.items()}
    for name, (formula, published) in TABLE_2.items():
        yield Row(
            key=f"kv_cache.{name}", quantity=f"cache of a token, {name}", unit="bytes", published=str(published),
            value=cache[name], where="table 2", formula=formula,
        )  # fmt: skip
    for name, (formula, saving) in SAVINGS.items():
        yield Row(
            key=f"kv_cache.saving.{name}", quantity=f"saved by {name}", unit="percent", published=saving,
            value=100 * (1 - cache[name] / cache["MHA"]), where="table 2 and its text", formula=f"{formula}, against MHA",
        )  # fmt: skip
    for name in ("MHA", "GQA+CLA"):
        yield Row(
            key=f"kv_cache.256k.{name}", quantity=f"cache of 256K tokens, {name}", unit="bytes",
            value=kv_cache_bytes(variants[name], tokens=CONTEXT), where="table 2", formula="262,144 tokens, batch 1",
        )  # fmt: skip
