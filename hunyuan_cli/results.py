"""Results as tables to read, one JSON document, or CSV, on standard output or in a file.

    emit(rows or dict, format="table", output=None)

pandas is not imported, for it alone takes longer than a small command may: a frame is known by what it can do.
"""

import csv
import json
import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from hunyuan_cli.console import is_missing
from hunyuan_cli.files import write_output
from hunyuan_cli.tables import Rows, render

if TYPE_CHECKING:
    import pandas as pd

PIPE_WIDTH = 120  # beyond it a table with fewer rows than columns is turned; in a pipe nothing is folded


def emit(
    result: "pd.DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any]",
    *,
    format: str = "table",
    output: Path | None = None,
    title: str = "",
    note: str = "",
    as_written: Collection[str] = (),
) -> None:
    """Write a result: a table (a frame or a list of dicts), or a dict of values, nested dicts and tables.

    JSON is the whole result, a frame being a list of rows. CSV is the first table in it.
    A note is for readers of tables: it stands below them, and nowhere else. `as_written` are the columns that bear a name
    which somebody has given: a `_` in it stays.
    """
    format = result_format(format, output)
    if format == "json":
        text = json_text(result, indent=2) + "\n"
    elif format == "csv":
        text = _csv(*next(iter(_tables(result, title).values())))
    else:
        to_terminal = output is None and sys.stdout.isatty()
        room = get_terminal_size().columns if to_terminal else PIPE_WIDTH
        bold = to_terminal and os.environ.get("TERM") != "dumb"
        text = render(_tables(result, title), note, room=room, fold=to_terminal, bold=bold, as_written=as_written)
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_output(output, text.encode())


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that no terminal obeys: control characters that JSON allows within strings are escaped like the others."""
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)


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
        name = str(key).replace("_", " ") if str(key).isidentifier() else str(key)
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
