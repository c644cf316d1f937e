"""analyses/bench/prompts.py: long prompts that are read, what fits, and what stands in a row."""

from contextlib import contextmanager

import pytest

from analyses.bench import prompts
from analyses.bench.decoders import LIMIT
from analyses.bench.decoding import LARGE_ON_GPU, decode_bytes
from analyses.bench.prompts import prompt_flops, prompt_table, prompt_works
from analyses.memory.serving import Serving, device_memory
from model.config import HunyuanConfig
from model.config.shape import shape_of
from model.config.storage import BF16
from model.counts import activated_params, kv_cache_bytes, total_params
from model.errors import ConfigError

CONFIG = HunyuanConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, num_experts=4, cla_share_factor=1, max_position_embeddings=64,
)  # fmt: skip


def works(contexts, memory=None, config=CONFIG, chunk=32):
    return prompt_works(
        "small", config, contexts, new_tokens=4, chunk=chunk, device="cpu", threads=1, memory=memory
    )  # fmt: skip


def test_variants_share_a_shape_with_room_for_the_longest_context():
    assert [(work.variant, work.config.num_key_value_heads, work.config.cla_share_factor) for work in works([8, 256])] == [
        ("MHA", 4, 1), ("GQA", 2, 1), ("GQA+CLA", 2, 2),
    ]  # fmt: skip
    assert {work.config.max_position_embeddings for work in works([8, 256])} == {256}
    assert {work.config.max_position_embeddings for work in works([8])} == {64}


@pytest.mark.parametrize(
    ("memory", "context", "experts", "total"),
    [
        (150_000_000_000, 262_144, 16, 14.7e9),  # an H200
        (85_000_000_000, 131_072, 16, 14.7e9),  # an H100
        (85_000_000_000, 262_144, 8, 7.94e9),  # its 51.5 GB of MHA's cache leave no room for 29 GB of weights
    ],
)
def test_experts_are_halved_until_mha_fits_and_a_token_reads_the_same(memory, context, experts, total):
    found = works([32_768, context], memory, LARGE_ON_GPU, 8192)
    assert {work.config.num_experts for work in found} == {experts}
    mha = found[0].config
    assert total_params(mha) == pytest.approx(total, rel=0.01)
    assert activated_params(mha.replace(num_experts=16)) - activated_params(mha) == 24 * 2048 * (16 - experts)  # router
    serving = Serving(memory=memory, prefill_chunk=8192)
    assert sum(device_memory(shape_of(mha), serving, context=context, batch=1).values()) <= memory
    twice = mha.replace(num_experts=2 * experts)
    assert experts == 16 or sum(device_memory(shape_of(twice), serving, context=context, batch=1).values()) > memory


def test_a_context_that_fits_no_shape_is_a_sentence():
    with pytest.raises(ConfigError, match=r"a context of 262,144 tokens does not fit 24 GB with MHA, whatever the"):
        works([262_144], 24_000_000_000, LARGE_ON_GPU, 8192)


def test_flops_of_a_prompt_are_those_of_its_products_and_half_of_the_square():
    """4 layers of (queries and output 2 x 32 x 32, keys and values 2 x 32 x 16, two SwiGLU 6 x 32 x 32, router 32 x 4)."""
    products = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 6 * 32 * 32 + 32 * 4)
    scores = 4 * 2 * 32 * 50  # of the mean token
    assert prompt_flops(CONFIG, 100) == 2 * (100 * (products + scores) + 64 * 32)


def test_a_row_stands_beside_what_kv_cache_predicts(monkeypatch):
    asked = []

    @contextmanager
    def worker(name, work, build, *, take=None, warm_up=2):
        bandwidths, speeds = iter([1e6, 1e6, 6e6] * 6), iter([100.0, 200.0, 300.0] * 6)

        def ask(what):
            asked.append((name, what))
            if name == LIMIT:
                return [1 / next(bandwidths)], 5
            if what[1]:
                return {"prefill_seconds": 0.5, "prefill_tokens": 60, "cache_bytes": 9000.0, "weights_bytes": 70.0,
                        "flops_per_second": 1e9, "tokens_per_second": 1.0}, 1234  # fmt: skip
            return {"tokens_per_second": next(speeds)}, 99

        asked.append((name, warm_up))
        yield ask

    monkeypatch.setattr(prompts, "worker", worker)
    done = []
    frame = prompt_table(works([64, 128]), [64, 128], rounds=3, progress=done.append).set_index(["variant", "context"])
    assert len(frame) == 6 and sum(done) == 6 * (1 + 2 * 3)
    assert asked[:4] == [
        (LIMIT, 2),
        ("MHA hunyuan bfloat16", (64, True)),
        ("MHA hunyuan bfloat16", (64, True)),
        (LIMIT, 1),
    ]
    for work in works([64, 128]):
        row, read = frame.loc[(work.variant, 64)], decode_bytes(work.config, 62, BF16)
        assert (row["tokens_per_second"], row["least"], row["most"]) == (200, 100, 300)
        assert row["predicted_tokens_per_second"] == pytest.approx(1e6 / read)
        assert row["of_predicted"] == pytest.approx(100 * read / 1e6)  # of 100, 200 and 50 per MB/s
        assert (row["prefill_seconds"], row["prefill_tokens_per_second"]) == (0.5, 120)
        assert row["prefill_of_ceiling"] == pytest.approx(prompt_flops(work.config, 60) / 0.5 / 1e9)
        assert (row["cache_bytes"], row["kv_cache_bytes"]) == (9000, kv_cache_bytes(work.config, tokens=64))
        assert (row["peak_memory_bytes"], row["weights_bytes"], row["num_experts"]) == (1234, 70, 4)


@pytest.mark.parametrize("chunk", [16, 64])
def test_a_prompt_is_read_once_and_its_cache_is_that_of_the_closed_form(monkeypatch, chunk):
    """In this process: prompts of 28 and 60 tokens in chunks, and again their last token alone."""
    import torch

    from model import device
    from model.transformer import Hunyuan

    passes, step = [], Hunyuan.step

    def watched(self, input_ids, *rest, **options):
        passes.append(input_ids.shape[1])
        return step(self, input_ids, *rest, **options)

    monkeypatch.setattr(Hunyuan, "step", watched)
    monkeypatch.setattr(device, "measure_peak_flops", lambda place, dtype: 1e9)
    for work in works([32, 64], chunk=chunk):
        passes.clear()
        read = prompts.reader("any", work, torch.device("cpu"))
        for context in (32, 64):
            found = read(context, True)
            parts = [chunk] * ((context - 4) // chunk) + [(context - 4) % chunk] * bool((context - 4) % chunk)
            assert passes == [*parts, 1, 1, 1]
            assert found["prefill_tokens"] == context - 4 and found["prefill_seconds"] > 0
            assert found["cache_bytes"] == kv_cache_bytes(work.config, tokens=context)
            assert found["weights_bytes"] == 2 * total_params(work.config)
            passes.clear()
            assert read(context, False)["prefill_tokens"] == 1
            assert passes == [1, 1, 1, 1]
            passes.clear()


@pytest.mark.slow
def test_tiny_prompts_are_really_read():
    frame = prompt_table(works([32, 64])[2:], [32, 64], rounds=1)
    assert list(frame["variant"]) == ["GQA+CLA"] * 2 and list(frame["context"]) == [32, 64]
    assert list(frame["cache_bytes"]) == list(frame["kv_cache_bytes"])
    for key in ("prefill_tokens_per_second", "tokens_per_second", "of_predicted", "prefill_of_ceiling"):
        assert (frame[key] > 0).all()
    assert (frame["peak_memory_bytes"] > 50e6).all()
