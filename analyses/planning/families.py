"""Families of shapes: the same proportions at every size, so that a number of parameters becomes a model.

A family fixes the proportions. A rung is one of its widths with a depth. Depths are even, since layers share keys and values
in pairs (CLA 2). They lie within a third of the depth that the family's rule gives for the width, so that there are many
sizes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from model.config.hunyuan import HunyuanConfig
from model.config.presets import PRESETS, ladder
from model.counts import activated_params

AROUND = (0.8, 0.9, 1.1, 1.25)  # candidates around the optimum, as parts of N_opt
SLENDER = 0.1  # weight of the error in depth (in log) against the error in parameters (in log)


@dataclass(frozen=True)
class Rung:
    hidden_size: int
    layers: int
    activated: int
    off_rule: float  # |log(depth / depth by the family's rule)|


@dataclass(frozen=True, kw_only=True)
class Family:
    name: str
    widths: tuple[int, ...]
    width_per_layer: int  # the rule of its depth
    settings: Callable[[int, int, int], dict[str, Any]]  # of hidden size, layers, vocabulary
    vocab_size: Callable[[float], int]  # the default for a number of activated parameters

    @cache  # noqa: B019 - families live as long as the module
    def rungs(self, vocab_size: int) -> list[Rung]:
        """All shapes of the family, from small to large."""
        found = []
        for width in self.widths:
            # All pairs of layers have the same size, so two counts give all others.
            two, four = (
                activated_params(HunyuanConfig.from_dict(self.settings(width, layers, vocab_size))) for layers in (2, 4)
            )
            rule = width / self.width_per_layer
            least, most = 2 * math.ceil(rule / 3), 2 * math.floor(rule * 2 / 3)
            for layers in range(least, most + 1, 2) if least <= most else (2,):
                activated = two + (layers // 2 - 1) * (four - two)
                found.append(Rung(width, layers, activated, abs(math.log(layers / rule))))
        return sorted(found, key=lambda rung: (rung.activated, rung.off_rule))


def nearest(rungs: list[Rung], params: float) -> Rung:
    """The rung whose activated parameters are nearest to params. Among about equal ones, the depth nearest to the rule."""
    return min(rungs, key=lambda rung: abs(math.log(rung.activated / params)) + SLENDER * rung.off_rule)


def candidates(rungs: list[Rung], chosen: Rung, params: float) -> list[Rung]:
    """The chosen rung with up to two smaller and two larger ones, at about the parts AROUND of params."""
    found = [chosen]
    for part in sorted(AROUND, key=lambda part: abs(math.log(part))):
        if part < 1:
            left = [rung for rung in rungs if rung.activated < 0.97 * found[0].activated]
        else:
            left = [rung for rung in rungs if rung.activated > 1.03 * found[-1].activated]
        if left:
            found.insert(0 if part < 1 else len(found), nearest(left, part * params))
    return found


def _divisor(heads: int, most: int) -> int:
    """The number of key-value heads: the largest divisor of heads that is at most `most`, and at least 1."""
    return max(count for count in range(1, max(1, most) + 1) if heads % count == 0)


def _report_style(hidden_size: int, layers: int, vocab_size: int) -> dict[str, Any]:
    """The ladder's recipe at any width and depth."""
    return ladder(hidden_size, layers) | {"vocab_size": vocab_size}


def _as_hunyuan_large(hidden_size: int, layers: int, vocab_size: int) -> dict[str, Any]:
    """Hunyuan-Large's proportions: experts of width 2.86 D, heads of 80, ten to a group."""
    heads = hidden_size // 80
    return PRESETS["hunyuan-large"] | {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 64 * max(1, round(2.86 * hidden_size / 64)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _divisor(heads, heads // 10),
    }


def _preset_vocabulary(params: float) -> int:
    """The vocabulary of the preset of about that size. A study over several sizes should give one --vocab-size for all."""
    for below, preset in ((2e6, "toy"), (3e7, "ladder-64"), (1e8, "small"), (4e9, "base")):
        if params < below:
            return PRESETS[preset]["vocab_size"]
    return PRESETS["hunyuan-large"]["vocab_size"]


FAMILIES = {
    "report": Family(
        name="report",
        widths=(
            *range(32, 257, 32),
            *range(320, 641, 64),
            *range(768, 1281, 128),
            *range(1536, 4097, 256),
            *range(4608, 32_769, 512),
        ),
        width_per_layer=64,
        settings=_report_style,
        vocab_size=_preset_vocabulary,
    ),
    "hunyuan-large": Family(
        name="hunyuan-large",
        widths=(*range(80, 801, 80), *range(960, 3201, 160), *range(3520, 32_001, 320)),
        width_per_layer=100,
        settings=_as_hunyuan_large,
        vocab_size=lambda params: PRESETS["hunyuan-large"]["vocab_size"],
    ),
}
