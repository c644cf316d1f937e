"""Results to standard output, everything else to standard error.

    emit(rows or dict, format="table", output=None)    a table to read, one JSON document, or CSV
    save_figure(figure, path)                          .png, .svg or .pdf, the same bytes for the same figure
    with progress("packing", total=9) as advance: ...  a bar for what takes over two seconds
    stderr(message)                                    one line that a person should see

Files appear whole or not at all. rich and matplotlib are imported where they are used, --help needing neither; pandas
never, for it alone takes longer than a small command may: a frame is known by what it can do.
"""

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO, StringIO
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import HunyuanError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table


def stderr(message: str) -> None:
    """One line on standard error; a reader that has gone away is no reason to stop."""
    if message:
        with suppress(OSError, ValueError, RuntimeError):  # the last: a signal in the middle of a write
            print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, one line elsewhere; yields a function that takes the number of steps just done."""
    if not sys.stderr.isatty():
        stderr(f"{description} ...")
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


# --- results ---------------------------------------------------------------------------------------------------------


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
        write_atomically(output, text.encode())


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
    return None if _missing(value) else str(value)


def _missing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT: all but None are unequal to themselves, or refuse to say."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True
    except ValueError:
        return False


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
        writer.writerow(["" if _missing(row.get(name)) else row[name] for name in columns])
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
            columns = [name for name in columns if not all(_missing(row.get(name)) for row in rows)]
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
    numeric = [all(_is_number(row.get(name)) or _missing(row.get(name)) for row in rows) for name in shown]
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
    return human(value, name) if _missing(spread) else f"{human(value, name)} ± {human(spread, name)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def human(value: Any, name: str = "") -> str:
    """A value as a person would write it; the last word of its name may say its kind (bytes, seconds, loss)."""
    if not isinstance(value, (list, tuple, dict)) and _missing(value):
        return "–"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    match name.rpartition("_")[2]:
        case "bytes":
            return human_bytes(value)
        case "seconds":
            return human_time(value)
        case "mfu" | "fraction":
            return f"{value:.1%}"
        case "second" | "params" | "tokens" | "flops":
            return human_count(value)
        case "loss" | "byte":
            return f"{value:.4f}"
        case "lr":
            return f"{value:.2e}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 1e9 else human_count(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def human_count(value: float) -> str:
    """12,345 as 12.3K, then M, B, T; beyond a thousand T as 1.23e+18."""
    for limit, unit in ((1e3, ""), (1e6, "K"), (1e9, "M"), (1e12, "B"), (1e15, "T")):
        if abs(value) < 0.9995 * limit:
            return f"{value / (limit / 1e3):.3g}{unit}"
    return f"{value:.3g}"


def human_bytes(value: float) -> str:
    """Bytes in decimal units, as memories are sold."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if abs(value) < limit:
            return f"{value / (limit / 1e3):.4g} {unit}"
    return f"{value / 1e12:.4g} TB"


def human_time(seconds: float) -> str:
    """4.2s, 3m 07s, 5h 12m, 2d 03h."""
    if seconds < 60:
        return f"{seconds:.3g}s"
    for limit, unit, small, below in ((3600, 60, 1, "ms"), (86400, 3600, 60, "hm"), (math.inf, 86400, 3600, "dh")):
        if seconds < limit:
            return f"{int(seconds // unit)}{below[0]} {int(seconds % unit // small):02d}{below[1]}"
    raise AssertionError("unreachable")


# --- files -----------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes, *, quiet: bool = False) -> None:
    """Write the whole file or leave what was there, and say so; folders are made, pipes and devices written into."""
    if path.is_dir():
        raise HunyuanError(f"'{path}' is a folder: name a file to write")
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if not quiet:
        stderr(f"wrote {path}")


def save_figure(figure: "Figure", path: Path, *, quiet: bool = False) -> None:
    """Save a figure in the format of its suffix, without the date and version that would change its bytes."""
    import matplotlib

    from hunyuan_cli.options import FIGURE_SUFFIXES

    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    suffix = path.suffix.lower()
    if suffix not in metadata:
        raise HunyuanError(f"cannot draw '{path}': a figure must end in {', '.join(FIGURE_SUFFIXES)}")
    content = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hunyuan"}):  # element names in an SVG are random otherwise
        figure.savefig(content, format=suffix[1:], dpi=150, metadata=metadata[suffix])
    write_atomically(path, content.getvalue(), quiet=quiet)
