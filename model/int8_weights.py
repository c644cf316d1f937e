"""A model with int8 weights (model/layers/int8.py), made of one in floating point as it is loaded."""

import torch
from torch import nn

from model.errors import ConfigError
from model.layers.int8 import quantize
from model.layers.linear import Linear
from model.moe.experts import Experts
from model.transformer import Hunyuan


def check_int8(dtype: str | None, *, experts_on_disk: bool) -> None:
    """ConfigError where int8 weights cannot be had, before any are read."""
    if experts_on_disk:
        raise ConfigError(["int8 weights need their experts in memory: leave out --weights int8, or --experts disk"])
    if dtype == "float16":
        raise ConfigError([_FLOAT16])


@torch.no_grad()
def to_int8(net: Hunyuan, device: torch.device | str) -> Hunyuan:
    """The model on a device, its linear maps and experts as int8. Each comes there by itself: both never lie side by side.

    ConfigError for a model in float16, or with a weight that is not finite.
    """
    if net.embed_tokens.weight.dtype == torch.float16:
        raise ConfigError([_FLOAT16])
    for path, module in net.named_modules():
        if isinstance(module, Linear) and module is not net.lm_head:
            _replace(module, "weight", "scale", path, device)
        elif isinstance(module, Experts):
            _replace(module, "gate_up", "gate_up_scale", path, device)
            _replace(module, "down", "down_scale", path, device)
    return net.to(device).eval()


def _replace(module: nn.Module, name: str, scale_name: str, path: str, device: torch.device | str) -> None:
    try:
        values, scale = quantize(getattr(module, name).to(device))
    except ValueError as error:
        problem = f"{path}.{name} has a value that is not finite, and no int8 form: take a checkpoint from before"
        raise ConfigError([f"{problem} training went wrong"]) from error
    setattr(module, name, nn.Parameter(values, requires_grad=False))
    setattr(module, scale_name, scale)


# Sums of up to 127 times a value pass float16's 65,504.
_FLOAT16 = "int8 weights compute in bfloat16 or float32: give --dtype bfloat16"
