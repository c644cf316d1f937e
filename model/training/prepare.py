"""What is done to a finished model from outside: recomputation and compilation; and what is refused before a step fails."""

import functools

import torch
from torch.utils.checkpoint import checkpoint

from model.config.hunyuan import HunyuanConfig
from model.device import compute_dtype, memory_bytes
from model.errors import ConfigError
from model.kernels import onednn
from model.memory import state_bytes
from model.training.config import TrainingConfig
from model.transformer import Hunyuan


def prepare(net: Hunyuan, config: TrainingConfig, device: torch.device) -> None:
    """Recomputation and compilation of every block, in place; parameter names stay."""
    check_grouped_product(net.config, config, device)
    for layer in net.layers:
        if config.recompute:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        if config.compile:
            layer.compile()


def check_memory(model: HunyuanConfig, device: torch.device) -> None:
    """Refuses a model whose weights, gradients and two AdamW moments are more than the device has."""
    there, needed = memory_bytes(device), state_bytes(model)
    if there is not None and needed > there:
        sizes = f"{needed / 1e9:,.0f} GB before activations and {device.type} has {there / 1e9:,.0f} GB"
        raise ConfigError([f"training this model takes {sizes}: take a smaller model"])


def check_grouped_product(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> None:
    """Refuses what torch's grouped product cannot do, before a step fails inside it; oneDNN takes everything."""
    dtype = compute_dtype(config.precision, device)
    if model.is_dense or (onednn.ONEDNN and device.type == "cpu" and dtype == torch.float32):
        return
    multiple = 16 // dtype.itemsize  # rows must be aligned to 16 bytes
    precision = str(dtype).removeprefix("torch.")
    problems = [
        f"model.{name} is {getattr(model, name)}: in {precision} the experts need a multiple of {multiple} on {device.type}"
        for name in ("hidden_size", "intermediate_size")
        if getattr(model, name) % multiple
    ]
    if config.compile and dtype != torch.bfloat16:
        problems.append(
            "training.compile needs training.precision bfloat16 here: torch traces its grouped product in no other"
        )
    if problems:
        raise ConfigError(problems)
