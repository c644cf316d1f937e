"""Tables of runs as files: CSV, JSON, JSON lines or parquet, read into columns of unchecked cells.

A file may be packed (gzip, zstandard), and `-` is standard input. No pandas: importing it takes longer than a fit.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.scaling.columns import COLUMNS, plain
from analyses.scaling.run_folders import read_run_folders
from model.errors import DataError, MissingExtraError

MAX_FILE_BYTES = 500_000_000
_GZIP, _ZSTANDARD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Table:
    """The cells of a file by column, as they were written."""

    name: str
    columns: dict[str, list[Any]]
    separator: str = ","  # of the cells of a CSV file

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)


def read_table(path: Path) -> Table:
    """A table of runs, or the runs of a folder; DataError in one sentence where there is none."""
    if path.is_dir():
        return Table(str(path), read_run_folders(path), "")
    name = "standard input" if str(path) == "-" else str(path)
    data = _unpack(_read_bytes(path, name), name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if data.startswith(_PARQUET) or any(suffix in (".parquet", ".pq") for suffix in suffixes):
        columns, separator = _read_parquet(data, name), ""
    else:
        try:
            # A byte order mark tells UTF-16, as spreadsheets and PowerShell write it, from UTF-8.
            text = data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8 or as parquet") from error
        if text.lstrip()[:1] in ("{", "[") or any(suffix in (".json", ".jsonl", ".ndjson") for suffix in suffixes):
            columns, separator = _read_json(text, name), ""
        else:
            columns, separator = _read_csv(text, name)
    if not any(columns.values()):
        raise DataError(f"{name} has no rows: give a table with a header and one row a run")
    return Table(name if str(path) == "-" else path.name, columns, separator)


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        elif path.stat().st_size <= MAX_FILE_BYTES:
            data = path.read_bytes()
        else:
            raise _too_large(name)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}): check the path") from error
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(name)
    return data


def _too_large(name: str) -> DataError:
    return DataError(f"{name} has over {MAX_FILE_BYTES // 10**6} MB: give a table of runs, one row a run")


def _unpack(data: bytes, name: str) -> bytes:
    """What a packed file holds, whatever its name; other bytes as they are."""
    try:
        if data.startswith(_GZIP):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_FILE_BYTES + 1)
        elif data.startswith(_ZSTANDARD):
            try:
                import pyarrow as pa
            except ImportError as error:
                raise MissingExtraError("pyarrow", "data", f"unpacking {name}") from error
            data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:  # pyarrow's errors of reading are OSErrors
        raise DataError(f"{name} cannot be unpacked ({error}): pack it again") from error
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(name)
    return data


def _read_csv(text: str, name: str) -> tuple[dict[str, list[Any]], str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    header = lines[0] if lines else ""
    separator = max(",;\t", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{name} is not a CSV table ({error}): write a header and one row a run") from error
    names = [column.strip() for column in rows[0]] if rows else []
    twice = next((column for column in names if column and names.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{name} has two columns called '{twice}': rename one")
    columns = {
        column: [row[index].strip() if index < len(row) else "" for row in rows[1:]]
        for index, column in enumerate(names)
        if column
    }
    return columns, separator


def _read_json(text: str, name: str) -> dict[str, list[Any]]:
    """Rows or columns in any of the ways that JSON spells them, or a row a line."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as whole:
        try:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            why = "its brackets are nested too deep" if isinstance(whole, RecursionError) else whole
            raise DataError(f"{name} is neither JSON nor JSON lines ({why}): mend it") from whole
    columns = _json_columns(content)
    if columns is None:
        raise DataError(f"{name} holds no rows: write a list of objects such as {{'flops': ..., 'loss': ...}}")
    return columns


def _json_columns(content: Any) -> dict[str, list[Any]] | None:
    """The columns of a list of rows, an object of columns, an object that holds a list of rows, or what pandas writes:
    every `orient` of DataFrame.to_json, but "values" only where the first row names the columns."""
    if isinstance(content, dict):
        if {"columns", "data"} <= content.keys() and isinstance(content["columns"], list):  # orient="split"
            return _named(content["columns"], content["data"])
        if len(content) > 0 and all(isinstance(value, dict) for value in content.values()):
            return _json_of_objects(content)
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        tables = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
        if not tables and lists:
            longest = max(map(len, lists.values()))
            return {str(key): value + [None] * (longest - len(value)) for key, value in lists.items()}
        content = tables[0] if tables else [content]
    if not isinstance(content, list):
        return None
    if content and isinstance(content[0], list):
        return _named(content[0], content[1:])
    if not all(isinstance(row, dict) for row in content):
        return None
    return _by_column(content)


def _json_of_objects(content: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of rows, pandas' default, or rows by their index: whichever has names of columns outside."""
    known = {name for groups in COLUMNS.values() for names in groups for name in names}
    outside = sum(plain(str(name)) in known for name in content)
    inside = sum(
        plain(str(name)) in known for name in dict.fromkeys(key for value in content.values() for key in value)
    )
    numbered = all(str(name).isdigit() for name in content)
    if inside > outside or (inside == outside and numbered):
        return _by_column(list(content.values()))
    index = dict.fromkeys(key for value in content.values() for key in value)
    return {str(name): [value.get(key) for key in index] for name, value in content.items()}


def _by_column(rows: list[Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _named(names: list[Any], rows: Any) -> dict[str, list[Any]] | None:
    """Rows without names; None where the names are none."""
    good = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not good or not names or len(set(map(str, names))) < len(names) or not all(isinstance(n, str) for n in names):
        return None
    return {name: [row[index] if index < len(row) else None for row in rows] for index, name in enumerate(names)}


def _read_parquet(data: bytes, name: str) -> dict[str, list[Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", f"reading {name}") from error
    try:
        table = pq.read_table(pa.BufferReader(data))
        return {column: table.column(index).to_pylist() for index, column in enumerate(table.column_names)}
    except (pa.ArrowException, ValueError, TypeError, OverflowError, OSError) as error:
        reason = (str(error).strip() or "unreadable").splitlines()[0]
        raise DataError(f"{name} is not a parquet table that can be read: {reason}") from error
