"""Cells of a table as numbers: 1.2e9, "53.3M", "16,078,219", "5,3e9", "12.4 GFLOPs".

    find_marks(table, columns, separator)   what commas are in this table: Marks
    read_column(cells, marks, unit, word)   float64 (rows,), NaN where a cell is no number

A comma that may be either, as in "16,078", is what the table's other cells show it to be.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from model.errors import DataError

_NUMBER = re.compile(
    r"([+-]?(?:[0-9][0-9.,'_ \u00a0\u2009\u202f]*|[.,][0-9]+))((?:e[+-]?[0-9]+)?)\s*([a-z][a-z /_-]*)?", re.I
)
_SPACES = re.compile(r"(?<=[0-9])['_ \u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")  # between groups of three digits
_GROUPS = re.compile(r"[+-]?[0-9]{1,3}([.,])[0-9]{3}(?:\1[0-9]{3})*")


@dataclass(frozen=True)
class Marks:
    """What a table's commas and dots are."""

    decimal_comma: bool = False


def find_marks(name: str, columns: Iterable[Sequence[Any]], separator: str) -> Marks:
    """From the cells that leave no doubt, such as "16,078,219" and "5,3e9"; "16,078" alone is read as 16078, unless the
    cells are separated by semicolons, which spreadsheets write where the comma is the decimal mark."""
    proofs: dict[bool, str] = {}
    for column in columns:
        for cell in column:
            mark = _proof(cell) if isinstance(cell, str) and "," in cell else None
            if mark is not None:
                proofs.setdefault(mark, cell.strip())
    if len(proofs) == 2:
        raise DataError(f"{name} writes '{proofs[True]}' as well as '{proofs[False]}': use commas in one way")
    return Marks(next(iter(proofs), separator == ";"))


def _proof(cell: str) -> bool | None:
    """Whether the commas of a number are decimal marks; None where it says nothing, or is no number."""
    match = _NUMBER.fullmatch(cell.strip())
    if match is None:
        return None
    digits = match[1].lstrip("+-")
    if "." in digits:
        return digits.rindex(",") > digits.rindex(".")
    if digits.count(",") > 1:
        return False
    whole, part = digits.split(",")
    return True if len(part) != 3 or not 1 <= len(whole) <= 3 or whole.startswith("0") else None


def read_column(
    cells: Sequence[Any], marks: Marks, unit: float = 1.0, word: Callable[[str], float | None] | None = None
) -> np.ndarray:
    """Numbers times `unit`; those with a word of their own, such as "53.3M", times its factor instead.

    A column without `word` takes no words. Cells that are no number are NaN.
    """
    dots = {cell.strip() for cell in cells if isinstance(cell, str) and "." in cell} if marks.decimal_comma else set()
    # Where the comma is the decimal mark, dots stand between thousands, if they can in all of a column's cells.
    thousands = bool(dots) and all(_GROUPS.fullmatch(cell.split(",")[0]) for cell in dots)
    return np.array([_number(cell, marks.decimal_comma, thousands, unit, word) for cell in cells], dtype=np.float64)


def _number(
    cell: Any, decimal_comma: bool, dot_thousands: bool, unit: float, word: Callable[[str], float | None] | None
) -> float:
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str, Decimal)):
        return math.nan
    try:
        if not isinstance(cell, str) or not (dot_thousands or "," in cell):
            return float(cell) * unit
    except (ValueError, ArithmeticError):
        pass
    match = _NUMBER.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if match is None:
        return math.nan
    digits, power, name = _SPACES.sub("", match[1].strip()), match[2], match[3]
    factor = unit if not name else word(name) if word is not None else None
    if factor is None:
        return math.nan
    if dot_thousands:
        digits = digits.replace(".", "")
    if decimal_comma:
        digits = digits.replace(",", ".")
    elif "," in digits:
        whole, dot, part = digits.partition(".")
        if not _GROUPS.fullmatch(whole) or "," in part:
            return math.nan
        digits = whole.replace(",", "") + dot + part
    try:
        return float(digits + power) * factor
    except ValueError:
        return math.nan
