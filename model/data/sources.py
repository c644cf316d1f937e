"""Reading text: a source is "stdlib", a file, a folder, a glob, or hf:NAME, and yields its documents in a fixed order.

Empty documents are skipped, a source without any is an error. A folder is read recursively in sorted order, without hidden
names. What else is left out is counted by its reason: files of other kinds, a data set's card (README.md over data files),
a list of shards (manifest.json beside them), a .json of another use, empty documents, run folders: what training writes is
no text, and would change the data under it.
Paths are as the user gave them, so that a message names what the user can look up.
"""

import glob
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from model.data.joining import by_folder, joined
from model.data.readers import (
    DATA,
    KINDS,
    Document,
    NotDocuments,
    Row,
    checked_text,
    first_line,
    kind_of,
    listed,
    read_file,
    read_rows,
    unreadable,
)
from model.data.task_source import is_task
from model.errors import DataError, MissingExtraError

STDLIB = "stdlib"
HUB_PREFIX = "hf:"
RUN_RECORDS = {"run.toml", "config.json"}  # what tells a run folder
MANIFEST = "manifest.json"  # a list of the shards beside it, as synthesize writes it
STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def read_source(
    spec: str,
    text_key: str = "text",
    encoding: str = "utf-8",
    left_out: Counter[str] | None = None,
    *,
    join: bool = False,
) -> Iterator[Document]:
    """The documents of one entry of data.sources; raises DataError where there are none.

    With `join` the files of a folder are one document (joining.py).
    `left_out` is given what was passed over: how many by reason.
    """
    left_out = Counter() if left_out is None else left_out
    if spec == STDLIB:
        documents = _read_stdlib(join)
    elif is_task(spec):
        raise DataError(f"{spec} is made of tokens while a model is pre-trained: give a source of text here")
    elif spec.startswith(HUB_PREFIX):
        documents = _read_hub(spec.removeprefix(HUB_PREFIX), text_key)
    else:
        documents = _read_paths(spec, text_key, encoding, left_out, join)
    empty = True
    for document in documents:
        if document.text.strip():
            empty = False
            yield document
        else:
            left_out["empty documents"] += 1
    if empty:
        raise DataError(f"{spec} has no text in it: give a source with at least one document that is not empty")


def _read_stdlib(join: bool) -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root) for path in _walk(root, STDLIB_LEFT_OUT) if path.suffix == ".py"]
    documents = filter(None, (_stdlib_module(root, name) for name in (by_folder(names) if join else names)))
    yield from joined(documents) if join else documents


def _stdlib_module(root: Path, name: Path) -> Document | None:
    try:
        return Document(name.as_posix(), (root / name).read_bytes().decode())
    except (OSError, UnicodeDecodeError):
        return None  # not the user's file, so nothing that the user could mend


def read_source_rows(spec: str, encoding: str = "utf-8") -> Iterator[Row]:
    """The rows of json, jsonl and parquet files, or of hf:NAME, as they are; raises DataError where there are none."""
    rows = _hub_rows(spec) if spec.startswith(HUB_PREFIX) else _path_rows(spec, encoding)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{spec} has no rows in it: give a file with one JSON object a line")
    yield first
    yield from rows


def _path_rows(spec: str, encoding: str) -> Iterator[Row]:
    files, named = _files_of(spec, Counter())
    chosen = files if named else [file for file in files if kind_of(file) in DATA]
    if not chosen:
        raise DataError(f"{spec} has no file of rows: put {', '.join(DATA)} files there")
    for file in chosen:
        yield from read_rows(file, encoding)


def _hub_rows(spec: str) -> Iterator[Row]:
    for number, record in enumerate(_hub_data(spec.removeprefix(HUB_PREFIX)), start=1):
        yield Row(f"{spec}, row {number}", record)


def _read_paths(spec: str, text_key: str, encoding: str, left_out: Counter[str], join: bool) -> Iterator[Document]:
    files, named = _files_of(spec, left_out)
    if not files:
        raise DataError(f"{spec} has no file that can be read: put files of these kinds there: {KINDS}")
    if join:
        texts = by_folder(file for file in files if kind_of(file) not in DATA)
        files = [file for file in files if kind_of(file) in DATA]
        yield from joined(_named_from_their_root(texts, text_key, encoding))
    for file in files:
        try:
            yield from read_file(file, text_key, encoding)
        except NotDocuments:
            if named:
                raise
            left_out[f".json files without documents (no '{text_key}')"] += 1


def _named_from_their_root(files: list[Path], text_key: str, encoding: str) -> Iterator[Document]:
    """Texts with their paths below the folder that holds all of them, which are the same wherever that is."""
    root = os.path.commonpath([file.parent for file in files]) if files else ""
    for file in files:
        for _, text in read_file(file, text_key, encoding):
            yield Document(file.relative_to(root).as_posix(), text)


def _files_of(spec: str, left_out: Counter[str]) -> tuple[list[Path], bool]:
    """The files that a path, folder or glob means, and whether it named one itself."""
    try:
        path = Path(spec).expanduser()
        if path.is_file():
            if path.stat().st_size == 0:
                raise DataError(f"{spec} is empty: give a file with text in it")
            return [path], True
        if path.is_dir():
            return _readable(_walk(path, left_out=left_out), left_out), False
        if glob.has_magic(spec):
            names = (Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 (may be absolute)
            return _readable(sorted(file for file in names if file.is_file()), left_out), False
    except (OSError, RuntimeError) as error:  # RuntimeError: ~name of an unknown user
        raise unreadable(spec, error) from error
    raise DataError(f"{spec} is not a file, a folder or a glob that matches: check --data or data.sources")


def _readable(files: list[Path], left_out: Counter[str]) -> list[Path]:
    """Those with a reader, without the cards of data sets and the manifests of their shards."""
    with_data = {folder for file in files if kind_of(file) in DATA for folder in file.parents}
    with_shards = {file.parent for file in files if kind_of(file) in (".jsonl", ".parquet")}
    chosen = []
    for file in files:
        if kind_of(file) is None:
            left_out[f"{file.suffix.lower() or 'nameless'} files"] += 1
        elif file.name.lower() == "readme.md" and file.parent in with_data:
            left_out["data set cards (README.md)"] += 1
        elif file.name == MANIFEST and file.parent in with_shards:
            left_out[f"lists of shards ({MANIFEST})"] += 1
        else:
            chosen.append(file)
    return chosen


def _walk(folder: Path, without: Set[str] = frozenset(), left_out: Counter[str] | None = None) -> list[Path]:
    """The files below `folder`, sorted, without hidden ones, the folders named in `without`, and run folders below."""
    left_out = Counter() if left_out is None else left_out

    def fail(error: OSError) -> None:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):  # os.walk: what is left out is not entered
        if Path(parent) != folder and set(names) >= RUN_RECORDS:
            left_out["run folders"] += 1
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name not in without]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def _read_hub(spec: str, text_key: str) -> Iterator[Document]:
    rows = _hub_data(spec)
    if text_key not in rows.column_names:
        columns = listed(rows.column_names)
        raise DataError(f"{HUB_PREFIX}{spec}: no column '{text_key}' among {columns}; set data.text_key")
    for number, record in enumerate(rows.select_columns([text_key]), start=1):
        row_name = f"{HUB_PREFIX}{spec}, row {number}"
        yield Document(row_name, checked_text(record[text_key], row_name, text_key))


def _hub_data(spec: str) -> Any:
    """The training split of NAME or NAME:SUBSET."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("datasets", "data", f"reading {HUB_PREFIX}{spec}") from error
    name, _, subset = spec.partition(":")
    try:
        return load_dataset(name, subset or None, split="train", streaming=False)
    except Exception as error:  # the network, the hub and the library each raise their own
        raise DataError(f"{HUB_PREFIX}{spec} cannot be loaded: {first_line(error)}") from error
