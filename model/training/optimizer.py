"""AdamW with parameter groups by role: router, routed experts, the rest (shared experts, attention, embedding), no decay."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from model.config.hunyuan import HunyuanConfig
from model.device import compute_dtype
from model.kernels.adamw import Rates
from model.training.config import TrainingConfig
from model.training.schedule import expert_lr_scale
from model.training.split_adamw import SplitAdamW


def role(name: str, parameter: nn.Parameter) -> str:
    """The group of a parameter; vectors (norms, biases) are not decayed."""
    if parameter.dim() < 2:
        return "no_decay"
    if ".router." in name:
        return "router"
    return "routed_experts" if ".experts." in name else "shared_and_rest"


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], model: HunyuanConfig, config: TrainingConfig
) -> list[dict[str, Any]]:
    """AdamW's groups of parameters by name, each with its role as `name`, its `lr_scale` and the `names` in it."""
    expected = (
        ["shared_and_rest", "no_decay"]
        if model.is_dense
        else ["shared_and_rest", "router", "routed_experts", "no_decay"]
    )
    groups = []
    for group in expected:
        members = {name: p for name, p in parameters.items() if role(name, p) == group}
        if not members:
            raise ValueError(f"no parameter has the role {group}: the roles and the model's names have drifted apart")
        scale = expert_lr_scale(model, config) if group == "routed_experts" else 1.0
        decay = 0.0 if group == "no_decay" else config.weight_decay
        groups.append(
            {
                "name": group,
                "names": list(members),
                "params": list(members.values()),
                "lr_scale": scale,
                "lr": config.learning_rate * scale,
                "weight_decay": decay,
            }
        )
    return groups


def build_optimizer(
    net: nn.Module | Mapping[str, nn.Parameter], model: HunyuanConfig, config: TrainingConfig, *, begin: bool = True
) -> torch.optim.Optimizer:
    """torch's AdamW on a processor; on a GPU SplitAdamW, which `begin` has take up the weights as they are.

    Of a model, or of the parts of its parameters that a process holds, by name.
    """
    parameters = dict(net.named_parameters()) if isinstance(net, nn.Module) else net
    groups = parameter_groups(parameters, model, config)
    device = next(iter(parameters.values())).device
    if device.type == "cuda":
        optimizer = SplitAdamW(
            groups,
            rates=Rates(config.beta1, config.beta2, config.epsilon),
            max_grad_norm=config.max_grad_norm,
            split_weights=compute_dtype(config.precision, device) == torch.bfloat16,
            moments={"float32": torch.float32, "bfloat16": torch.bfloat16}[config.moments],
            seed=config.seed,
        )
        if begin:
            optimizer.begin()
        return optimizer
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Gives every group its share of the step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]


def describe_groups(optimizer: torch.optim.Optimizer, learning_rate: float) -> list[dict[str, Any]]:
    """One row per group: name, tensors, params, peak lr, lr_scale, weight_decay."""
    return [
        {
            "name": group["name"],
            "tensors": len(group["params"]),
            "params": sum(parameter.numel() for parameter in group["params"]),
            "lr": learning_rate * group["lr_scale"],
            "lr_scale": group["lr_scale"],
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
    ]
