"""Reading text: a source is "stdlib", a file, a folder, a glob, or hf:NAME, and yields its documents in a fixed order.

A txt, md or py file is one document; a jsonl file one a line; a parquet file or data set one a row. Empty documents are
skipped, a source without any is an error. A folder is read recursively in sorted order, hidden names and other kinds of
files left out. Paths are as the user gave them, so that a message names what the user can look up.
"""

import glob
import json
import os
import sysconfig
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import DataError, MissingExtraError

STDLIB = "stdlib"
HUB_PREFIX = "hf:"
STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Document(NamedTuple):
    name: str
    text: str


def read_source(spec: str, text_key: str = "text") -> Iterator[Document]:
    """The documents of one entry of data.sources; raises DataError where there are none."""
    if spec == STDLIB:
        documents = _read_stdlib()
    elif spec.startswith(HUB_PREFIX):
        documents = _read_hub(spec.removeprefix(HUB_PREFIX), text_key)
    else:
        documents = _read_paths(spec, text_key)
    empty = True
    for document in documents:
        if document.text.strip():
            empty = False
            yield document
    if empty:
        raise DataError(f"{spec} has no text in it: give a source with at least one document that is not empty")


def _read_stdlib() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in _walk(root, STDLIB_LEFT_OUT):
        if path.suffix == ".py":
            try:
                yield Document(path.relative_to(root).as_posix(), path.read_bytes().decode())
            except (OSError, UnicodeDecodeError):
                continue  # not the user's file, so nothing that the user could mend


def _read_paths(spec: str, text_key: str) -> Iterator[Document]:
    try:
        path = Path(spec).expanduser()
        if path.is_file():
            if path.suffix.lower() not in READERS:
                raise DataError(f"{spec} is not one of the files that can be read: {', '.join(sorted(READERS))}")
            if path.stat().st_size == 0:
                raise DataError(f"{spec} is empty: give a file with text in it")
            files = [path]
        elif path.is_dir():
            files = [file for file in _walk(path) if file.suffix.lower() in READERS]
        elif glob.has_magic(spec):
            names = (Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 (may be absolute)
            files = sorted(file for file in names if file.suffix.lower() in READERS and file.is_file())
        else:
            raise DataError(f"{spec} is not a file, a folder or a glob that matches: check --data or data.sources")
    except (OSError, RuntimeError) as error:  # RuntimeError: ~name of an unknown user
        raise _unreadable(spec, error) from error
    if not files:
        raise DataError(f"{spec} has no file that can be read: put {', '.join(sorted(READERS))} files there")
    for file in files:
        try:
            yield from READERS[file.suffix.lower()](file, text_key)
        except OSError as error:
            raise _unreadable(file, error) from error


def _walk(folder: Path, left_out: Set[str] = frozenset()) -> list[Path]:
    """The files below `folder`, sorted, without hidden ones and without the folders named in `left_out`."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):  # os.walk: what is left out is not entered
        folders[:] = [name for name in folders if not name.startswith(".") and name not in left_out]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def _unreadable(path: str | Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{path} cannot be read ({reason}): check the path and its permissions")


def _decode(content: bytes, path: Path, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + error.object[: error.start].count(b"\n")  # error.object: without a byte order mark
        byte = error.object[error.start]
        raise DataError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8 or leave it out"
        ) from error


def _read_text(path: Path, text_key: str) -> Iterator[Document]:
    yield Document(str(path), _decode(path.read_bytes(), path))


def _read_jsonl(path: Path, text_key: str) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            content = _decode(line, path, first_line=number)
            if not content.strip():
                continue
            name = f"{path}, line {number}"
            try:
                record = json.loads(content)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", error)
                raise DataError(f"{name}: not valid JSON ({reason}); write one JSON object a line") from error
            if not isinstance(record, dict):
                raise DataError(f'{name}: not a JSON object; write {{"{text_key}": "..."}}')
            if text_key not in record:
                raise DataError(f"{name}: no key '{text_key}' among {_listed(record)}; set data.text_key")
            yield Document(name, _text(record[text_key], name, text_key))


def _read_parquet(path: Path, text_key: str) -> Iterator[Document]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", f"reading {path}") from error
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if text_key not in columns:
                raise DataError(f"{path}: no column '{text_key}' among {_listed(columns)}; set data.text_key")
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[text_key]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    name = f"{path}, row {row}"
                    yield Document(name, _text(value, name, text_key))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a parquet file that can be read: {_first_line(error)}") from error


def _read_hub(spec: str, text_key: str) -> Iterator[Document]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("datasets", "data", f"reading {HUB_PREFIX}{spec}") from error
    name, _, subset = spec.partition(":")
    try:
        rows = load_dataset(name, subset or None, split="train", streaming=False)
    except Exception as error:  # the network, the hub and the library each raise their own
        raise DataError(f"{HUB_PREFIX}{spec} cannot be loaded: {_first_line(error)}") from error
    if text_key not in rows.column_names:
        columns = _listed(rows.column_names)
        raise DataError(f"{HUB_PREFIX}{spec}: no column '{text_key}' among {columns}; set data.text_key")
    for number, record in enumerate(rows.select_columns([text_key]), start=1):
        row_name = f"{HUB_PREFIX}{spec}, row {number}"
        yield Document(row_name, _text(record[text_key], row_name, text_key))


def _text(value: Any, name: str, text_key: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name}: '{text_key}' is {type(value).__name__}, not a string; mend or remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise DataError(f"{name}: '{text_key}' holds half a surrogate pair; mend or remove it") from error
    return value


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
