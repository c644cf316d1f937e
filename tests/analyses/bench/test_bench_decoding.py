"""analyses/bench/decoding.py: bytes of a token, ratios of known rates, and turns."""

import contextlib
import dataclasses
import itertools

import pytest

from analyses.bench import decoding as decode_benchmark
from analyses.bench.decoders import LIMIT, TOUCHED, DecodeWork
from analyses.bench.decoding import (
    INT8,
    LARGE_ON_GPU,
    SHAPES,
    contenders,
    decode_bytes,
    decode_table,
    shape_of_name,
)
from model.config import HunyuanConfig
from model.config.storage import STORAGE
from model.counts import activated_params, total_params

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4, "use_qk_norm": False,
}  # fmt: skip
CONFIG = HunyuanConfig(**SIZES)
TINY = DecodeWork("small", CONFIG, batch=1, prompt_tokens=3, new_tokens=4, threads=1)
EIGHT = DecodeWork("large", CONFIG, batch=8, prompt_tokens=3, new_tokens=4, threads=1)
OURS = ["hunyuan float32", "hunyuan bfloat16"]
COMPILED = ["hunyuan compiled float32", "hunyuan compiled bfloat16"]
PEERS = ["transformers grouped_mm float32", "transformers eager float32"]
# q and o of 32 x 32 and k and v of 32 x 16; two norms and the last one; router 4 x 32; a shared and a routed SwiGLU.
WEIGHTS = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 + 4 * 32 + 2 * (3 * 32 * 32)
HEAD, CACHED = 64 * 32, 2 * 16  # values of a head, and of a token's keys and values


# --- what a token must read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "weights", "cached"),
    [
        ({}, WEIGHTS + HEAD, CACHED),  # a tied embedding is the head
        ({"tie_word_embeddings": False}, WEIGHTS + HEAD, CACHED),  # of the embedding one row is read, which is nothing
        ({"moe_topk": 3}, WEIGHTS + HEAD + 2 * 3 * 32 * 32, CACHED),
        ({"num_experts": 16}, WEIGHTS + HEAD + 12 * 32, CACHED),  # experts that are not chosen are not read
        ({"num_hidden_layers": 2, "cla_share_factor": 2}, 2 * WEIGHTS - 32 + HEAD - 2 * 32 * 16, CACHED),
        ({"num_experts": 1, "num_shared_expert": 0}, WEIGHTS + HEAD - 4 * 32 - 3 * 32 * 32, CACHED),
    ],
)
@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_bytes_of_a_token_in_literal_arithmetic(changes, weights, cached, precision, size):
    config = CONFIG.replace(**changes)
    assert decode_bytes(config, 100, STORAGE[precision]) == size * (weights + 100 * cached)


def test_the_shapes_are_within_and_beyond_a_cache():
    small, large = (decode_bytes(config, 96, STORAGE["fp32"]) for config in SHAPES.values())
    assert list(SHAPES) == ["small", "large"]
    assert small < 32e6 and 1e9 < large < 1.3e9


@pytest.mark.parametrize(("batch", "experts"), [(1, None), (1, 1), (8, 3.5), (32, 4)])
def test_bytes_of_a_step_of_a_batch_and_of_int8_weights(batch, experts):
    """A cache for every sequence; linear maps and experts a byte each, the rest two."""
    one, used = 3 * 32 * 32, 1 if experts is None else experts
    maps, rest = WEIGHTS - 3 * 32 - 4 * 32 - one + used * one, HEAD + 3 * 32 + 4 * 32
    options = {"batch": batch, "experts": experts}
    cache = 2 * batch * 100 * CACHED
    assert decode_bytes(CONFIG, 100, STORAGE["bf16"], **options) == 2 * (maps + rest) + cache
    assert decode_bytes(CONFIG, 100, STORAGE["bf16"], weights=INT8, **options) == maps + 2 * rest + cache


def test_the_large_shape_of_a_gpu():
    assert total_params(LARGE_ON_GPU) == 14_437_687_296 and activated_params(LARGE_ON_GPU) == 1_980_604_416
    assert shape_of_name("large", "cuda:1") is LARGE_ON_GPU
    assert [shape_of_name(*pair) for pair in (("large", "cpu"), ("small", "cuda"))] == [
        SHAPES["large"],
        SHAPES["small"],
    ]


# --- the table -------------------------------------------------------------------------------------------------------

RATES = {  # of three rounds: steps a second, of the limit bytes a second
    LIMIT: [1e6, 2e6, 4e6],
    "hunyuan float32": [1.0, 4.0, 6.0],
    "hunyuan bfloat16": [3.0, 3.0, 3.0],
    "hunyuan int8": [3.0, 3.0, 3.0],
    "transformers eager float32": [2.0, 2.0, 2.0],
    "transformers grouped_mm float32": [1.0, 3.0, 9.0],  # the fastest by its median
}
MEMORY = dict.fromkeys(RATES, 7) | {"hunyuan float32": 123}


def rows(work, rates=RATES, limits=None):
    limits = limits or dict.fromkeys(rates, RATES[LIMIT])
    return {row["contender"]: row for row in decode_benchmark._rows(work, rates, MEMORY, limits)}


def test_ratios_are_medians_of_the_rounds_ratios():
    found = rows(TINY)
    ours, mean_context = found["hunyuan float32"], 3 + 4 // 2
    assert list(found) == list(RATES)
    assert (ours["shape"], ours["batch"], ours["peak_memory_bytes"]) == ("small", 1, 123)
    assert (ours["tokens_per_second"], ours["least"], ours["most"]) == (4, 1, 6)
    read = 4 * (WEIGHTS + HEAD + mean_context * CACHED)
    assert ours["bytes_per_step"] == read
    assert ours["of_bandwidth"] == pytest.approx(read * 1.5e-6)  # of 1/1, 4/2, 6/4; of the medians it were 4/2
    assert ours["of_peer"] == pytest.approx(1.0)  # of 1/1, 4/3, 6/9; of the medians it were 4/3
    half = found["hunyuan bfloat16"]
    assert half["of_bandwidth"] == pytest.approx(3 * read / 2 * 0.5e-6)  # in half the bytes: 3/1, 3/2, 3/4 over 1e6
    least = decode_bytes(CONFIG, mean_context, STORAGE["bf16"], weights=INT8)
    assert found["hunyuan int8"]["of_bandwidth"] == pytest.approx(3 * least * 0.5e-6)


def test_each_contender_is_compared_with_the_limit_of_its_own_rounds():
    limits = dict.fromkeys(RATES, RATES[LIMIT]) | {"hunyuan float32": [1e7, 1e7, 1e7]}
    read = 4 * (WEIGHTS + HEAD + 5 * CACHED)
    assert rows(TINY, limits=limits)["hunyuan float32"]["of_bandwidth"] == pytest.approx(4 * read / 1e7)


def test_the_limit_is_a_rate_of_bytes_and_a_peer_is_compared_with_none():
    found = rows(TINY)
    assert found[LIMIT] == {"shape": "small", "batch": 1, "contender": LIMIT, "bytes_per_second": 2e6}
    assert all("of_peer" not in found[name] and found[name]["of_bandwidth"] > 0 for name in PEERS)


def test_a_batch_reads_the_experts_that_it_touches():
    found = rows(EIGHT, RATES | {TOUCHED: [3.25]})
    assert found[TOUCHED] == {"shape": "large", "batch": 8, "contender": TOUCHED, "experts_per_layer": 3.25}
    ours, read = found["hunyuan float32"], decode_bytes(CONFIG, 5, STORAGE["fp32"], batch=8, experts=3.25)
    assert ours["tokens_per_second"] == 4 * 8
    assert ours["of_bandwidth"] == pytest.approx(read * 1.5e-6)  # of steps, of which one makes eight tokens
    assert ours["of_peer"] == pytest.approx(1.0)


def test_without_a_peer_there_is_no_ratio_to_one():
    found = rows(TINY, {name: RATES[name] for name in (LIMIT, *OURS)})
    assert all("of_peer" not in row for row in found.values())


# --- the turns -------------------------------------------------------------------------------------------------------


@pytest.fixture
def turns(monkeypatch):
    """Contenders without a process: what each was asked for, in order."""
    asked = []

    @contextlib.contextmanager
    def worker(name, work, build):
        assert build is decode_benchmark.build
        asked.append((work.shape, name, "started"))

        def ask(count):
            asked.append((work.shape, name, count))
            return [0.5], len(asked)

        yield ask
        asked.append((work.shape, name, "ended"))

    monkeypatch.setattr(decode_benchmark, "worker", worker)
    return asked


@pytest.mark.parametrize(
    ("work", "options", "more"),
    [
        (TINY, {}, []),
        (TINY, {"peer": True}, PEERS),
        (TINY, {"compiled": True}, COMPILED),
        (TINY, {"peer": True, "compiled": True}, [*COMPILED, *PEERS]),
        (TINY, {"int8": True}, ["hunyuan int8"]),
        (TINY, {"int8": True, "compiled": True}, ["hunyuan int8", *COMPILED, "hunyuan compiled int8"]),
        (EIGHT, {"peer": True, "compiled": True}, PEERS[:1]),  # the compiled step is for one sequence
    ],
)
def test_contenders_take_turns_and_progress_counts_them(turns, work, options, more):
    done = []
    frame = decode_table([work], rounds=2, progress=done.append, **options)
    names, counted = [LIMIT, *OURS, *more], [TOUCHED] if work is EIGHT else []
    assert list(frame["contender"]) == [LIMIT, *counted, *names[1:]]
    assert list(frame["contender"]) == contenders(work, **({"peer": False, "compiled": False} | options))
    assert [(name, what) for _, name, what in turns] == [
        *(
            (name, what) for name in counted for what in ("started", 1, "ended")
        ),  # once, and before the others are there
        *((name, "started") for name in names),
        *((name, 1) for _ in range(2) for name in names),
        *((name, "ended") for name in reversed(names)),
    ]
    total = decode_benchmark.turns(list(frame["contender"]), "cpu", 2)
    assert done == [1] * total and total == 2 * len(names) + len(counted)


def test_on_a_gpu_each_is_alone_with_a_limit_that_stays(turns):
    work, done = dataclasses.replace(EIGHT, device="cuda"), []
    frame = decode_table([work], rounds=2, peer=True, compiled=True, int8=True, progress=done.append)
    names = ["hunyuan bfloat16", "hunyuan int8", "transformers grouped_mm bfloat16"]
    assert list(frame["contender"]) == [LIMIT, TOUCHED, *names]
    rounds = [[(name, "started"), *[(LIMIT, 1), (name, 1)] * 2, (name, "ended")] for name in names]
    assert [(name, what) for _, name, what in turns] == [
        (LIMIT, "started"), *((TOUCHED, what) for what in ("started", 1, "ended")), *itertools.chain(*rounds), (LIMIT, "ended")
    ]  # fmt: skip
    assert len(done) == decode_benchmark.turns(list(frame["contender"]), "cuda", 2) == 2 * 2 * 3 + 1
    assert (frame.set_index("contender").loc[names, "of_bandwidth"] > 0).all()


def test_one_workload_is_over_before_the_next_begins(turns):
    frame = decode_table([TINY, EIGHT], rounds=1)
    assert list(frame["shape"]) == ["small"] * 3 + ["large"] * 4
    assert list(frame["batch"]) == [1] * 3 + [8] * 4
    assert [shape for shape, *_ in turns] == ["small"] * 9 + ["large"] * 12
    ours = frame.set_index(["shape", "contender"])
    assert ours.loc[("small", "hunyuan float32"), "tokens_per_second"] == 1 / 0.5
    assert ours.loc[("large", "hunyuan bfloat16"), "tokens_per_second"] == 8 / 0.5
    assert ours.loc[("small", "hunyuan bfloat16"), "peak_memory_bytes"] == 6  # the sixth thing that was done
