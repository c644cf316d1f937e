"""analyses/bench/training.py: the ratios of known rates, the turns that contenders take, and contenders that really run."""

import contextlib
import multiprocessing
import sys
import types

import pytest
import torch
from torch import nn

from analyses.bench import training as benchmark
from analyses.bench.training import CEILING, Workload, describe, training_table
from model.config import HunyuanConfig
from model.counts import total_params, training_flops_per_token
from model.training.config import TrainingConfig
from model.training.step import TrainStep

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4,
}  # fmt: skip
TINY = Workload(HunyuanConfig(**SIZES), batch=2, sequence_length=16, threads=1)
CPU = torch.device("cpu")
OURS = ["hunyuan float32", "hunyuan bfloat16"]
COMPILED = "hunyuan float32 compiled"
PEERS = ["transformers grouped_mm float32", "transformers eager float32"]


# --- the table -------------------------------------------------------------------------------------------------------

RATES = {
    CEILING: [100.0, 200.0, 400.0],
    "hunyuan float32": [1.0, 4.0, 6.0],
    "transformers eager float32": [2.0, 2.0, 2.0],
    "transformers grouped_mm float32": [1.0, 3.0, 9.0],  # the fastest by its median
}
CEILINGS = {name: RATES[CEILING] for name in RATES if name != CEILING}


def test_ratios_are_medians_of_the_rounds_ratios():
    memory = dict.fromkeys(RATES, 7) | {"hunyuan float32": 123}
    frame = benchmark._table(TINY, RATES, CEILINGS, memory).set_index("contender")
    step = 32 * training_flops_per_token(TINY.config, 16)
    ours = frame.loc["hunyuan float32"]
    assert list(frame.index) == list(RATES)
    assert (ours["tokens_per_second"], ours["least"], ours["most"]) == (4 * 32, 1 * 32, 6 * 32)
    assert ours["flops_per_second"] == 4 * step
    assert ours["of_ceiling"] == pytest.approx(0.015 * step)  # of 1/100, 4/200, 6/400; of the medians it were 4/200
    assert ours["of_ceiling_causal"] / ours["of_ceiling"] == pytest.approx(
        training_flops_per_token(TINY.config, 8) / training_flops_per_token(TINY.config, 16)
    )
    assert ours["of_peer"] == pytest.approx(1.0)  # of 1/1, 4/3, 6/9; of the medians it were 4/3
    assert ours["peak_memory_bytes"] == 123


def test_the_ceiling_is_a_rate_of_flops_and_a_peer_is_compared_with_none():
    frame = benchmark._table(TINY, RATES, CEILINGS, dict.fromkeys(RATES, 7)).set_index("contender")
    ceiling = frame.loc[CEILING]
    assert ceiling["flops_per_second"] == 200.0
    assert list(ceiling[ceiling.notna()].index) == ["flops_per_second"]
    assert list(frame["of_peer"].notna()) == [False, True, False, False]
    assert frame.loc["transformers eager float32", "of_ceiling"] > 0


def test_without_a_peer_there_is_no_ratio_to_one():
    rates, ceilings = ({name: of[name] for name in of if "transformers" not in name} for of in (RATES, CEILINGS))
    assert "of_peer" not in benchmark._table(TINY, rates, ceilings, dict.fromkeys(rates, 7))


def test_contenders_that_follow_one_another_are_compared_by_their_shares_of_the_ceiling():
    """The card was half as fast when the peer had it."""
    ceilings = CEILINGS | {"transformers grouped_mm float32": [50.0, 100.0, 200.0]}
    frame = benchmark._table(TINY, RATES, ceilings, dict.fromkeys(RATES, 7)).set_index("contender")
    assert frame.loc["hunyuan float32", "of_peer"] == pytest.approx(0.5)
    step = 32 * training_flops_per_token(TINY.config, 16)
    assert frame.loc["transformers grouped_mm float32", "of_ceiling"] == pytest.approx(0.03 * step)


def test_a_description_has_the_facts_beside_the_table():
    assert describe(TINY) == {
        "device": "cpu",
        "torch": torch.__version__,
        "threads": 1,
        "shape": "small",
        "batch": 2,
        "sequence_length": 16,
        # Embedding 64 x 32; q and o 32 x 32 each, k and v 32 x 16 each; norms 32 + 32 + 32 and, of q and k, 16 + 16;
        # router 4 x 32; a shared and a routed SwiGLU of 3 x 32 x 32.
        "activated_params": 2048 + 2 * 1024 + 2 * 512 + 96 + 32 + 128 + 2 * 3072,
        "training_flops_per_token": training_flops_per_token(TINY.config, 16),
        "causal_flops_per_token": training_flops_per_token(TINY.config, 8),
    }


# --- the turns -------------------------------------------------------------------------------------------------------


@pytest.fixture
def turns(monkeypatch):
    """Contenders without a process: what each was asked for, in order; the steps of one took 1, 2 and 9 seconds."""
    asked = []

    @contextlib.contextmanager
    def worker(name, work, build):
        asked.append((name, "started"))

        def ask(steps):
            asked.append((name, steps))
            return [1.0, 2.0, 9.0] if name == "hunyuan bfloat16" else [0.5] * 3, len(asked)

        yield ask
        asked.append((name, "ended"))

    monkeypatch.setattr(benchmark, "worker", worker)
    return asked


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, []),
        ({"peer": True}, PEERS),
        ({"compiled": True}, [COMPILED]),
        ({"peer": True, "compiled": True}, [COMPILED, *PEERS]),
    ],
)
def test_contenders_take_turns_and_progress_counts_them(turns, options, more):
    done = []
    frame = training_table(TINY, rounds=2, steps=3, progress=done.append, **options)
    names = [CEILING, *OURS, *more]
    assert list(frame["contender"]) == names
    assert turns == [
        *((name, "started") for name in names),
        *((name, 3) for _ in range(2) for name in names),
        *((name, "ended") for name in reversed(names)),
    ]
    assert done == [1] * (2 * len(names))


def test_a_turn_counts_with_the_median_of_its_steps_and_memory_is_the_last_told(turns):
    frame = training_table(TINY, rounds=2, steps=3, peer=False).set_index("contender")
    assert frame.loc["hunyuan bfloat16", "tokens_per_second"] == 32 / 2.0
    assert frame.loc["hunyuan float32", "tokens_per_second"] == 32 / 0.5
    assert frame.loc[CEILING, "flops_per_second"] == 2.0
    assert frame.loc["hunyuan bfloat16", "peak_memory_bytes"] == 9  # the 9th thing asked: 3 starts and 2 rounds of 3


# --- contenders ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_workload_really_runs():
    frame = training_table(TINY, rounds=1, steps=1, peer=False).set_index("contender")
    assert list(frame.index) == [CEILING, *OURS]
    assert 1e8 < frame.loc[CEILING, "flops_per_second"] < 1e14
    for name in OURS:
        row = frame.loc[name]
        assert row["least"] == row["tokens_per_second"] == row["most"] > 0
        assert 0 < row["of_ceiling"] < 1
        assert 50e6 < row["peak_memory_bytes"] < 50e9  # torch alone is some hundred megabytes
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("name", "precision", "compiled"),
    [(OURS[0], "float32", False), (COMPILED, "float32", True), (OURS[1], "bfloat16", False)],
)
def test_a_contender_trains_in_the_way_of_its_name(monkeypatch, name, precision, compiled):
    seen = []

    def prepare(net, training, device):
        seen.append((net, training))

    monkeypatch.setattr("model.training.prepare.prepare", prepare)
    dtypes = []
    monkeypatch.setattr("model.device.autocast", lambda device, dtype: dtypes.append(dtype) or contextlib.nullcontext())
    step = benchmark._contender(name, TINY, CPU)
    ((net, training),) = seen
    assert (training.precision, training.compile) == (precision, compiled)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert step() is None
    assert dtypes == [getattr(torch, precision)]
    moved = {key for key, value in net.state_dict().items() if not value.equal(before[key])}
    assert moved == set(before)  # the update is part of the step
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.fixture
def gpu(monkeypatch):
    """A processor in the part of a GPU."""
    monkeypatch.setattr(Workload, "on_gpu", True)


OURS_ON_A_GPU = ["hunyuan dropless", "hunyuan recycle 1.25", "hunyuan bfloat16 moments"]
PEER_ON_A_GPU = "transformers grouped_mm bfloat16 compiled"


def test_on_a_gpu_contenders_follow_one_another_each_with_its_ceilings(gpu, turns):
    done = []
    frame = training_table(TINY, rounds=2, steps=3, peer=True, progress=done.append)
    assert list(frame["contender"]) == [CEILING, *OURS_ON_A_GPU, PEER_ON_A_GPU]
    rounds = [(CEILING, 3), ("", 3)] * 2
    followed = [
        (at or name, what) for name in frame["contender"][1:] for at, what in [("", "started"), *rounds, ("", "ended")]
    ]
    assert turns == [(CEILING, "started"), *followed, (CEILING, "ended")]
    assert len(done) == benchmark.turns(TINY, list(frame["contender"]), 2)


@pytest.mark.parametrize("name", OURS_ON_A_GPU)
def test_on_a_gpu_the_step_is_that_of_training(gpu, monkeypatch, name):
    seen, steps = [], []
    monkeypatch.setattr("model.training.prepare.prepare", lambda net, training, device: seen.append((net, training)))
    real = TrainStep.__call__
    monkeypatch.setattr(TrainStep, "__call__", lambda self, *at: steps.append(at) or real(self, *at))
    step = benchmark._contender(name, TINY, CPU)
    ((net, training),) = seen
    assert training == TrainingConfig(
        sequence_length=16,
        global_batch_tokens=32,
        micro_batch_size=2,
        moments="bfloat16" if "moments" in name else "float32",
    )
    assert net.config.moe_routing == ("recycle" if "recycle" in name else "dropless")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert step() is None and step() is None
    assert steps == [(0, training.learning_rate), (1, training.learning_rate)]
    assert not any(value.equal(before[key]) for key, value in net.state_dict().items())


def test_workloads_by_name():
    large = benchmark.workload(None, "cuda", 2)
    assert (large.shape, large.tokens, large.config.vocab_size) == ("large", 32_768, 32_768)
    assert round(total_params(large.config) / 1e9, 2) == 1.83
    assert round(large.tokens * benchmark.causal_flops(large) / 1e13, 2) == 5.86
    assert benchmark.workload(None, "cpu", 2) == Workload()
    toy = benchmark.workload("toy", "cuda:1", 2)
    assert (toy.tokens, toy.config, toy.on_gpu) == (4096, HunyuanConfig.from_name("toy"), True)
    assert "hunyuan dropless eager" in benchmark.contenders(toy, peer=False, compiled=False)


def test_the_ceiling_answers_with_its_rate():
    assert 1e8 < benchmark._contender(CEILING, TINY, CPU)() < 1e14


@pytest.mark.parametrize(("on_gpu", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_ceiling_is_that_of_the_devices_precision(monkeypatch, on_gpu, dtype):
    """On a processor float32, also where its bfloat16 is faster, so that figures of different processors compare."""
    monkeypatch.setattr(Workload, "on_gpu", on_gpu)
    monkeypatch.setattr("model.device.measure_peak_flops", lambda device, precision: precision)
    assert benchmark._contender(CEILING, TINY, CPU)() == dtype


class FakePeer(nn.Module):
    """Has transformers' interface, and the loss w * w."""

    def __init__(self, config):
        super().__init__()
        type(self).last, self.config, self.given = self, config, []
        self.w = nn.Parameter(torch.ones(()))

    def set_experts_implementation(self, name):
        self.experts = name

    def forward(self, **given):
        self.given.append(given)
        return types.SimpleNamespace(loss=self.w.square())


def test_the_peer_has_the_same_shape_and_the_experts_named(monkeypatch):
    """transformers is an extra, so a stand-in takes its place here."""
    stand_in = types.SimpleNamespace(HunYuanMoEV1Config=dict, HunYuanMoEV1ForCausalLM=FakePeer)
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    step = benchmark._contender("transformers grouped_mm float32", TINY, CPU)
    peer = FakePeer.last
    assert peer.config.items() >= {**SIZES, "moe_topk": 1, "tie_word_embeddings": True}.items()
    assert (peer.experts, peer.training) == ("grouped_mm", True)
    assert step() is None
    assert float(peer.w.detach()) < 1 and peer.w.grad is None
    (given,) = peer.given
    assert given["input_ids"].shape == (2, 16) and given["labels"].shape == (2, 16)
    assert given["use_cache"] is False
