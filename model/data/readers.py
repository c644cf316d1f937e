"""The documents of one file, by its kind: text, JSON, JSON lines or parquet, as it is or packed as .gz or .zst.

A txt, md or py file is one document, a jsonl file has one a line and a parquet file one a row. A json file holds a list of
documents, one document, or JSON lines.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from model.errors import DataError, MissingExtraError

PACKED = (".gz", ".zst")
DATA = (".json", ".jsonl", ".parquet")  # kinds of files that hold many documents


class Document(NamedTuple):
    name: str
    text: str


class Row(NamedTuple):
    """One entry of a file of data, before anything is asked of it."""

    name: str  # the file and the line, for messages
    value: Any


class NotDocuments(DataError):
    """A .json file of another use, such as settings: an error where it was named, left out of a folder."""


def kind_of(path: Path) -> str | None:
    """The reader of a file, named by its last ending but that of its packing; None where there is none."""
    *_, before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    packed = last in PACKED
    kind = before if packed else last
    return kind if kind in READERS and not (packed and kind == ".parquet") else None


def read_file(path: Path, text_key: str, encoding: str) -> Iterator[Document]:
    """Raises DataError with the file, the line and what to change."""
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path} is not one of the files that can be read: {KINDS}")
    with _readable(path):
        yield from READERS[kind](path, text_key, encoding)


def read_rows(path: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """The rows of a json, jsonl or parquet file as they are; DataError as `read_file`."""
    kind = kind_of(path)
    if kind not in DATA:
        raise DataError(f"{path} holds no rows: give one of {', '.join(DATA)}")
    with _readable(path):
        if kind == ".parquet":
            yield from _parquet_rows(path)
        else:
            yield from (_json_rows if kind == ".json" else _jsonl_rows)(path, encoding)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or no {path.suffix} file ({error}): get it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{path} cannot be read ({reason}): check the path and its permissions")


def _opened(path: Path) -> BinaryIO:
    """The file unpacked."""
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if ending == ".zst":
        try:
            import pyarrow as pa
        except ImportError as error:
            raise MissingExtraError("pyarrow", "data", f"reading {path}") from error
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8")


def _decode(content: bytes, path: Path, encoding: str, first_line: int = 1) -> str:
    try:
        if _is_utf8(encoding):
            return content.decode("utf-8-sig" if first_line == 1 else "utf-8")
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = first_line + error.object[: error.start].count(b"\n")  # error.object: without a byte order mark
        byte = error.object[error.start]
        raise DataError(
            f"{path}, line {line}: byte 0x{byte:02x} is not {encoding.upper()}; "
            "set data.encoding to the file's, such as latin-1 or utf-16, or leave the file out"
        ) from error


def _read_text(path: Path, text_key: str, encoding: str) -> Iterator[Document]:
    with _opened(path) as file:
        yield Document(str(path), _decode(file.read(), path, encoding))


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """One at a time; a line of UTF-16 does not end with the byte of a line's end, so that such a file is read whole."""
    with _opened(path) as file:
        if encoding.lower().startswith(("utf-16", "utf_16", "utf16", "utf-32", "utf_32", "utf32")):
            yield from _decode(file.read(), path, encoding).split("\n")
        else:
            for number, line in enumerate(file, start=1):
                yield _decode(line, path, encoding, first_line=number)


def _jsonl_rows(path: Path, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, encoding), start=1):
        if line.strip():
            name = f"{path}, line {number}"
            yield Row(name, _parsed(line, name, "write one JSON object a line"))


def _json_rows(path: Path, encoding: str) -> Iterator[Row]:
    """The entries of a list, JSON lines, or one row that has the name of the file: the whole of it."""
    with _opened(path) as file:
        content = _decode(file.read(), path, encoding)
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise DataError(f"{path}: not valid JSON ({error}); write a list of objects") from error
    except ValueError:
        if not content.lstrip().startswith("["):
            yield from _jsonl_rows(path, encoding)
            return
        found = _parsed(content, str(path), "write a list of objects")
    if isinstance(found, list):
        yield from (Row(f"{path}, document {number}", value) for number, value in enumerate(found, start=1))
    else:
        yield Row(str(path), found)


def _read_jsonl(path: Path, text_key: str, encoding: str) -> Iterator[Document]:
    for name, value in _jsonl_rows(path, encoding):
        yield _record(value, name, text_key)


def _read_json(path: Path, text_key: str, encoding: str) -> Iterator[Document]:
    for name, value in _json_rows(path, encoding):
        if name == str(path) and not (isinstance(value, dict) and text_key in value):
            raise NotDocuments(
                f"{path} is neither a list of documents nor one with a key '{text_key}': set data.text_key"
            )
        yield _record(value, name, text_key)


def _parsed(content: str, name: str, change: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not valid JSON ({getattr(error, 'msg', error)}); {change}") from error


def _record(record: Any, name: str, text_key: str) -> Document:
    if not isinstance(record, dict):
        raise DataError(f'{name}: not a JSON object; write {{"{text_key}": "..."}}')
    if text_key not in record:
        raise DataError(f"{name}: no key '{text_key}' among {listed(record)}; set data.text_key")
    return Document(name, checked_text(record[text_key], name, text_key))


def _read_parquet(path: Path, text_key: str, encoding: str) -> Iterator[Document]:
    for name, value in _parquet_rows(path, text_key):
        yield Document(name, checked_text(value[text_key], name, text_key))


def _parquet_rows(path: Path, column: str | None = None) -> Iterator[Row]:
    """Every row with all its columns, or with one."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", f"reading {path}") from error
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if column is not None and column not in columns:
                raise DataError(f"{path}: no column '{column}' among {listed(columns)}; set data.text_key")
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=None if column is None else [column]):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", value)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a parquet file that can be read: {first_line(error)}") from error


def checked_text(value: Any, name: str, text_key: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name}: '{text_key}' is {type(value).__name__}, not a string; mend or remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise DataError(f"{name}: '{text_key}' holds half a surrogate pair; mend or remove it") from error
    return value


def listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


READERS: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
KINDS = f"{', '.join(sorted(READERS))}; all but .parquet also as .gz or .zst"
