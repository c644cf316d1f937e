"""Who holds and does what: every piece of work and of the weights has its rank, and sizes that do not fit are refused."""

import subprocess
import sys

import pytest

from model.errors import ConfigError
from model.parallel.layout import Layout


def test_micro_batches_and_experts_each_have_one_rank_of_a_group() -> None:
    layout = Layout(processes=8, expert_parallel=4, context_parallel=2)
    assert (layout.data_parallel, layout.shard, layout.replicate) == (4, 8, 1)
    assert (layout.expert_shard, layout.expert_replicate) == (2, 1)
    taken = [list(layout.micro_batches_of(rank, 8)) for rank in range(8)]
    assert taken == [[0, 4], [0, 4], [1, 5], [1, 5], [2, 6], [2, 6], [3, 7], [3, 7]]
    assert [layout.context_index(rank) for rank in range(4)] == [0, 1, 0, 1]
    held = [list(layout.experts_of(rank, 8)) for rank in range(8)]
    assert held == [[0, 1], [2, 3], [4, 5], [6, 7]] * 2


@pytest.mark.parametrize(
    ("layout", "replicate", "expert_shard", "expert_replicate"),
    [
        (Layout(processes=4), 1, 4, 1),  # FSDP
        (Layout(processes=4, shard=1), 4, 1, 4),  # replicate
        (Layout(processes=4, shard=2), 2, 2, 2),  # HSDP
        (Layout(processes=4, shard=1, expert_parallel=2), 4, 1, 2),
        (Layout(processes=4, expert_parallel=2), 1, 2, 1),
        (Layout(processes=4, expert_parallel=4), 1, 1, 1),
    ],
)
def test_copies_of_the_weights(layout: Layout, replicate: int, expert_shard: int, expert_replicate: int) -> None:
    assert (layout.replicate, layout.expert_shard, layout.expert_replicate) == (
        replicate,
        expert_shard,
        expert_replicate,
    )


def test_experts_are_split_inside_where_there_are_more_ranks_than_experts() -> None:
    assert Layout(processes=4, expert_parallel=2).expert_shard_dim(4) == 0
    assert Layout(processes=4, expert_parallel=4).expert_shard_dim(4) == 0
    assert Layout(processes=512, expert_parallel=16).expert_shard_dim(16) == 1


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"processes": 0}, "--processes is 0: it must be 1 or more"),
        (
            {"processes": 6, "expert_parallel": 4},
            "--expert-parallel is 4 and must divide the 6 processes: 1, 2, 3 and 6",
        ),
        ({"processes": 6, "context_parallel": 4}, "--context-parallel is 4 and must divide the 6 processes: 1, 2, 3"),
        ({"processes": 6, "expert_parallel": 2, "shard": 3}, "one must divide the other; 1, 2 and 6 fit as --shard"),
    ],
)
def test_sizes_that_do_not_divide_are_one_sentence_with_sizes_that_fit(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        Layout(**sizes)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("fits", "sentence"),
    [
        ({"num_experts": 6}, "--expert-parallel is 4 and must divide the 6 experts: 1 and 2 fit 8 processes"),
        ({"num_experts": 0}, "the model has no routed experts: leave it out"),
        ({"num_experts": 4, "expert_rows": (128, 33)}, "2 processes cannot share out an expert's 33 rows evenly"),
        ({"micro_batches": 6}, "1, 2, 3 and 6 processes fit, or lower training.micro_batch_size .* 8 micro-batches"),
    ],
)
def test_models_and_batches_that_do_not_divide_are_told(fits: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        Layout(processes=8, expert_parallel=4).check_fits(**fits)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 1
    Layout(processes=8, expert_parallel=4).check_fits(micro_batches=8, num_experts=8, expert_rows=(33,))
    with pytest.raises(ConfigError, match="a multiple of 4 tokens"):
        Layout(processes=2, context_parallel=2).check_fits(sequence_length=30)


def test_a_layout_needs_no_torch() -> None:
    code = "import sys, model.parallel.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
