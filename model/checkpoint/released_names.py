"""Tensor names of the released Hugging Face folders: one table, read in both directions.

Every tensor of this project is a concatenation, along its rows, of tensors of the release: a SwiGLU's gate and up, and the
experts one after the other. Turning one layout into the other therefore moves bytes and computes nothing.

    layers.3.mlp.experts.gate_up (E, 2F, D)  =  model.layers.3.mlp.experts.0.gate_proj.weight (F, D)
                                                model.layers.3.mlp.experts.0.up_proj.weight   (F, D)
                                                model.layers.3.mlp.experts.1.gate_proj.weight ...

E experts, F intermediate, D hidden. transformers' HunYuanMoEV1 and HunYuanDenseV1 write the same names. Three other
spellings are read: experts stacked in one tensor as transformers 5 holds them in memory, names without "model." of a model
saved without its head, and names with what torch.compile and the wrappers of parallel training put before them.
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
_STACKED = {"mlp.experts.gate_up": "mlp.experts.gate_up_proj", "mlp.experts.down": "mlp.experts.down_proj"}
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_WITHOUT_HEAD = ("embed_tokens.", "layers.", "norm.")


class Part(NamedTuple):
    """One tensor of the release: rows [start, start + rows) of a tensor of this project, seen as a matrix."""

    name: str
    shape: tuple[int, ...]
    start: int
    rows: int


def released_name(name: str) -> str:
    """The release's name of a tensor, from the name in somebody's file."""
    name = _WRAPPERS.sub("", name)
    return f"model.{name}" if name.startswith(_WITHOUT_HEAD) else name


def stacked_experts(layer: int) -> tuple[str, str]:
    """The names of a layer's stacked experts: gate and up (E, 2F, D), down (E, D, F)."""
    gate_up, down = (f"model.layers.{layer}.{name}" for name in _STACKED.values())
    return gate_up, down


def stacked_part_of(name: str, shape: tuple[int, ...]) -> Part | None:
    """The one released tensor that holds the experts of a layer stacked, as a tensor of this project does."""
    match = _IN_LAYER.fullmatch(name)
    if match is None or match[2] not in _STACKED:
        return None
    return Part(f"model.layers.{match[1]}.{_STACKED[match[2]]}", shape, 0, math.prod(shape[:-1]))


def parts_of(name: str, shape: tuple[int, ...], num_experts: int) -> list[Part]:
    """The released tensors that make up one tensor of this project, in the order of its rows."""
    names = _released(name, num_experts)
    if len(shape) == 1:
        return [Part(names[0], shape, 0, shape[0])]
    rows = math.prod(shape[:-1]) // len(names)
    return [Part(name, (rows, shape[-1]), index * rows, rows) for index, name in enumerate(names)]


def _released(name: str, num_experts: int) -> list[str]:
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        return [name if name.startswith("lm_head") else f"model.{name}"]
    layer, in_layer = match.groups()
    parts = _LAYER.get(in_layer, (in_layer,))
    experts = range(num_experts) if "{e}" in parts[0] else range(1)
    return [f"model.layers.{layer}.{part.format(e=e)}" for e in experts for part in parts]
