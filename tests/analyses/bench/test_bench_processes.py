"""What the bench of several processes counts and reports."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from analyses.bench import processes
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
    assert list(processes.layouts(2, SHAPE)) == ["replicate", "fsdp", "ep", "ep x fsdp"]
    assert list(processes.layouts(3, SHAPE)) == ["replicate", "fsdp"]  # 4 experts on 3 processes


@pytest.mark.slow
def test_counted_bytes_are_those_that_are_sent() -> None:
    """Every collective of a step on two ranks is seen; the numbers of its result and of rows are no weights."""
    pool = Pool(2)
    try:
        for name, layout in processes.layouts(2, SHAPE).items():
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
    def ranks(work: Workload, layout: Layout) -> Iterator[Any]:
        yield lambda steps: (seconds[layout.processes], 7 * layout.processes, 1e6 * (layout.processes - 1))

    monkeypatch.setattr(processes, "ranks", ranks)
    done: list[int] = []
    table = processes.processes_table(WORK, 2, rounds=2, progress=done.append).set_index("contender")
    assert len(done) == 2 * 5
    assert table.loc["1 process", ["tokens_per_second", "speedup", "of_ideal", "sent_bytes"]].tolist() == [32, 1, 1, 0]
    fsdp = table.loc["fsdp"]
    assert fsdp[["tokens_per_second", "speedup", "of_ideal", "peak_memory_bytes"]].tolist() == [64, 2, 1, 14]
    assert fsdp["step_seconds"] == 0.5
    assert fsdp["bus_seconds"] == fsdp["sent_bytes"] / 1e6 > 0
