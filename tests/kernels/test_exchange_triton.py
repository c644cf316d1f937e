"""The mixture whose experts lie on two ranks, by the kernels of one, against that of one process on all tokens.

Each rank has its own tokens; experts' gradients are those of all, the rest is summed over ranks.
"""

import pytest
import torch
import torch.distributed as dist
from test_experts_triton import POLICIES, layer_of, relative

from model.kernels import mixture as operator
from model.moe.layer import MoE
from model.parallel.exchange import ParallelExperts
from tests.parallel.pool import Pool

CHANGES = {
    "dropless": {"moe_topk": 2},
    "drop": {"moe_topk": 2},
    "recycle-1.25": {"num_shared_expert": 0},
    "one rank has all": {},
}


def given(policy: str, changes: dict[str, int], rank: int, all_to_one: bool) -> tuple[MoE, torch.Tensor, torch.Tensor]:
    layer, hidden, keys = layer_of(policy, torch.device("cpu"), **changes)
    hidden = hidden.roll(7 * rank, 0) * (1 + rank / 4)
    if all_to_one:
        hidden[:, 0], layer.router.weight.data = 1.0, torch.zeros_like(layer.router.weight)
        layer.router.weight.data[0, 0] = 9.0
    return layer, hidden.bfloat16().float().requires_grad_(), keys


def results(layer: MoE, hidden: torch.Tensor, keys: torch.Tensor) -> dict[str, torch.Tensor]:
    cotangent = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        output, aux, stats = layer(hidden, keys)
    assert aux is not None and stats is not None
    tensors = {"hidden": hidden} | dict(layer.named_parameters())
    gradients = torch.autograd.grad((output * cotangent).sum() + aux, list(tensors.values()))
    counts = torch.cat([part.flatten().float() for part in stats[1:]])
    return {"output": output.detach(), "aux": aux.detach(), "counts": counts} | dict(
        zip(tensors, gradients, strict=True)
    )


def on_rank(rank: int, policy: str, changes: dict[str, int], all_to_one: bool) -> dict[str, torch.Tensor]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # NaN, wherever nothing was written
    operator.uses_triton = lambda tensor: True
    layer, hidden, keys = given(policy, changes, rank, all_to_one)
    c, whole = layer.config, layer.experts
    layer.experts = ParallelExperts(c.num_experts, c.hidden_size, c.intermediate_size, dist.group.WORLD)
    for name, parameter in layer.experts.named_parameters():
        parameter.data = getattr(whole, name).data.chunk(2)[rank].clone()
    return results(layer, hidden, keys)


@pytest.fixture(scope="module")
def pool():
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.mark.parametrize("name", CHANGES)
def test_two_ranks_compute_what_one_does(pool: Pool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, all_to_one = (name, False) if name in POLICIES else ("dropless", True)
    found = pool.run(on_rank, policy, CHANGES[name], all_to_one)
    monkeypatch.setattr(operator, "uses_triton", lambda tensor: True)
    alone = [results(*given(policy, CHANGES[name], rank, all_to_one)) for rank in range(2)]
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one["counts"], other["counts"])
        for tensor in ("output", "aux", "hidden"):
            assert one[tensor].isfinite().all() and relative(one[tensor], other[tensor]) < 1e-3, tensor
    for tensor in alone[0].keys() - {"output", "aux", "hidden", "counts"}:
        whole = alone[0][tensor] + alone[1][tensor]
        summed = [one[tensor] for one in found]
        together = torch.cat(summed) if ".experts." in f".{tensor}" else summed[0] + summed[1]
        assert relative(together, whole) < 1e-2, tensor
