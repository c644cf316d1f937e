"""Results as tables to read, one JSON document, or CSV, on standard output or in a file.

    emit(rows or dict, format="table", output=None)

rich is imported where it is used, --help not needing it; pandas never, for it alone takes longer than a small command may: a
frame is known by what it can do.
"""

import csv
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunyuan_cli.console import human, is_missing
from hunyuan_cli.files import write_output

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

Rows = tuple[list[str], list[Mapping[str, Any]]]  # the columns in order; the rows, which may lack some of them


def emit(
    result: "pd.DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any]",
    *,
    format: str = "table",
    output: Path | None = None,
    title: str = "",
    note: str = "",
) -> None:
    """Write a result: a table (a frame or a list of dicts), or a dict of values, nested dicts and tables.

    JSON is the whole result, a frame being a list of rows. CSV is the first table in it.
    A note is for readers of tables: it stands below them, and nowhere else.
    """
    format = result_format(format, output)
    if format == "json":
        text = json.dumps(_plain(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    elif format == "csv":
        text = _csv(*next(iter(_tables(result, title).values())))
    else:
        text = _render(result, title, note, to_terminal=output is None and sys.stdout.isatty())
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_output(output, text.encode())


def result_format(format: str, output: Path | None) -> str:
    """The format asked for, or that of a file named .json or .csv."""
    suffix = output.suffix.lower() if output is not None else ""
    return suffix[1:] if format == "table" and suffix in (".json", ".csv") else format


def _is_frame(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "columns")


def _plain(value: Any) -> Any:
    """The same value in what JSON knows; what is not a number there (NaN, infinity) becomes null."""
    if _is_frame(value):
        value = value.to_dict("records")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return None if is_missing(value) else str(value)


def _tables(result: Any, title: str) -> dict[str, Rows]:
    """The tables of a result by title: frames, lists of rows, dicts of rows, then whatever single values are left."""
    if not isinstance(result, Mapping):
        return {title: _rows(result)}
    tables: dict[str, Rows] = {}
    values: dict[str, Any] = {}
    for key, value in result.items():
        name = str(key).replace("_", " ")
        if _is_frame(value) or (isinstance(value, (list, tuple)) and _all_mappings(value)):
            tables[name] = _rows(value)
        elif isinstance(value, Mapping) and _all_mappings(value.values()):
            tables[name] = _rows([{key: entry, **row} for entry, row in value.items()])
        elif isinstance(value, Mapping):
            values |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif not isinstance(value, (list, tuple)):
            values[key] = value
        elif value:
            values[key] = "; ".join(map(str, value))
    if values:
        tables[title] = _rows([values])
    return tables


def _all_mappings(items: Collection[Any]) -> bool:
    return bool(items) and all(isinstance(item, Mapping) for item in items)


def _rows(table: Any) -> Rows:
    if _is_frame(table):
        return list(table.columns), table.to_dict("records")
    return list(dict.fromkeys(name for row in table for name in row)), list(table)


def _csv(columns: list[str], rows: list[Mapping[str, Any]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if is_missing(row.get(name)) else row[name] for name in columns])
    return text.getvalue()


# --- tables for reading ----------------------------------------------------------------------------------------------

PIPE_WIDTH = 120


def _render(result: Any, title: str, note: str, to_terminal: bool) -> str:
    from rich.console import Console

    # In a pipe nothing is cut or folded, however long the line; a terminal folds cells to its width.
    console = Console(width=None if to_terminal else 10_000, force_terminal=to_terminal)
    room = console.width if to_terminal else PIPE_WIDTH
    with console.capture() as capture:
        for heading, (columns, rows) in _tables(result, title).items():
            columns = [name for name in columns if not all(is_missing(row.get(name)) for row in rows)]
            if not columns:
                continue
            table = _table(columns, rows, heading, transposed=False)
            width = console.measure(table, options=console.options.update(width=10_000)).maximum
            if width > room and len(rows) < len(columns):
                table = _table(columns, rows, heading, transposed=True)
            console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, note]).strip("\n") + "\n"


def _table(columns: list[str], rows: list[Mapping[str, Any]], title: str, transposed: bool) -> "Table":
    """A rich table; columns `x` and `x_sd` are shown as one, mean ± standard deviation."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = [name for name in columns if not (name.endswith("_sd") and name[:-3] in columns)]
    lines = [[_cell(row, name) for name in shown] for row in rows]
    headings = [name.replace("_", " ") for name in shown]
    numeric = [all(_is_number(row.get(name)) or is_missing(row.get(name)) for row in rows) for name in shown]
    if transposed:
        headings, *lines = [list(line) for line in zip(headings, *lines, strict=True)]
        numeric = [False] + [True] * (len(headings) - 1)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading, right in zip(headings, numeric, strict=True):
        table.add_column(Text(heading), justify="right" if right else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))  # Text: a name with [brackets] is no markup
    return table


def _cell(row: Mapping[str, Any], name: str) -> str:
    value, spread = row.get(name), row.get(f"{name}_sd")
    return human(value, name) if is_missing(spread) else f"{human(value, name)} ± {human(spread, name)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
