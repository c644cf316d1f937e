"""AdamW's parameter groups: who is in which, at which rate, and with which decay."""

import pytest
import torch
from torch import nn

from model import Hunyuan, HunyuanConfig
from model.counts import parameter_counts, total_params
from model.moe.experts import Experts
from model.moe.layer import Router
from model.training.config import TrainingConfig
from model.training.optimizer import build_optimizer, describe_groups, parameter_groups, set_learning_rate

MODELS = {
    "mixture": {},
    "dense": {"num_experts": 1, "num_shared_expert": 0},
    "no shared expert": {"num_shared_expert": 0, "moe_topk": 2},
    "every option": {"attention_bias": True, "tie_word_embeddings": False, "expert_bias_update_rate": 0.01},
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request):
    return HunyuanConfig.from_name(
        "toy", vocab_size=64, hidden_size=16, intermediate_size=8, num_hidden_layers=2, head_dim=8, **request.param
    )


def expected_role(net: nn.Module) -> dict[str, str]:
    """The role of every parameter by the kind of module that holds it."""
    roles = {}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            kind = {Router: "router", Experts: "routed_experts"}.get(type(module), "shared_and_rest")
            roles[name] = kind if parameter.dim() > 1 else "no_decay"
    return roles


def test_every_parameter_is_in_the_one_group_of_its_role(model):
    net = Hunyuan(model)
    groups = parameter_groups(dict(net.named_parameters()), model, TrainingConfig())
    found = [(name, group["name"]) for group in groups for name in group["names"]]
    assert sorted(found) == sorted(expected_role(net).items())
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(map(id, net.parameters()))
    assert all(len(group["names"]) == len(group["params"]) for group in groups)


def test_only_vectors_are_spared_the_decay_and_only_routed_experts_slowed(model):
    config = TrainingConfig(learning_rate=0.01, weight_decay=0.3, expert_lr_scale=0.5)
    optimizer = build_optimizer(Hunyuan(model), model, config)
    table = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    expected = {"shared_and_rest": (0.01, 0.3), "router": (0.01, 0.3), "routed_experts": (0.005, 0.3)}
    expected |= {"no_decay": (0.01, 0.0)}
    assert table == {name: row for name, row in expected.items() if name in table}
    assert ("router" in table) == ("routed_experts" in table) == (not model.is_dense)


def test_the_schedule_moves_every_group_by_its_scale():
    model = HunyuanConfig.from_name("toy")
    optimizer = build_optimizer(Hunyuan(model), model, TrainingConfig())
    set_learning_rate(optimizer, 1.0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {
        "shared_and_rest": 1.0, "router": 1.0, "routed_experts": pytest.approx(0.31, abs=0.005), "no_decay": 1.0,
    }  # fmt: skip


def test_adamw_takes_its_settings():
    model = HunyuanConfig.from_name("toy")
    optimizer = build_optimizer(Hunyuan(model), model, TrainingConfig(beta1=0.8, beta2=0.9, epsilon=1e-6))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-6)}


def test_described_groups_add_up_to_the_closed_form(model):
    rows = describe_groups(build_optimizer(Hunyuan(model), model, TrainingConfig()), 0.02)
    assert sum(row["params"] for row in rows) == total_params(model)
    by_name = {row["name"]: row["params"] for row in rows}
    counts = parameter_counts(model)
    assert by_name.get("routed_experts", 0) == counts["routed"].total
    assert by_name.get("router", 0) == counts["router"].total
    assert all(row["lr"] == pytest.approx(0.02 * row["lr_scale"]) for row in rows)


def test_a_role_that_matches_nothing_is_an_error():
    model = HunyuanConfig.from_name("toy")
    with pytest.raises(ValueError, match="no parameter has the role router"):
        parameter_groups(dict(nn.Linear(2, 2).named_parameters()), model, TrainingConfig())
