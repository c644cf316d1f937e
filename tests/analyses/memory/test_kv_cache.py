"""Cache bytes by variant, context, batch and format: table 2 of the report, formats by hand, and the real cache."""

import pytest

from analyses.memory.kv_cache import kv_cache_rows, kv_cache_table, measure_cache
from model.config import HunyuanConfig
from model.config.load import load_shape
from model.config.shape import shape_of
from model.config.storage import STORAGE
from model.config.variants import variants_of
from model.errors import ConfigError

LARGE = load_shape("hunyuan-large")
V2 = load_shape("deepseek-v2")


def rows_of(shape, names=(), **options):
    return {row["variant"]: row for row in kv_cache_rows(variants_of(shape, names), **options)}


def per_token(shape, name, storage):
    return rows_of(shape, [name], contexts=[1], storages=[storage])[name]["bytes"]


# --- table 2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "per_token", "gib", "share"),
    [
        ("MHA", 1_638_400, 400, 1),
        ("GQA", 163_840, 40, 0.1),
        ("MQA", 20_480, 5, 0.0125),
        ("CLA", 819_200, 200, 0.5),
        ("GQA+CLA", 81_920, 20, 0.05),
    ],
)
def test_table_2_of_the_report(name, per_token, gib, share):
    row = rows_of(LARGE)[name]
    assert (row["bytes_per_token"], row["bytes"], row["gib"], row["fraction_of_mha"]) == (
        per_token, gib * 2**30, gib, share)  # fmt: skip
    assert (row["model"], row["context"], row["batch"], row["dtype"]) == ("hunyuan-large", 262_144, 1, "bf16")
    assert row["own"] == (name == "GQA+CLA")


def test_deepseek_v2_keeps_34560_values_a_token():
    """(512 + 64) * 60 layers, as DeepSeek-V2's section 2.1 counts; MHA would be 2 * 128 heads * 128 * 60 values."""
    row = rows_of(V2)["MLA"]
    assert row["bytes_per_token"] == 2 * 34_560
    assert row["fraction_of_mha"] == pytest.approx(34_560 / 1_966_080)
    assert per_token(V2, "MLA", STORAGE["fp8"]) == 34_560


def test_rows_are_the_grid():
    rows = kv_cache_rows(
        variants_of(LARGE), contexts=[8192, 1], batches=[3, 1], storages=[STORAGE["fp8"], STORAGE["bf16"]]
    )
    assert len(rows) == 2 * 2 * 2 * 5
    places = [(row["dtype"], row["context"], row["batch"], row["variant"]) for row in rows]
    assert places[:6] == [("fp8", 8192, 3, name) for name in ("MHA", "GQA", "MQA", "CLA", "GQA+CLA")] + [
        ("fp8", 8192, 1, "MHA")]  # fmt: skip
    for row in rows:
        assert row["bytes"] == row["bytes_per_token"] * row["context"] * row["batch"]
        assert (
            row["fraction_of_mha"] == {"MHA": 1, "GQA": 0.1, "MQA": 0.0125, "CLA": 0.5, "GQA+CLA": 0.05}[row["variant"]]
        )


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format", "group", "expected"),
    [
        # GQA: 64 layers of a row of 8 * 80 = 640 keys and one of values.
        ("GQA", "fp32", 64, 64 * 2 * 2560),
        ("GQA", "bf16", 64, 64 * 2 * 1280),
        ("GQA", "fp16", 64, 64 * 2 * 1280),
        ("GQA", "fp8", 64, 64 * 2 * 640),
        ("GQA", "int8", 64, 64 * 2 * (640 + 10 * 4)),
        ("GQA", "int4", 64, 64 * 2 * (320 + 10 * 4)),
        ("GQA", "int4", 32, 64 * 2 * (320 + 20 * 4)),
        ("GQA", "int4", 128, 64 * 2 * (320 + 5 * 4)),
        ("GQA", "int4", 10_000, 64 * 2 * (320 + 1 * 4)),
        ("GQA+CLA", "int4", 64, 32 * 2 * (320 + 10 * 4)),
        ("MQA", "int4", 64, 64 * 2 * (40 + 2 * 4)),  # 80 values touch two groups of 64
        ("MQA", "int4", 16, 64 * 2 * (40 + 5 * 4)),
        ("MHA", "int8", 64, 64 * 2 * (6400 + 100 * 4)),
    ],
)
def test_bytes_of_each_format(name, format, group, expected):
    assert per_token(LARGE, name, STORAGE[format].with_group(group)) == expected


def test_groups_of_a_latent_are_its_own():
    """DeepSeek-V2 in int4: 256 + 8 * 4 bytes of a latent, 32 + 4 of a rotated key."""
    assert per_token(V2, "MLA", STORAGE["int4"]) == 60 * (288 + 36)


def test_a_group_changes_only_integers_and_a_share_is_of_the_same_format():
    assert STORAGE["fp8"].with_group(32) == STORAGE["fp8"]
    row = rows_of(LARGE, ["MQA"], storages=[STORAGE["int4"]])["MQA"]
    assert row["fraction_of_mha"] == 48 / (3200 + 100 * 4)


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "tokens"), [(1, 1), (4095, 4095), (4096, 4096), (4097, 4096), (262_144, 4096), (2**40, 4096)]
)
def test_a_sliding_window_stops_growing(context, tokens):
    row = rows_of(LARGE, ["GQA+SWA:4096"], contexts=[context])["GQA+SWA:4096"]
    assert row["bytes"] == 163_840 * tokens and row["bytes_per_token"] == 163_840
    assert row["fraction_of_mha"] == pytest.approx(tokens / context / 10, rel=1e-12)


def test_windows_in_five_of_six_layers():
    """64 layers: 10 are the sixth of their group; a layer keeps 2 * 8 * 80 * 2 bytes a token."""
    name = "GQA+SWA:1024*5/GQA"
    assert rows_of(LARGE, [name])[name]["bytes"] == 2560 * (54 * 1024 + 10 * 262_144)


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_is_a_frame_with_the_columns_of_the_contract():
    import pandas as pd

    table = kv_cache_table(HunyuanConfig.from_name("hunyuan-large"), context=32_768, batch=2)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == [
        "model", "variant", "own", "context", "batch", "dtype", "bytes_per_token", "bytes", "gib", "fraction_of_mha",
        "bytes_per_token_at_context", "capped_layers",
    ]  # fmt: skip
    assert list(table["gib"]) == [100, 10, 1.25, 50, 5]
    assert len(kv_cache_table(V2, storage=STORAGE["fp8"])) == 6


# --- the real cache --------------------------------------------------------------------------------------------------

SMALL = {"num_attention_heads": 6, "head_dim": 8, "num_hidden_layers": 5}
BUILT = ("MHA", "GQA", "GQA:2", "GQA:1", "MQA", "CLA", "CLA:3", "CLA:4", "GQA+CLA", "GQA:3+CLA:5", "MQA+CLA:3", "CLA:1")


def config_of(**changes):
    return HunyuanConfig.from_name("toy").replace(**SMALL | changes)


@pytest.mark.parametrize("format", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("kv_heads", "share"), [(3, 2), (6, 1), (1, 3), (2, 5)])
def test_the_real_cache_is_of_the_bytes_of_the_closed_form(kv_heads, share, format):
    config = config_of(num_key_value_heads=kv_heads, cla_share_factor=share)
    variants = variants_of(shape_of(config, "small"), BUILT)
    for variant in variants:
        row = measure_cache(config, variant, context=7, batch=3, storage=STORAGE[format])
        assert row["equal"] and row["measured_bytes"] == row["closed_form_bytes"]
        owners = sum(layer.attention.owns_cache for layer in variant.shape.layers)
        heads = variant.shape.layers[0].attention.kv_heads
        assert row["measured_bytes"] == 7 * 3 * owners * 2 * heads * 8 * {"bf16": 2, "fp16": 2, "fp32": 4}[format]
        assert (row["context"], row["batch"], row["dtype"], row["variant"]) == (7, 3, format, variant.name)


def test_measuring_sees_a_cache_of_the_wrong_size(monkeypatch):
    """A cache with a slot for every layer, as the release's code keeps, is not equal."""
    config = config_of(num_key_value_heads=3, cla_share_factor=2)
    (variant,) = (variant for variant in variants_of(shape_of(config)) if variant.own)
    monkeypatch.setattr(HunyuanConfig, "cache_layers", property(lambda c: tuple(range(c.num_hidden_layers))))
    monkeypatch.setattr("analyses.memory.kv_cache._built", lambda config, shape: config)
    row = measure_cache(config, variant, context=4, batch=1, storage=STORAGE["bf16"])
    assert not row["equal"] and row["measured_bytes"] * 3 == row["closed_form_bytes"] * 5


@pytest.mark.parametrize(("limit", "context"), [(10**9, 1000), (288_000, 1000), (287_999, 500), (10_000, 31), (288, 1)])
def test_a_context_that_does_not_fit_is_halved(limit, context):
    """3 owners * 2 * 3 heads * 8 * 2 bytes: 288 a token."""
    config = config_of(num_key_value_heads=3, cla_share_factor=2)
    (variant,) = (variant for variant in variants_of(shape_of(config)) if variant.own)
    row = measure_cache(config, variant, context=1000, batch=1, storage=STORAGE["bf16"], limit=limit)
    assert row["context"] == context and row["measured_bytes"] == 288 * context and row["equal"]


def test_what_is_not_built_is_not_measured():
    config = config_of(num_key_value_heads=3, cla_share_factor=2)
    for variant in variants_of(shape_of(config), ["MLA", "SWA:4", "GQA+SWA:4", "GQA/MQA", "GQA+CLA/MHA"]):
        row = measure_cache(config, variant, context=4, batch=1, storage=STORAGE["bf16"])
        assert (row is None) == (not variant.own), variant.name


@pytest.mark.parametrize("format", ["int4", "int8", "fp8"])
def test_a_format_without_a_tensor_is_refused(format):
    config = config_of(num_key_value_heads=3)
    with pytest.raises(ConfigError, match=f"cannot allocate {format}: give --dtype bf16 or fp16 or fp32"):
        measure_cache(config, variants_of(shape_of(config))[0], context=4, batch=1, storage=STORAGE[format])


def test_more_sequences_than_memory_is_a_sentence():
    config = config_of(num_key_value_heads=3, cla_share_factor=2)
    variant = variants_of(shape_of(config))[0]
    with pytest.raises(ConfigError, match="one token of 1,000,000 sequences is too much"):
        measure_cache(config, variant, context=4, batch=10**6, storage=STORAGE["bf16"], limit=10**8)
