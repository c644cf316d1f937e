"""Tables of runs as files: CSV, JSON, JSON lines or parquet, read into columns of unchecked cells.

No pandas: importing it takes longer than a fit of the runs.
"""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError, MissingExtraError

MAX_FILE_BYTES = 500_000_000


@dataclass(frozen=True)
class Table:
    """The cells of a file by column, as they were written."""

    name: str
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)


def read_table(path: Path) -> Table:
    """A table of runs; DataError in one sentence where there is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path} has over {MAX_FILE_BYTES // 10**6} MB: give a table of runs, one row a run")
        if path.suffix.lower() in (".parquet", ".pq"):
            return Table(path.name, _read_parquet(path))
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8 or as parquet") from error
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") or text.lstrip()[:1] in ("{", "["):
        columns = _read_json(text, path)
    else:
        columns = _read_csv(text, path)
    if not any(columns.values()):
        raise DataError(f"{path} has no rows: give a table with a header and one row a run")
    return Table(path.name, columns)


def _read_csv(text: str, path: Path) -> dict[str, list[Any]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    header = lines[0] if lines else ""
    separator = max(",;\t", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV table ({error}): write a header and one row a run") from error
    names = [name.strip() for name in rows[0]] if rows else []
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns called '{twice}': rename one")
    return {
        name: [row[index].strip() if index < len(row) else "" for row in rows[1:]]
        for index, name in enumerate(names)
        if name
    }


def _read_json(text: str, path: Path) -> dict[str, list[Any]]:
    """A list of objects, one object that holds such a list, an object of columns, or an object a line."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as whole:
        try:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise DataError(f"{path} is neither JSON nor JSON lines ({whole}): mend it") from whole
    if isinstance(content, dict):
        lists = {name: value for name, value in content.items() if isinstance(value, list)}
        tables = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
        if not tables and lists:
            longest = max(map(len, lists.values()))
            return {str(name): value + [None] * (longest - len(value)) for name, value in lists.items()}
        content = tables[0] if tables else [content]
    if not (isinstance(content, list) and all(isinstance(row, dict) for row in content)):
        raise DataError(f"{path} holds no rows: write a list of objects such as {{'flops': ..., 'loss': ...}}")
    names = dict.fromkeys(str(name) for row in content for name in row)
    return {name: [row.get(name) for row in content] for name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", f"reading {path}") from error
    try:
        table = pq.read_table(path)
        return {name: table.column(index).to_pylist() for index, name in enumerate(table.column_names)}
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = (str(error).strip() or "unreadable").splitlines()[0]
        raise DataError(f"{path} is not a parquet table that can be read: {reason}") from error
