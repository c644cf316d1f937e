"""training.measure_noise_scale on ranks: signal and noise of two steps are those of one process."""

import pytest
import torch
from steps import Case, alone, on_ranks
from test_steps import ALIKE, assert_alike

from model.errors import ConfigError
from model.parallel.layout import Layout
from model.training.held import check_shared

MEASURED = {"measure_noise_scale": True}
CASES = {
    "recomputed": Case({"moe_routing": "recycle", "moe_topk": 2}, MEASURED | {"recompute": True}, steps=2),
    "dense": Case({"num_experts": 1, "num_shared_expert": 0, "moe_topk": 1}, MEASURED, steps=2),
}


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("recomputed", [{"processes": 2}, {"processes": 2, "expert_parallel": 2, "shard": 1}]),
        ("recomputed", [{"processes": 4, "expert_parallel": 2}]),
        ("dense", [{"processes": 2, "shard": 1}]),
    ],
    ids=["fsdp and ep", "ep x fsdp", "dense, replicated"],
)
def test_signal_and_noise_are_those_of_one_process(ranks, name, layouts):
    case, one = CASES[name], alone(CASES[name])
    expected = torch.tensor(one.noise, dtype=torch.float64)
    assert expected.shape[1] == (2 if name == "dense" else 4) and (expected[:, -1] > 0).all()
    for layout in layouts:
        found = ranks(layout["processes"]).run(on_ranks, case, Layout(**layout))
        assert_alike(found, one)
        for rank in found:
            # The signal is a difference, whose rounding is that of what it is taken of.
            off = (torch.tensor(rank.noise, dtype=torch.float64) - expected).abs()
            signal, noise = expected.abs().chunk(2, dim=1)
            tokens = case.settings.training.global_batch_tokens
            assert (off <= ALIKE * torch.cat([signal + noise / tokens, noise + tokens * signal], dim=1)).all()


def test_parts_of_a_sequence_are_refused_in_a_sentence():
    with pytest.raises(ConfigError, match=r"measure_noise_scale needs .* --context-parallel leaves it in parts"):
        check_shared(CASES["dense"].settings, Layout(processes=2, context_parallel=2))
