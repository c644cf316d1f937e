"""model.capacity_scope and model.balance_scope: several processes route their micro-batches as one does a larger one."""

import dataclasses
import itertools
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from steps import Case, alone, on_ranks
from test_steps import assert_alike
from torch import Tensor
from torch._subclasses import FakeTensorMode

from model.moe.losses import load_balance_loss
from model.moe.place_keys import place_keys, routing_key
from model.moe.router import Routing, Scope, drop, recycle, route
from model.parallel import places
from model.parallel.layout import Layout
from model.parallel.places import RoutingGroup
from model.parallel.sequence import SequenceGroup, part_of
from model.parallel.start import ranks_of
from model.training.run_folder import record_layout

EXPERTS, BOTH = 5, {"capacity_scope": "global", "balance_scope": "global", "router_aux_loss_coef": 0.1}


def policies(chosen: Tensor, capacity: int, keys: Tensor, scope: Scope | None = None) -> list[Tensor]:
    return [drop(chosen, EXPERTS, capacity, scope), recycle(chosen, EXPERTS, capacity, keys, scope)]


def placed(rank: int, sharers: int) -> list[tuple[Tensor, Tensor]]:
    """Of skewed choices: where this process's go, and where one process puts the same ones."""
    layout = Layout(processes=dist.get_world_size(), context_parallel=sharers)
    ranks, found = ranks_of(layout, rank, torch.device("cpu")), []
    sequence = SequenceGroup(ranks.context["context"].get_group()) if sharers > 1 else None
    assert dist.group.WORLD is not None
    scope, turns, length = RoutingGroup(dist.group.WORLD, sequence), layout.data_parallel, 8 * sharers
    generator = torch.Generator().manual_seed(0)
    for top_k, rows, factor in itertools.product((1, 2, 3), (1, 3), (0.3, 0.7, 1.0, 1.3)):
        logits = torch.randn(turns, rows, length, EXPERTS, generator=generator) + torch.arange(EXPERTS) ** 2 / 8
        logits[0, :, :3, 0] += 9  # the micro-batches differ
        chosen = logits.topk(top_k).indices
        capacity = int(factor * chosen.numel() / EXPERTS) + 1
        keys = place_keys(routing_key(top_k), 1, EXPERTS * capacity)[0]
        own = chosen[layout.data_index(rank)]
        if sequence is not None:
            sequence.sequences, own = rows, part_of(own, sequence.process, sharers)
        here = policies(own.flatten(0, 1), capacity, keys, scope)
        for part, whole in zip(here, policies(chosen.flatten(0, 2), capacity, keys), strict=True):
            mine = whole.view(chosen.shape)[layout.data_index(rank)]
            found.append((part, mine if sequence is None else part_of(mine, sequence.process, sharers)))
    return [(part, whole.reshape(part.shape)) for part, whole in found]


@pytest.mark.parametrize(("processes", "sharers"), [(2, 1), (4, 1), (2, 2), (4, 2), (4, 4)])
def test_every_choice_goes_where_one_process_sends_it(ranks, processes, sharers):
    for pairs in ranks(processes).run(placed, sharers):
        assert len(pairs) == 48
        assert all(torch.equal(part, whole) for part, whole in pairs)
        assert any((part == EXPERTS).any() for part, _ in pairs)


def balanced(rank: int) -> list[Tensor]:
    """The loss and the gradient of this process's part of a batch, alone and with the others'; and those of the whole."""
    assert dist.group.WORLD is not None
    logits = torch.randn(2, 24, EXPERTS, generator=torch.Generator().manual_seed(1))
    logits[1, :, 2] += 2
    whole, found = logits.flatten(0, 1).requires_grad_(), []
    for rows, scope in ((logits[rank], None), (logits[rank], RoutingGroup(dist.group.WORLD, None)), (whole, None)):
        rows = rows.detach().requires_grad_()
        routing: Routing = route(rows, 2)
        loss = load_balance_loss(routing, scope)
        loss.backward()
        found += [loss.detach(), rows.grad]
    return found


def test_the_balance_loss_is_that_of_the_whole_batch(ranks):
    first, second = ranks(2).run(balanced)
    whole, gradient = first[4:]
    assert float((first[2] + second[2]) / 2) == pytest.approx(float(whole), rel=1e-6)
    torch.testing.assert_close(torch.cat([first[3], second[3]]) / 2, gradient, rtol=1e-5, atol=1e-9)
    assert float((first[0] + second[0]) / 2) > 1.01 * float(whole)  # apart they ask for more than balance of the whole


CASES = {
    "drop": ({"moe_routing": "drop", "capacity_factor": 1.0, "expert_bias_update_rate": 0.01}, {}),
    "recycle top-2": ({"moe_routing": "recycle", "moe_topk": 2, "capacity_factor": 0.9}, {"recompute": True}),
    "drop top-3": ({"moe_routing": "drop", "moe_topk": 3, "capacity_factor": 0.8}, {"recompute": True}),
    "recycle": ({"moe_routing": "recycle", "capacity_factor": 1.0, "router_z_loss_coef": 0.01}, {}),
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("drop", Layout(processes=2, expert_parallel=2)),
        ("recycle top-2", Layout(processes=2, shard=1)),
        ("drop top-3", Layout(processes=4, context_parallel=2, expert_parallel=2)),
        ("recycle", Layout(processes=4, expert_parallel=2, shard=2)),
    ],
    ids=["drop", "recycle top-2", "drop top-3", "recycle"],
)
def test_ranks_train_as_one_process_with_larger_micro_batches(ranks, name, layout):
    """Losses, norms, counts and every gradient of three steps, with two micro-batches accumulated where dp is 2."""
    model, training = CASES[name]
    case = Case(model | BOTH, training, steps=3)
    one = alone(dataclasses.replace(case, together=layout.data_parallel))
    assert_alike(ranks(layout.processes).run(on_ranks, case, layout), one)
    assert one.numbers != alone(case).numbers


def test_one_process_has_nothing_to_share():
    model = {"moe_routing": "recycle", "capacity_factor": 1.0}
    assert (
        alone(Case(model | BOTH)).numbers
        == alone(Case(model | BOTH | dict.fromkeys(list(BOTH)[:2], "micro_batch"))).numbers
    )


def exchanged(rank: int, recompute: bool) -> Counter[str]:
    """How often a process exchanges counts in a step of one micro-batch."""
    found: Counter[str] = Counter()
    model = {"moe_routing": "recycle", "moe_topk": 2, **BOTH}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_chunks", "sum"):
            was = getattr(RoutingGroup, name)
            patch.setattr(
                RoutingGroup, name, lambda self, x, name=name, was=was: (found.update([name]), was(self, x))[1]
            )
        on_ranks(rank, Case(model, {"recompute": recompute}, micro_batches=2, steps=1), Layout(processes=2))
    return found


def test_counts_are_exchanged_once_a_layer_and_once_more_when_it_is_recomputed(ranks):
    for recompute in (False, True):
        expected = Counter(dict.fromkeys(("all_chunks", "sum"), 3 * (1 + recompute)))
        assert ranks(2).run(exchanged, recompute) == [expected, expected]


def test_the_host_reads_no_count(monkeypatch):
    """Tensors without values: whatever waits for one of a device raises."""
    monkeypatch.setattr(places, "all_gather", lambda *_, **__: None)
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: None)
    group: Any = SimpleNamespace(size=lambda: 4, rank=lambda: 3)
    sequence: Any = SimpleNamespace(processes=2, process=1, sequences=3)
    for scope in (RoutingGroup(group, None), RoutingGroup(group, sequence)):
        with FakeTensorMode():
            keys = place_keys(routing_key(0), 1, EXPERTS * 40)[0]
            logits = torch.randn(48, EXPERTS, requires_grad=True)
            routing = route(logits, 2, policy="recycle", capacity=40, place_keys=keys, scope=scope)
            assert load_balance_loss(routing, scope).requires_grad
            with pytest.raises(RuntimeError):
                int(routing.dropped)


def test_going_on_with_other_processes_is_recorded_and_told_where_it_matters(tmp_path):
    record = tmp_path / "environment.json"
    record.write_text("{}")
    apart, both = (Case({"moe_routing": "drop"} | model).settings.model for model in ({}, BOTH))
    assert record_layout(tmp_path, both, None, 3) == "" and record.read_text() == "{}"
    two, shared = Layout(processes=2), Layout(processes=2, context_parallel=2)
    said = record_layout(tmp_path, both, two, 3)
    assert said.startswith("micro-batches that are routed as one: 2 from here on, 1 before, because what is global")
    assert record_layout(tmp_path, both, two, 4) == ""
    assert "1 from here on, 2 before" in record_layout(tmp_path, both, shared, 5)
    assert record_layout(tmp_path, apart, two, 6) == ""
    changes = json.loads(record.read_text())["changes"]
    assert [(change["step"], change["layout"]["context_parallel"]) for change in changes] == [(3, 1), (5, 2), (6, 1)]
