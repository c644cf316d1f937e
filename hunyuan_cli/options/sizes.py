"""The sizes that users type, as numbers.

parse_context   "256K"  -> 262_144          tokens of context: binary, as context lengths are named
parse_number    "2M"    -> 2_000_000.0      tokens, parameters, FLOPs: decimal K M B (or G) T, or 1e15
parse_count     "2M"    -> 2_000_000        the same, whole
parse_bytes     "141GB" -> 141_000_000_000  memory: decimal units, or binary ones (GiB)
parse_fraction  "10%"   -> 0.1
parse_list      "8K,32K" with one of these  several sizes at once
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TypeVar

import typer

Choice = TypeVar("Choice")

MOST = 2**63 - 1  # of whole sizes: what tensors and figures can count

_NUMBER = re.compile(r"([0-9]+(?:[,_][0-9]+)*(?:\.[0-9]*)?(?:e\+?[0-9]{1,3})?)\s*([a-z]*)", re.IGNORECASE)
_BINARY = {"": 1, "k": 2**10, "m": 2**20}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_BYTES = {"": 1, "b": 1} | {
    prefix + unit: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


def parse_context(text: str | int) -> int:
    """A context length in tokens, where K is 1,024."""
    return _whole(_size(text, _BINARY), text, "a context length in tokens: write 4096, 32K or 256K (K is 1,024)")


def parse_number(text: str | float) -> float:
    """A positive quantity such as FLOPs, where K, M, B (or G) and T are thousands, millions and so on."""
    size = _size(text, _DECIMAL)
    if size is None:
        raise typer.BadParameter(f"'{text}' is not a positive number: write 2000000, 2M, 1.5B or 1e15")
    return float(size)


def parse_count(text: str | int) -> int:
    """A whole positive number of things, such as tokens."""
    return _whole(_size(text, _DECIMAL), text, "a positive whole number: write 2000000, 2M, 1.5B or 1e9")


def parse_bytes(text: str | int) -> int:
    """A size of memory in bytes."""
    return _whole(_size(text, _BYTES), text, "a size in bytes: write 141GB, 80GiB or 512MB")


def parse_list(text: str, parse: Callable[[str], int]) -> list[int]:
    """Several sizes with commas between them, such as 8K,32K: each one once, in the order given."""
    return list(dict.fromkeys(parse(item) for item in str(text).split(",")))


def split_numbers(text: str) -> list[str]:
    """The numbers of a list such as 1e22,1e23. A comma before three digits, as in 16,078,219, belongs to a number."""
    return [item for item in re.split(r",(?![0-9]{3}(?:,|$))|,\s", text.strip()) if item.strip()] or [text]


def parse_fraction(text: str | float) -> float:
    """A share from 0 up to but without 1: 10% or 0.1."""
    number, percent = str(text).strip().removesuffix("%"), str(text).strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise typer.BadParameter(f"'{text}' is not a share below all of it: write 10% or 0.1")
    return share


def known(option: str, name: str, table: Mapping[str, Choice]) -> Choice:
    """The entry of that name; others are refused with the known ones."""
    if name not in table:
        raise typer.BadParameter(f"{option} '{name}' is not known: choose from {', '.join(table)}")
    return table[name]


def _size(text: str | float, units: dict[str, int]) -> Decimal | None:
    """The positive value of a number and its unit, exactly; None when it is neither."""
    match = _NUMBER.fullmatch(str(text).strip())
    if match is None or match[2].lower() not in units:
        return None
    size = Decimal(re.sub("[,_]", "", match[1])) * units[match[2].lower()]
    return size if 0 < size < Decimal("1e300") else None


def _whole(size: Decimal | None, text: str | float, expected: str) -> int:
    if size is None or size != size.to_integral_value() or size > MOST:
        raise typer.BadParameter(f"'{text}' is not {expected}")
    return int(size)
