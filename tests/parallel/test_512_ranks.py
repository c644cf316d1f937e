"""Hunyuan-Large, 389B parameters without storage, shared out over 512 ranks of torch's fake backend: what a rank holds is what
`hunyuan params` says, and no rank holds much more than another. Nothing is computed: a plan, not a run."""

import dataclasses
import json
from math import prod

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from hunyuan_cli.main import run
from model.config import HunyuanConfig
from model.memory import training_memory
from model.parallel.layout import Layout
from model.parallel.pieces import piece_of
from model.parallel.shard import build
from model.parallel.start import ranks_of
from model.transformer import Hunyuan

LARGE = HunyuanConfig.from_name("hunyuan-large")
SIZES = {"processes": 512, "expert_parallel": 16}


def shared_out(rank, layout):
    """The parts that a rank of the layout holds of the model, split for training in bfloat16, on meta."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.processes)
    try:
        ranks = dataclasses.replace(ranks_of(layout, rank, torch.device("cpu")), device=torch.device("meta"))
        return list(build(LARGE, ranks, split=True, prepare=lambda net: None).parts.values())
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_rank_holds_what_params_says(capsys):
    arguments = ["params", "--devices", "512", "--expert-parallel", "16", "--format", "json"]
    assert run(arguments) == 0
    memory = json.loads(capsys.readouterr().out)["training_memory"]["per_device"]
    parts = shared_out(0, Layout(**SIZES))
    count = sum(part.numel() for part in parts)
    assert count == 768_064_768
    assert memory["weights"]["bytes"] == sum(part.nbytes for part in parts)
    split = sum(part.numel() for part in parts if part.dtype == torch.bfloat16)
    assert memory["optimizer"]["bytes"] == 8 * count + 2 * split
    assert memory["gradients"]["bytes"] == 4 * count
    last = sum(part.numel() for part in shared_out(511, Layout(**SIZES)))
    assert last == 711_875_840  # rows of dense weights that 512 does not divide: the last ranks have none of those


@pytest.mark.parametrize(
    ("sizes", "least", "most"),
    [
        (SIZES, 0.925, 1.005),
        (SIZES | {"expert_parallel": 4}, 0.925, 1.005),
        (SIZES | {"context_parallel": 8}, 0.925, 1.005),
        (SIZES | {"expert_parallel": 2, "context_parallel": 8}, 0.925, 1.005),
        (SIZES | {"processes": 1024}, 0.925, 1.02),
        (SIZES | {"processes": 2048}, 0.925, 1.07),
    ],
    ids=str,
)
def test_no_rank_holds_much_more_than_another(sizes, least, most):
    """Of the mean over ranks: the pieces of one block that owns its keys and one that does not, 32 times, and the rest."""
    layout = Layout(**sizes)
    with torch.device("meta"):
        net = Hunyuan(LARGE.replace(num_hidden_layers=2))
    times = {name: 32 if name.startswith("layers.") else 1 for name, _ in net.named_parameters()}
    wholes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    held = [
        sum(times[name] * prod(piece_of(layout, rank, name, whole).shape) for name, whole in wholes.items())
        for rank in range(layout.processes)
    ]
    mean = sum(held) / len(held)
    assert least * mean < min(held) and max(held) < most * mean
    assert held[0] == max(held)
    memory = training_memory(LARGE, batch=1, context=8192, layout=layout)
    assert memory.gradients == 4 * held[0]  # the rank that params and scale-plan count
