"""Rotary position embedding (RoFormer, arXiv:2104.09864) with the base, linear and alpha forms of scaling.

The two halves of a head are the pairs, as in the released code. S positions, P head size.
"""

import torch
from torch import Tensor

from model.config.hunyuan import HunyuanConfig


def inverse_frequencies(config: HunyuanConfig, device: torch.device | str = "cpu") -> Tensor:
    """Radians per position of each pair (P / 2,) in float32.

    Hunyuan-Large's release keeps them in bfloat16 where nothing scales them; its alpha form computes them anew in float32.
    """
    exponent = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_base**exponent
    if config.convention == "hunyuan-large" and config.rope_scaling is None:
        return frequencies.bfloat16().float()
    if config.rope_scaling is not None and config.rope_scaling["type"] == "linear":
        return frequencies / config.rope_scaling["factor"]
    return frequencies


def rope_table(config: HunyuanConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """positions (..., S) -> cos, sin (..., S, 1, P) in float32: one angle per pair for both halves, and -sin for the first."""
    angles = positions[..., None, None].float() * inverse_frequencies(config, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of heads (B, S, H, P) by its position's angle, in float32; cos and sin of `rope_table`."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((second, first), dim=-1) * sin
