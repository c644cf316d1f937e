"""Families of shapes: one recipe at every size, so that a scaling law's parameters become a model.

A family fixes the proportions; a rung is one of its widths with one of the depths that go with it. Depths are even, for
layers share their keys and values in pairs (CLA 2), and lie within a third of the family's rule, which makes steps fine.
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
SLENDER = 0.1  # how much of a miss in parameters (in log) a depth off the rule (in log) is worth


@dataclass(frozen=True)
class Rung:
    hidden_size: int
    layers: int
    activated: int
    off_rule: float  # |log| of its depth over the family's rule


@dataclass(frozen=True, kw_only=True)
class Family:
    name: str
    widths: tuple[int, ...]
    width_per_layer: int  # the rule of its depth
    settings: Callable[[int, int, int], dict[str, Any]]  # of hidden size, layers, vocabulary
    vocab_size: Callable[[float], int]  # the usual one at a number of activated parameters

    @cache  # noqa: B019 - families live as long as the module
    def rungs(self, vocab_size: int) -> list[Rung]:
        """All its shapes, from small to large."""
        found = []
        for width in self.widths:
            # Layers come in equal pairs, so two counts give all.
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
    """The rung with activated parameters nearest to these, and of about equal ones the one nearest to the rule of depth."""
    return min(rungs, key=lambda rung: abs(math.log(rung.activated / params)) + SLENDER * rung.off_rule)


def candidates(rungs: list[Rung], chosen: Rung, params: float) -> list[Rung]:
    """The chosen rung between two smaller and two larger ones, as far as there are: near AROUND, or the next that differ."""
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
    """Key-value heads: the largest number that divides the heads and is at most this, and at least 1."""
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
    """That of toy, ladder, small, base and hunyuan-large about their sizes; a ladder of one vocabulary needs it given."""
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
