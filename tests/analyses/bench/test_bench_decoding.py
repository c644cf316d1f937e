"""analyses/bench/decoding.py: bytes of a token, ratios of known rates, turns, and contenders that really run."""

import contextlib
import multiprocessing
import sys
import types

import pytest
import torch

from analyses.bench import decoding as decode_benchmark
from analyses.bench.decoding import LIMIT, SHAPES, DecodeWork, contenders, decode_bytes, decode_table
from model.config import HunyuanConfig
from model.config.storage import STORAGE
from model.errors import HunyuanError

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4, "use_qk_norm": False,
}  # fmt: skip
CONFIG = HunyuanConfig(**SIZES)
TINY = DecodeWork("small", CONFIG, batch=1, prompt_tokens=3, new_tokens=4, threads=1)
EIGHT = DecodeWork("large", CONFIG, batch=8, prompt_tokens=3, new_tokens=4, threads=1)
CPU = torch.device("cpu")
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


# --- the table -------------------------------------------------------------------------------------------------------

RATES = {  # of three rounds: turns a second, of the limit bytes a second
    LIMIT: [1e6, 2e6, 4e6],
    "hunyuan float32": [1.0, 4.0, 6.0],
    "hunyuan bfloat16": [3.0, 3.0, 3.0],
    "transformers eager float32": [2.0, 2.0, 2.0],
    "transformers grouped_mm float32": [1.0, 3.0, 9.0],  # the fastest by its median
}
MEMORY = dict.fromkeys(RATES, 7) | {"hunyuan float32": 123}


def rows(work, rates=RATES):
    return {row["contender"]: row for row in decode_benchmark._rows(work, rates, MEMORY)}


def test_ratios_are_medians_of_the_rounds_ratios():
    found = rows(TINY)
    ours, mean_context = found["hunyuan float32"], 3 + 4 // 2
    assert list(found) == list(RATES)
    assert (ours["shape"], ours["batch"], ours["peak_memory_bytes"]) == ("small", 1, 123)
    assert (ours["tokens_per_second"], ours["least"], ours["most"]) == (4 * 4, 1 * 4, 6 * 4)
    read = 4 * (WEIGHTS + HEAD + mean_context * CACHED)
    assert ours["of_bandwidth"] == pytest.approx(4 * read * 1.5e-6)  # of 1/1, 4/2, 6/4; of the medians it were 4/2
    assert ours["of_peer"] == pytest.approx(1.0)  # of 1/1, 4/3, 6/9; of the medians it were 4/3
    half = found["hunyuan bfloat16"]
    assert half["of_bandwidth"] == pytest.approx(3 * 4 * read / 2 * 0.5e-6)  # in half the bytes: 3/1, 3/2, 3/4 over 1e6


def test_the_limit_is_a_rate_of_bytes_and_a_peer_is_compared_with_none():
    found = rows(TINY)
    assert found[LIMIT] == {"shape": "small", "batch": 1, "contender": LIMIT, "bytes_per_second": 2e6}
    assert all("of_peer" not in found[name] and found[name]["of_bandwidth"] > 0 for name in PEERS)


def test_of_eight_sequences_the_bandwidth_is_no_limit():
    """They choose experts of their own, so that nobody knows what they read."""
    found = rows(EIGHT)
    assert found["hunyuan float32"]["tokens_per_second"] == 4 * 8 * 4
    assert all("of_bandwidth" not in row for row in found.values())
    assert found["hunyuan float32"]["of_peer"] == pytest.approx(1.0)


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
        (EIGHT, {"peer": True, "compiled": True}, PEERS[:1]),  # the compiled step is for one sequence
    ],
)
def test_contenders_take_turns_and_progress_counts_them(turns, work, options, more):
    done = []
    frame = decode_table([work], rounds=2, progress=done.append, **options)
    names = [LIMIT, *OURS, *more]
    assert list(frame["contender"]) == names == contenders(work, **({"peer": False, "compiled": False} | options))
    assert [(name, what) for _, name, what in turns] == [
        *((name, "started") for name in names),
        *((name, 1) for _ in range(2) for name in names),
        *((name, "ended") for name in reversed(names)),
    ]
    assert done == [1] * (2 * len(names))


def test_one_workload_is_over_before_the_next_begins(turns):
    frame = decode_table([TINY, EIGHT], rounds=1)
    assert list(frame["shape"]) == ["small"] * 3 + ["large"] * 3
    assert list(frame["batch"]) == [1] * 3 + [8] * 3
    assert [shape for shape, *_ in turns] == ["small"] * 9 + ["large"] * 9
    ours = frame.set_index(["shape", "contender"])
    assert ours.loc[("small", "hunyuan float32"), "tokens_per_second"] == 4 / 0.5
    assert ours.loc[("large", "hunyuan bfloat16"), "tokens_per_second"] == 8 * 4 / 0.5
    assert ours.loc[("small", "hunyuan bfloat16"), "peak_memory_bytes"] == 6  # the sixth thing that was done


# --- contenders ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_workload_really_runs(monkeypatch):
    monkeypatch.setattr(decode_benchmark, "contenders", lambda work, **_: [LIMIT, OURS[1]])
    row = decode_table([TINY], rounds=1).set_index("contender").loc[OURS[1]]
    assert row["least"] == row["tokens_per_second"] == row["most"] > 0
    assert 0 < row["of_bandwidth"] < 1
    assert 50e6 < row["peak_memory_bytes"] < 50e9
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("work", [TINY, EIGHT])
@pytest.mark.parametrize(
    ("name", "dtype", "compiled"),
    [(OURS[0], torch.float32, False), (OURS[1], torch.bfloat16, False), (COMPILED[1], torch.bfloat16, True)],
)
def test_a_contender_generates_in_the_way_of_its_name(monkeypatch, work, name, dtype, compiled):
    from model.generation import generate

    seen, original = [], generate.generate_batch

    def generate_batch(net, requests, **options):
        seen.append((net, requests, options))
        return original(net, requests, **options | {"compiled": False})

    monkeypatch.setattr(generate, "generate_batch", generate_batch)
    turn = decode_benchmark.build(name, work, CPU)
    assert turn() is None and turn() is None
    (net, requests, options), (_, again, _) = seen
    assert (net.embed_tokens.weight.dtype, net.training) == (dtype, False)
    assert (options["slots"], options["compiled"], options["sampling"].temperature) == (work.batch, compiled, 0)
    assert [(len(r.prompt), r.new_tokens, r.stop_reason) for r in requests] == [(3, 4, "length")] * work.batch
    assert [r.token_ids for r in requests] == [r.token_ids for r in again]  # each turn the same work


def test_the_limit_answers_with_its_rate(monkeypatch):
    monkeypatch.setattr(decode_benchmark, "READ_BYTES", 1 << 22)
    assert 1e8 < decode_benchmark.build(LIMIT, TINY, CPU)() < 1e13


def test_the_peer_generates_as_many_tokens_from_the_same_prompts(monkeypatch):
    """transformers is an extra, so a stand-in takes its place here."""
    asked = []
    peer = types.SimpleNamespace(generate=lambda *given, **options: asked.append((*given, options)))
    peer.eval = lambda: peer
    monkeypatch.setattr(decode_benchmark, "peer_model", lambda config, experts, device: asked.append(experts) or peer)
    assert decode_benchmark.build("transformers eager float32", EIGHT, CPU)() is None
    experts, (prompts, options) = asked
    assert experts == "eager" and prompts.shape == (8, 3)
    assert (options["max_new_tokens"], options["min_new_tokens"], options["do_sample"]) == (4, 4, False)
    assert options["attention_mask"].equal(torch.ones(8, 3, dtype=torch.int64))


def test_a_peer_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(HunyuanError, match=r"pip install 'hunyuan\[hf\]'"):
        decode_benchmark.build("transformers eager float32", TINY, CPU)
