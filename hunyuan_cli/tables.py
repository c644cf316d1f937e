"""Tables for reading, as wide as the terminal and no wider: words are folded, numbers are never broken.

    render({title: (columns, rows)}, note, room=80, fold=True) -> text

A table that is too wide is turned where it has fewer rows than columns, then its headings and words are folded; what is still
too wide is written in pieces below each other, each with the first column. Nothing is left out.
"""

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from numbers import Real
from typing import Any, NamedTuple

from hunyuan_cli.console import human, is_missing

Rows = tuple[list[str], list[Mapping[str, Any]]]  # the columns in order; the rows, which may lack some of them

GAP = "   "
TITLE_WIDTH = 60  # or as wide as its table
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


class Cell(NamedTuple):
    text: str
    is_number: bool = False  # never folded


class Column(NamedTuple):
    cells: list[Cell]  # the heading, then a cell a row
    to_the_right: bool


def render(
    tables: Mapping[str, Rows],
    note: str = "",
    *,
    room: int,
    fold: bool = True,
    bold: bool = False,
    as_written: Collection[str] = (),
) -> str:
    """All tables, and the note below them. Where nothing may be folded (in a pipe), lines may be longer than the room.

    In headings `_` is written as a blank, but in those that are names which somebody has given: as_written.
    """
    lines: list[str] = []
    for title, (columns, rows) in tables.items():
        columns = [name for name in columns if not all(is_missing(row.get(name)) for row in rows)]
        if not columns:
            continue
        pieces = list(_layout(_upright(columns, rows, as_written), len(rows), room, fold))
        titles = (
            _wrap(title, min(room, max(TITLE_WIDTH, *(_width(widths) for _, widths in pieces))), cut=False)
            if title
            else []
        )
        lines += [f"{BOLD}{line}{PLAIN}" if bold else line for line in titles]
        for piece, widths in pieces:
            lines += ["", *_draw(piece, widths, bold)]
        lines.append("")
    lines += [part for line in note.split("\n") for part in (_wrap(line, room, cut=False) if fold else [line])]
    return "\n".join(lines).strip("\n") + "\n"


def _layout(upright: list[Column], rows: int, room: int, fold: bool) -> Iterator[tuple[list[Column], list[int]]]:
    """The pieces of a table with the widths of their columns."""
    ways = [upright, _turned(upright)]
    fits = _width(_widths(upright)) <= room
    if not fits and rows < len(upright):
        ways.reverse()
    if fits or not fold:
        yield ways[0], _widths(ways[0])
        return
    for grid in ways:
        if fitting := _fit(grid, room):
            yield grid, fitting
            return
    name, *rest = ways[0]
    while rest:
        count = max((n for n in range(1, len(rest) + 1) if _fit([name, *rest[:n]], room)), default=1)
        piece, rest = [name, *rest[:count]], rest[count:]
        yield piece, _fit(piece, room) or _least(piece, room)


def _upright(columns: list[str], rows: list[Mapping[str, Any]], as_written: Collection[str]) -> list[Column]:
    """Columns `x` and `x_sd` are shown as one, mean ± standard deviation."""
    shown = [name for name in columns if not (name.endswith("_sd") and name[:-3] in columns)]
    grid = []
    for name in shown:
        cells = [_cell(row, name) for row in rows]
        heading = name if name in as_written else name.replace("_", " ")
        grid.append(Column([Cell(_printable(heading)), *cells], all(cell.is_number for cell in cells)))
    return grid


def _turned(grid: list[Column]) -> list[Column]:
    """Rows become columns: the names to the left, all else to the right."""
    lines = zip(*(column.cells for column in grid), strict=True)
    return [Column(list(line), index > 0) for index, line in enumerate(lines)]


def _cell(row: Mapping[str, Any], name: str) -> Cell:
    value, spread = row.get(name), row.get(f"{name}_sd")
    text = human(value, name) if is_missing(spread) else f"{human(value, name)} ± {human(spread, name)}"
    number = is_missing(value) or (isinstance(value, Real) and not isinstance(value, bool))
    return Cell(_printable(text), number)


def _printable(text: str) -> str:
    """Without what a terminal would obey."""
    return text if text.isprintable() else "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)


# --- widths ----------------------------------------------------------------------------------------------------------


def display_width(text: str) -> int:
    """The places that a terminal gives a text: two for a wide character, none for an accent of its own."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in unicodedata.normalize("NFC", text)
    )


def _width(widths: Sequence[int]) -> int:
    return 1 + sum(widths) + len(GAP) * (len(widths) - 1)


def _widths(grid: list[Column]) -> list[int]:
    return [max(display_width(cell.text) for cell in column.cells) for column in grid]


def _least(grid: list[Column], room: int) -> list[int]:
    """The widths below which a number would break, or a word of less than a third of the room."""
    most = max(8, room // 3)

    def least(cell: Cell) -> int:
        if cell.is_number:
            return display_width(cell.text)
        widths = ((display_width(word), _starts_like_a_number(word)) for word in cell.text.split())
        return max((width if whole else min(width, most) for width, whole in widths), default=0)

    return [max(map(least, column.cells)) for column in grid]


def _starts_like_a_number(word: str) -> bool:
    return word.lstrip("[(<>=~≈±+-−.")[:1].isdigit()


def _fit(grid: list[Column], room: int) -> list[int]:
    """Widths within the room, the widest columns folded first; empty where there are none."""
    widths, least = _widths(grid), _least(grid, room)
    if _width(least) > room:
        return []
    while _width(widths) > room:
        widest = max((i for i in range(len(grid)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    return widths


# --- lines -----------------------------------------------------------------------------------------------------------


def _draw(grid: list[Column], widths: list[int], bold: bool) -> list[str]:
    """The heading, a rule, and a line or more a row."""
    lines = []
    for number, row in enumerate(zip(*(column.cells for column in grid), strict=True)):
        folded = [
            [cell.text] if cell.is_number else _wrap(cell.text, width) for cell, width in zip(row, widths, strict=True)
        ]
        height = max(map(len, folded))
        if number == 0:
            folded = [[""] * (height - len(texts)) + texts for texts in folded]  # headings stand on the rule
        for texts in zip_longest(*folded, fillvalue=""):
            line = (" " + GAP.join(map(_pad, texts, widths, (column.to_the_right for column in grid)))).rstrip()
            lines.append(f"{BOLD}{line}{PLAIN}" if bold and number == 0 else line)
        if number == 0:
            lines.append(" " + "─" * (_width(widths) - 1))
    return lines


def _pad(text: str, width: int, to_the_right: bool) -> str:
    blanks = " " * (width - display_width(text))
    return blanks + text if to_the_right else text + blanks


def _wrap(text: str, width: int, *, cut: bool = True) -> list[str]:
    """The text in lines of that width, between words; a longer word may be cut, unless it begins like a number."""
    if display_width(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        if lines[-1] and display_width(f"{lines[-1]} {word}") > width:
            lines.append("")
        if cut and not _starts_like_a_number(word):
            while display_width(word) > width > 1:
                at = next(n for n in range(len(word), 0, -1) if n == 1 or display_width(word[:n]) <= width)
                lines[-1:] = [word[:at], ""]
                word = word[at:]
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
