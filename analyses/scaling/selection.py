"""Which rows of a table are one study: --where, and the refusal of several data sets in one fit.

    select(table, where)                                   (rows,) bool
    refuse_mixtures(table, where, taken, rows, cells)      DataError where the rows are of several data sets

Rows keep the numbers that they have in the table, whatever is selected.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analyses.scaling.columns import plain
from analyses.scaling.tables import Table
from model.errors import DataError, HunyuanError

# Columns of words that part a table into studies with laws of their own.
LABELS = {"dataset", "data", "data_set", "datasets", "corpus", "data_mix", "mixture", "data_source", "source", "domain",
          "language", "task", "arch", "architecture", "model_family", "family", "model_type", "study", "paper", "series",
          "label", "group", "tokenizer", "optimizer", "schedule", "lr_schedule", "modality"}  # fmt: skip
SHOWN = 6  # values of a column in a sentence


def parse_where(texts: Sequence[str]) -> dict[str, list[str]]:
    """column=value, repeated: several values of a column are each enough, several columns must all hold."""
    where: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column.strip():
            raise HunyuanError(f"--where '{text}' selects nothing: write column=value, such as dataset=c4")
        where.setdefault(column.strip(), []).append(value.strip())
    return where


def select(table: Table, where: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The rows that --where leaves; numbers are compared as numbers."""
    chosen = np.ones(len(table), dtype=bool)
    for column, values in where.items():
        if column not in table.columns:
            raise DataError(
                f"{table.name} has no column '{column}' for --where: it has {', '.join(table.columns) or 'none'}"
            )
        cells = [_text(cell) for cell in table.columns[column]]
        wanted = {_text(value) for value in values}
        hits = np.array([cell in wanted for cell in cells] + [False] * (len(table) - len(cells)))
        if not hits.any():
            raise DataError(f"--where {column}={values[0]} leaves no row of {table.name}: it has {_shown(cells)}")
        chosen &= hits
    if where and not chosen.any():
        raise DataError(f"no row of {table.name} is left by all of --where: leave one out")
    return chosen


def refuse_mixtures(
    table: Table, where: Mapping[str, Sequence[str]], taken: set[str], rows: np.ndarray, cells: np.ndarray | None
) -> None:
    """DataError where a column of words, which is neither `taken` nor named by --where, parts the rows into data sets.

    That is one called so, or any other that tells runs of one size and budget apart, of which `cells` (n,) are the numbers;
    None where seeds or learning rates do.
    """
    for column, all_cells in table.columns.items():
        if column in where or column in taken:
            continue
        values = [_text(all_cells[row]) for row in rows.tolist()]
        if len(set(values)) < 2 or all(_is_number(value) for value in values):
            continue
        if plain(column) in LABELS or (cells is not None and _tells_apart(values, cells)):
            values = [_text(all_cells[row]) for row in sorted(rows.tolist())]
            raise DataError(
                f"{table.name} holds several studies, by its column '{column}' ({_shown(values)}): choose with "
                f"--where '{column}={values[0]}', or name all with several --where to fit them together"
            )


def _tells_apart(values: Sequence[str], cells: np.ndarray) -> bool:
    """Whether few values differ in most of the cells: names of single runs are many."""
    if len(set(values)) > len(values) / 6:
        return False
    pairs = len(set(zip(values, cells.tolist(), strict=True)))
    return pairs >= 1.5 * len(np.unique(cells))


def numbered(cells: Sequence[object]) -> np.ndarray:
    """(n,) a number for each different cell."""
    texts = [_text(cell) for cell in cells]
    order = {text: index for index, text in enumerate(sorted(set(texts)))}
    return np.array([order[text] for text in texts], dtype=np.int64)


def kinds(columns: Sequence[Sequence[object]], rows: int) -> np.ndarray:
    """(rows,) a number for each different combination of these columns' cells."""
    kind = np.zeros(rows, dtype=np.int64)
    for cells in columns:
        number = numbered([*cells, *[None] * (rows - len(cells))])
        kind = kind * (int(number.max(initial=0)) + 1) + number
    return kind


def _text(cell: object) -> str:
    """A cell as it is compared."""
    text = "" if cell is None else str(cell).strip()
    return f"{float(text):.17g}" if _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _shown(values: Sequence[str]) -> str:
    found = list(dict.fromkeys(" ".join((value or "empty").split())[:40] for value in values))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]).encode(errors="replace").decode() + more
