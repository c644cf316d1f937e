"""Training on ranks is training in one process: losses, norms, routing and gradients of eight steps."""

import functools
from collections.abc import Callable

import pytest
import torch
from pool import Pool
from steps import Case, Recorded, alone, on_ranks

from model.parallel.layout import Layout

ALIKE = 1e-6  # relative, of what differs by the order of sums alone
CASES = {
    "dropless": Case({"num_shared_expert": 1}),
    "drop top-2": Case({"moe_routing": "drop", "moe_topk": 2, "capacity_factor": 1.0, "tie_word_embeddings": True}),
    "recycle": Case({"moe_routing": "recycle", "capacity_factor": 1.0, "router_z_loss_coef": 0.01}),
    "recomputed": Case(
        {"moe_routing": "recycle", "moe_topk": 2, "capacity_factor": 1.25}, {"recompute": True, "max_grad_norm": 0.1}
    ),
    "expert rate and bias": Case({"expert_bias_update_rate": 0.01}, {"expert_lr_scale": 0.3, "max_grad_norm": 0.1}),
    "dense": Case({"num_experts": 1, "num_shared_expert": 0, "moe_topk": 1}),
}
TWO = {
    "fsdp": Layout(processes=2),
    "replicate": Layout(processes=2, shard=1),
    "ep": Layout(processes=2, expert_parallel=2, shard=1),
    "ep x fsdp": Layout(processes=2, expert_parallel=2),
}
FOUR = {
    "fsdp": Layout(processes=4),
    "hsdp": Layout(processes=4, shard=2),
    "ep": Layout(processes=4, expert_parallel=4, shard=1),
    "ep x fsdp": Layout(processes=4, expert_parallel=2),
    "ep x hsdp": Layout(processes=4, expert_parallel=2, shard=2),
}


@functools.cache
def expected(name: str) -> Recorded:
    return alone(CASES[name])


def layouts(case: str, all_: dict[str, Layout]) -> list[Layout]:
    """A dense model has no experts to share out."""
    return [
        layout for layout in all_.values() if layout.expert_parallel == 1 or CASES[case].settings.model.num_experts > 1
    ]


def assert_alike(found: list[Recorded], one: Recorded) -> None:
    for rank in found:
        assert torch.tensor(rank.numbers).allclose(torch.tensor(one.numbers), rtol=ALIKE, atol=0)
        assert len(rank.routing) == len(one.routing)
        for step, expected_step in zip(rank.routing, one.routing, strict=True):
            assert step[1:] == expected_step[1:], "counts are exact"
            assert step[0] == pytest.approx(expected_step[0], rel=ALIKE)
        for step, whole in zip(rank.gradients, one.gradients, strict=True):
            assert step.keys() == whole.keys()
            length = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
            off = {name: (gradient - whole[name][rank.places[name]]).norm() for name, gradient in step.items()}
            assert torch.stack(list(off.values())).norm() <= ALIKE * length
            for (
                name,
                distance,
            ) in off.items():  # a tensor whose gradient is a difference of large sums shows more of them
                assert distance <= 20 * ALIKE * whole[name].norm(), name


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one_process(ranks: Callable[[int], Pool], case: str) -> None:
    for layout in layouts(case, TWO):
        assert_alike(ranks(2).run(on_ranks, CASES[case], layout), expected(case))


@pytest.mark.parametrize("case", ["dropless", "recycle", "expert rate and bias"])
def test_four_ranks_train_as_one_process(ranks: Callable[[int], Pool], case: str) -> None:
    for layout in layouts(case, FOUR):
        assert_alike(ranks(4).run(on_ranks, CASES[case], layout), expected(case))


@pytest.mark.parametrize("layout", [TWO["fsdp"], TWO["replicate"]], ids=["fsdp", "replicate"])
def test_two_ranks_are_two_micro_batches_bit_for_bit(ranks: Callable[[int], Pool], layout: Layout) -> None:
    """A sum of two has one rounding, wherever it is made. The norm's is left out: nothing is clipped here."""
    case = Case({"moe_routing": "recycle", "capacity_factor": 1.0}, {"max_grad_norm": 1e3}, micro_batches=2)
    one = alone(case)
    for rank in ranks(2).run(on_ranks, case, layout):
        assert [numbers[:2] for numbers in rank.numbers] == [numbers[:2] for numbers in one.numbers]
        for step, whole in zip(rank.gradients, one.gradients, strict=True):
            assert all(torch.equal(step[name], whole[name][place]) for name, place in rank.places.items())
        assert all(torch.equal(rank.weights[name], one.weights[name][place]) for name, place in rank.places.items())


def test_a_run_on_ranks_is_the_same_twice(ranks: Callable[[int], Pool]) -> None:
    first, second = (ranks(2).run(on_ranks, CASES["recycle"], TWO["ep x fsdp"]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.numbers == other.numbers
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
