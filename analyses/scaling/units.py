"""Units of parameters, tokens and FLOPs as people write them: "M", "billion", "GFLOPs", "PF-days".

    word_factor("M")                           1e6, of any count
    flops_factor("PFLOPs")                     1e15, of FLOPs alone
    parse_unit("--params-unit", "million")     the factor of an option

None stands for a word that is no unit.
"""

import math
import re

from model.errors import HunyuanError

_COUNTS = {
    "thousand": 1e3, "k": 1e3, "million": 1e6, "mn": 1e6, "mm": 1e6, "m": 1e6, "mio": 1e6, "billion": 1e9, "bn": 1e9,
    "b": 1e9, "g": 1e9, "trillion": 1e12, "tn": 1e12, "t": 1e12, "quadrillion": 1e15,
}  # fmt: skip
_NOUNS = ("flops", "flop", "tokens", "token", "params", "param", "parameters", "parameter")
_PREFIXES = {"": 1.0, "k": 1e3, "kilo": 1e3, "m": 1e6, "mega": 1e6, "g": 1e9, "giga": 1e9, "t": 1e12, "tera": 1e12,
             "p": 1e15, "peta": 1e15, "e": 1e18, "exa": 1e18, "z": 1e21, "zetta": 1e21, "y": 1e24, "yotta": 1e24}  # fmt: skip
PF_DAY = 1e15 * 86_400  # FLOPs of a day at 1e15 a second: the unit of Kaplan et al. 2020
_PF_DAY = re.compile(r"(pf|petaflops?|pflops?)((ps)?|[ _/-]s)[ _-]days?")


def word_factor(word: str) -> float | None:
    """What a word behind a count multiplies it by, such as "M", "billion" or "B tokens"; None for other words."""
    words = word.strip().lower().split()
    while words and words[-1] in _NOUNS:
        words.pop()
    name = " ".join(words)
    return 1.0 if not name else _COUNTS.get(name, _COUNTS.get(name.removesuffix("s")) if len(name) > 3 else None)


def flops_factor(word: str) -> float | None:
    """The same of FLOPs: also "GFLOPs", "EFLOP", "exaflops" and "PF-days"."""
    name = word.strip().lower()
    if _PF_DAY.fullmatch(name):
        return PF_DAY
    match = re.fullmatch(r"([a-z]*?)[ _-]?flops?", name)
    if match is not None and match[1] in _PREFIXES:
        return _PREFIXES[match[1]]
    return word_factor(word)


def parse_unit(option: str, text: str) -> float:
    """The factor that an option such as --params-unit gives: 1e6, million, M; of FLOPs also GFLOPs and PF-days."""
    try:
        factor: float | None = float(text)
    except ValueError:
        factor = (flops_factor if option == "--flops-unit" else word_factor)(text) if text.strip() else None
    if factor is None or not (0 < factor < math.inf):
        more = ", GFLOPs, PF-days" if option == "--flops-unit" else ""
        raise HunyuanError(f"{option} '{text}' is no unit: write a factor such as 1e6, or million, M, billion, B{more}")
    return factor


def unit_name(quantity: str, factor: float) -> str:
    """A unit in words, for sentences: "millions", or "GFLOPs" of FLOPs."""
    if quantity == "flops":
        names = {1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", PF_DAY: "PF-days", 1e18: "EFLOPs", 1e21: "ZFLOPs"}
    else:
        names = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
    return names.get(factor, f"units of {factor:g}")
