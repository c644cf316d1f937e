"""analyses/bench/contexts.py: which caches are timed, and the prediction beside each."""

import pytest

from analyses.bench import contexts
from analyses.bench.contexts import context_table, context_works, with_attention
from analyses.bench.decoders import LIMIT, DecodeWork
from analyses.bench.decoding import INT8, LARGE_ON_GPU, decode_bytes
from model.config import HunyuanConfig
from model.config.storage import BF16
from model.counts import kv_cache_bytes

CONFIG = HunyuanConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, num_experts=4, cla_share_factor=1, max_position_embeddings=256,
)  # fmt: skip
WORK = DecodeWork("small", CONFIG, batch=8, prompt_tokens=3, new_tokens=4, threads=1)


def test_variants_are_those_of_the_shape_and_differ_in_nothing_else():
    assert with_attention(CONFIG) == {
        "MHA": CONFIG.replace(num_key_value_heads=4),
        "GQA": CONFIG,
        "GQA+CLA": CONFIG.replace(cla_share_factor=2),
    }
    assert with_attention(CONFIG.replace(cla_share_factor=2)) == with_attention(CONFIG)
    # Of a token, in bytes, at the large shape of a GPU: what the command predicts its gains from.
    sizes = {name: kv_cache_bytes(config, tokens=1) for name, config in with_attention(LARGE_ON_GPU).items()}
    assert sizes == {"MHA": 196_608, "GQA": 49_152, "GQA+CLA": 24_576}


def test_a_context_ends_with_the_new_tokens_of_one_sequence():
    works = context_works(WORK, [64, 128], int8=True)
    assert [(variant, precision, work.prompt_tokens) for variant, precision, work in works] == [
        (variant, precision, length - 4)
        for length in (64, 128)
        for variant in ("MHA", "GQA", "GQA+CLA")
        for precision in ("bfloat16", "int8")
    ]
    assert all((work.batch, work.new_tokens, work.threads, work.filled) == (1, 4, 1, True) for *_, work in works)
    assert {precision for _, precision, _ in context_works(WORK, [64], int8=False)} == {"bfloat16"}


def test_a_row_stands_beside_what_kv_cache_predicts(monkeypatch):
    """Known rates: 100, 200, 300 tokens a second at 1, 1 and 6 MB/s."""
    rates = {LIMIT: [1e6, 1e6, 6e6], "hunyuan bfloat16": [100.0, 200.0, 300.0], "hunyuan int8": [100.0, 200.0, 300.0]}
    monkeypatch.setattr(
        contexts, "take_turns", lambda names, *_: ({name: rates[name] for name in names}, dict.fromkeys(names, 77))
    )
    frame = context_table(context_works(WORK, [64], int8=True), rounds=3).set_index(["variant", "contender"])
    assert len(frame) == 6
    for variant, config in with_attention(CONFIG).items():
        for precision, weights in (("bfloat16", None), ("int8", INT8)):
            row = frame.loc[(variant, f"hunyuan {precision}")]
            assert (row["tokens_per_second"], row["least"], row["most"], row["context"]) == (200, 100, 300, 64)
            read = decode_bytes(config, 62, BF16, weights=weights)  # at the mean token, two before the end
            assert row["weights_read_bytes"] + row["cache_read_bytes"] == read
            assert row["cache_read_bytes"] == kv_cache_bytes(config, tokens=62)
            assert row["predicted_tokens_per_second"] == pytest.approx(1e6 / read)
            assert row["of_predicted"] == pytest.approx(100 * read / 1e6)  # of 100, 200 and 50 per MB/s
            assert (row["bytes_per_second"], row["peak_memory_bytes"]) == (1e6, 77)


@pytest.mark.slow
def test_a_tiny_context_really_runs():
    frame = context_table(context_works(WORK, [64], int8=False)[-1:], rounds=1)
    assert list(frame["variant"]) == ["GQA+CLA"] and (frame["tokens_per_second"] > 0).all()
