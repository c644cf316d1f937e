"""What the bench of several processes counts and reports."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from analyses.bench import processes
from analyses.bench.overlap import overlap_of
from analyses.bench.training import Workload
from model.config.hunyuan import HunyuanConfig
from model.parallel.layout import Layout
from tests.parallel.pool import Pool

SHAPE = HunyuanConfig(
    vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    head_dim=8, num_experts=4,
)  # fmt: skip
WORK = Workload(SHAPE, 2, 8, "cpu", 1, "tiny")


def test_the_contenders_are_those_that_the_model_allows() -> None:
    assert list(processes.layouts(2, SHAPE)) == ["apart", "replicate", "fsdp", "ep", "ep x fsdp"]
    assert list(processes.layouts(2, SHAPE, on_gpu=True))[-1] == "fsdp regathered"
    assert list(processes.layouts(3, SHAPE)) == ["apart", "replicate", "fsdp"]  # 4 experts on 3 processes


@pytest.mark.slow
def test_counted_bytes_are_those_that_are_sent() -> None:
    """Every collective of a step on two ranks is seen; the numbers of its result and of rows are no weights."""
    pool = Pool(2)
    try:
        for name, layout in processes.layouts(2, SHAPE).items():
            if name == processes.APART:
                continue
            sent = sum(pool.run(_sent, layout)) / 2  # rows of experts are not balanced: a mean of both
            assert sent == pytest.approx(processes.sent_bytes(WORK, layout), rel=0.03), name
    finally:
        pool.close()


def _sent(rank: int, layout: Layout) -> float:
    torch.set_num_threads(1)
    with patch("model.kernels.onednn.has_bfloat16_units", lambda: False):  # float32, whatever the processor has
        step, seen = processes._step(rank, WORK, layout, torch.device("cpu")), [0.0]

    def seeing(function: Any, factor: float, place: int) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            tensors = [*given, *named.values()]
            seen[0] += factor * tensors[place].numel() * tensors[place].element_size()
            return function(*given, **named)

        return call

    whole = {"all_gather_into_tensor": (0.5, 0), "all_gather_single": (0.5, 0), "all_reduce": (1.0, 0)}
    whole |= {"reduce_scatter_tensor": (0.5, 1), "reduce_scatter_single": (0.5, 1), "all_to_all_single": (0.5, 1)}
    step()
    with patch.multiple(dist, **{n: seeing(getattr(dist, n), *how) for n, how in whole.items() if hasattr(dist, n)}):
        step()
    return seen[0]


def test_a_row_compares_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weak scaling: two processes have twice the tokens; what they send takes its time at the measured bandwidth."""
    seconds = {1: [0.5, 0.4, 0.6], 2: [0.8, 0.5, 0.5]}

    @contextlib.contextmanager
    def ranks(work: Workload, layout: Layout, members: int, *, keep_gathered: bool | None) -> Iterator[Any]:
        del work, keep_gathered
        if layout.shard == 1 < layout.processes == 2 > layout.expert_parallel:
            raise RuntimeError("no room")
        bandwidth = 1e6 * (layout.processes - 1)
        yield lambda steps, profile: processes.Answer(seconds[members], 7 * members, bandwidth, 4.0, None)

    monkeypatch.setattr(processes, "ranks", ranks)
    done: list[int] = []
    table = processes.processes_table(WORK, 2, rounds=2, progress=done.append).set_index("contender")
    assert len(done) == 2 * 5
    assert table.loc["1 process", ["tokens_per_second", "speedup", "of_ideal", "sent_bytes"]].tolist() == [32, 1, 1, 0]
    fsdp = table.loc["fsdp"]
    assert fsdp[["tokens_per_second", "speedup", "of_ideal", "peak_memory_bytes"]].tolist() == [64, 2, 1, 14]
    assert fsdp["step_seconds"] == 0.5
    assert fsdp["bus_seconds"] == fsdp["sent_bytes"] / 1e6 > 0
    assert table.loc["apart", ["speedup", "sent_bytes"]].tolist() == [2, 0]
    assert table.loc["replicate", "failed"] == "no room"
    some = processes.processes_table(WORK, 2, rounds=1, only=["ep"])
    assert some["contender"].tolist() == ["1 process", "ep"]


def test_overlap_is_what_a_trace_says_of_kernels() -> None:
    """Of two steps: products from 0 to 6 and 8 to 10, NCCL from 4 to 9; the annotation around them is no kernel."""
    events = [
        {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length}
        for cat, name, start, length in (
            ("kernel", "gemm", 0, 6), ("kernel", "swiglu", 1, 2), ("gpu_memcpy", "Memcpy", 8, 2), ("kernel", "gemm", 14, 2),
            ("kernel", "ncclDevKernel_SendRecv", 4, 5), ("gpu_user_annotation", "nccl:all_to_all", 0, 100),
        )
    ]  # fmt: skip
    found = overlap_of([*events, {"ph": "M", "name": "process_name"}], 2)
    assert found == pytest.approx([5e-6, 2.5e-6, 1.5e-6, 2e-6])
