"""Records of a benchmark's local files: .jsonl, .json, .parquet, and .jsonl within .zip.

for where, record in rows(path): ...     where, such as "cmrc_mixup_16k.jsonl, line 3", is for messages
"""

import io
import json
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from model.data.readers import unreadable
from model.errors import DataError, MissingExtraError

Record = dict[str, Any]


def rows(path: Path) -> Iterator[tuple[str, Record]]:
    """Raises DataError with the file, the line and what to change."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in sorted(name for name in archive.namelist() if name.endswith(".jsonl")):
                    with archive.open(name) as file:
                        yield from _lines(io.TextIOWrapper(file, encoding="utf-8"), f"{path}:{name}")
        elif path.suffix == ".json":
            yield from _array(path)
        else:
            with path.open(encoding="utf-8") as file:
                yield from _lines(file, str(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): get it again") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def field(record: Record, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A value that must be there and of that kind."""
    value = record.get(key)
    if not isinstance(value, kind):
        found = "no" if key not in record else f"{type(value).__name__} as"
        raise DataError(f"{where}: {found} '{key}': give the benchmark's own file")
    return value


def check_known(kind: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"no {kind} is called {', '.join(map(repr, unknown))}: choose of {', '.join(known)}")


def _lines(file: io.TextIOBase | io.TextIOWrapper, name: str) -> Iterator[tuple[str, Record]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            where = f"{name}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON: get the file again") from error
            yield where, _object(record, where)


def _array(path: Path) -> Iterator[tuple[str, Record]]:
    """A list of records, alone or as the one list in an object; or, as the hub names them too, a record a line."""
    text = path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            yield from _lines(io.StringIO(text), str(path))
            return
        raise DataError(f"{path} is not JSON: get the file again") from error
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else found
    if not isinstance(found, list):
        raise DataError(f"{path} holds no list of records: give the benchmark's own file")
    for number, record in enumerate(found, start=1):
        where = f"{path}, record {number}"
        yield where, _object(record, where)


def _object(record: Any, where: str) -> Record:
    if not isinstance(record, dict):
        raise DataError(f"{where}: {type(record).__name__}, not an object: give the benchmark's own file")
    return record


def _parquet(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", f"reading {path}") from error
    try:
        row = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    row += 1
                    yield f"{path}, row {row}", record
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a parquet file that can be read: get it again") from error
