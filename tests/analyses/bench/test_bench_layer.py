"""`hunyuan bench layer`: its ratios, its work, and that every contender computes a pass of it."""

import pytest
import torch

from analyses.bench import layer as bench
from analyses.bench.training import CEILING
from model.counts import parameter_counts

TINY = bench.LayerWork(hidden_size=32, intermediate_size=48, tokens=64, num_experts=4)


def test_ratios_pair_the_contenders_of_a_round():
    """A machine that halves its speed in the second round changes no ratio."""
    seconds = {CEILING: [1.0, 2.0], bench.DENSE: [2.0, 4.0], bench.DROPLESS: [2.5, 5.0], bench.RECYCLE: [4.0, 8.0]}
    rows = {row["contender"]: row for row in bench._rows(TINY, seconds | {bench.PEER: [5.0, 10.0]})}
    assert rows[bench.DENSE]["of_ceiling"] == 0.5 and "of_dense" not in rows[bench.DENSE]
    assert rows[bench.DROPLESS]["of_dense"] == rows[bench.DROPLESS]["least_of_dense"] == 0.8
    assert rows[bench.DROPLESS]["of_peer"] == 2.0 and rows[bench.PEER]["of_dense"] == 0.4
    assert rows[bench.RECYCLE]["milliseconds"] == 6000


def test_the_work_is_that_of_the_activated_weights():
    counts = parameter_counts(TINY.config)
    weights = sum(counts[part].activated for part in ("shared", "routed"))
    assert TINY.flops == 6 * TINY.tokens * weights
    assert {work.device for work in bench.workloads("cuda")} == {"cuda"} and len(bench.workloads("cpu")) == 1


@pytest.mark.parametrize("peer", [False, True])
def test_every_contender_takes_its_turns(peer):
    if peer:
        pytest.importorskip("transformers")
    turns = []
    table = bench.layer_table([TINY], rounds=2, steps=1, peer=peer, progress=turns.append)
    assert table["contender"].tolist() == bench.contenders(peer=peer)
    assert len(turns) == 2 * len(table) and (table["milliseconds"] > 0).all()
    assert table.set_index("contender").loc[[bench.DROPLESS, bench.RECYCLE], "of_dense"].notna().all()


def test_both_policies_run_on_the_same_weights():
    turns = bench._turns(TINY, torch.device("cpu"), peer=False)
    assert set(turns) == {CEILING, bench.DENSE, bench.DROPLESS, bench.RECYCLE}
    for name, turn in turns.items():
        assert (turn() is None) == (name != CEILING)
