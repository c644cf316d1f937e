"""Training with sequences shared out is training in one process: losses, norms, routing and gradients of eight steps.

With FSDP, expert parallelism and accumulation beside it, as `--context-parallel` runs them.
"""

import pytest
from steps import on_ranks
from test_steps import CASES, assert_alike, expected

from model.parallel.layout import Layout


@pytest.mark.parametrize("case", ["drop top-2", "recomputed", "expert rate and bias"])
def test_two_ranks_that_share_sequences_train_as_one_process(ranks, case):
    layout = Layout(processes=2, context_parallel=2, expert_parallel=2)
    assert_alike(ranks(2).run(on_ranks, CASES[case], layout), expected(case))


@pytest.mark.parametrize(
    "sizes", [{"context_parallel": 2}, {"context_parallel": 4, "expert_parallel": 2}], ids=["data x context", "context"]
)
def test_four_ranks_that_share_sequences_train_as_one_process(ranks, sizes):
    assert_alike(ranks(4).run(on_ranks, CASES["recycle"], Layout(processes=4, **sizes)), expected("recycle"))
