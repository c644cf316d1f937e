"""Tensor names of the released Hugging Face folders: one table, read in both directions.

Every tensor of this project is a concatenation, along its rows, of tensors of the release: a SwiGLU's gate and up, and the
experts one after the other. Turning one layout into the other therefore moves bytes and computes nothing.

    layers.3.mlp.experts.gate_up (E, 2F, D)  =  model.layers.3.mlp.experts.0.gate_proj.weight (F, D)
                                                model.layers.3.mlp.experts.0.up_proj.weight   (F, D)
                                                model.layers.3.mlp.experts.1.gate_proj.weight ...

E experts, F intermediate, D hidden. transformers' HunYuanMoEV1 and HunYuanDenseV1 write the same names.
"""

import math
import re
from typing import NamedTuple

# Within a layer; {e} stands for every expert in turn.
_GATE_AND_UP = ("gate_proj.weight", "up_proj.weight")
_LAYER: dict[str, tuple[str, ...]] = {
    "self_attn.query_norm": ("self_attn.query_layernorm.weight",),
    "self_attn.key_norm": ("self_attn.key_layernorm.weight",),
    "mlp.router.weight": ("mlp.gate.wg.weight",),
    "mlp.gate_up_proj.weight": tuple(f"mlp.{part}" for part in _GATE_AND_UP),
    "mlp.shared_mlp.gate_up_proj.weight": tuple(f"mlp.shared_mlp.{part}" for part in _GATE_AND_UP),
    "mlp.experts.gate_up": tuple(f"mlp.experts.{{e}}.{part}" for part in _GATE_AND_UP),
    "mlp.experts.down": ("mlp.experts.{e}.down_proj.weight",),
}
_IN_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


class Part(NamedTuple):
    """One tensor of the release: rows [start, start + rows) of a tensor of this project, seen as a matrix."""

    name: str
    shape: tuple[int, ...]
    start: int
    rows: int


def parts_of(native: str, shape: tuple[int, ...], num_experts: int) -> list[Part]:
    """The released tensors that make up one tensor of this project, in the order of its rows."""
    names = _released(native, num_experts)
    if len(shape) == 1:
        return [Part(names[0], shape, 0, shape[0])]
    rows = math.prod(shape[:-1]) // len(names)
    return [Part(name, (rows, shape[-1]), index * rows, rows) for index, name in enumerate(names)]


def _released(native: str, num_experts: int) -> list[str]:
    match = _IN_LAYER.fullmatch(native)
    if match is None:
        return [native if native.startswith("lm_head") else f"model.{native}"]
    layer, name = match.groups()
    parts = _LAYER.get(name, (name,))
    experts = range(num_experts) if "{e}" in parts[0] else range(1)
    return [f"model.layers.{layer}.{part.format(e=e)}" for e in experts for part in parts]
