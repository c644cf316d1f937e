"""The documents of a task from local files, laid out as a data set's repository is, or simply named after the task.

    DIR/gsm8k/train.jsonl, DIR/gsm8k/test.jsonl                    a folder named after the task
    DIR/mmlu_pro/test.jsonl                                        of a group: one file for all of its tasks
    DIR/ai2_arc/ARC-Challenge/test-00000-of-00001.parquet          or after the data set, with its configuration
    DIR/gsm8k_test.jsonl, DIR/gsm8k.jsonl                          or single files; the second is what is evaluated

Files may be .jsonl, .json, .parquet or .csv, with the data set's own columns.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.evaluation.rows import rows

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
ALIASES = {"validation": ("val", "valid", "dev"), "val": ("validation", "valid"), "dev": ("validation",)}


class LocalSplits(dict):
    """The splits of a task, each a datasets.Dataset, read when it is asked for."""

    def __init__(
        self, root: Path, task: str, config: Mapping[str, Any], shots: int, groups: Sequence[str] = ()
    ) -> None:
        """`groups` are the names that were asked for, of which the task may be a part."""
        super().__init__()
        self.root, self.task, self.config, self.shots, self.groups = root, task, config, shots, groups
        self.evaluated = config.get("test_split") or config.get("validation_split") or "test"

    def __missing__(self, split: str) -> Any:
        files = self._files(split)
        if not files and split != self.evaluated:
            if self.shots:
                raise DataError(
                    f"{self.task} takes its {self.shots} worked examples from the split '{split}', which is not in "
                    f"{self.root}: add it as {self.task}/{split}.jsonl, or give --shots 0"
                )
            return self[self.evaluated]  # nobody looks at it
        if not files:
            raise DataError(
                f"{self.root} has no data of {self.task}: put its split '{self.evaluated}' there as "
                f"{self.task}/{self.evaluated}.jsonl, with the columns of {self.config.get('dataset_path')}"
            )
        self[split] = _dataset(files)
        return self[split]

    def _files(self, split: str) -> list[Path]:
        for folder in self._folders():
            for name in (split, *ALIASES.get(split, ())):
                if found := _of_split(folder, name):
                    return found
        for stem in [f"{self.task}{mark}{split}" for mark in "_-."] + ([self.task] if split == self.evaluated else []):
            if found := [path for suffix in SUFFIXES if (path := self.root / f"{stem}{suffix}").is_file()]:
                return found[:1]
        return []

    def _folders(self) -> Iterator[Path]:
        repository, name = str(self.config.get("dataset_path") or ""), str(self.config.get("dataset_name") or "")
        for place in dict.fromkeys((self.task, repository, repository.rpartition("/")[2], *self.groups)):
            for inside in dict.fromkeys((name, f"data/{name}" if name else "data", "", "data")):
                if place and (folder := self.root / place / inside).is_dir():
                    yield folder


def _of_split(folder: Path, split: str) -> list[Path]:
    """A split's one file, or its shards."""
    for suffix in SUFFIXES:
        if (path := folder / f"{split}{suffix}").is_file():
            return [path]
        if shards := sorted(folder.glob(f"{split}-*-of-*{suffix}")):
            return shards
    inside = folder / split
    return [path for path in sorted(inside.iterdir()) if path.suffix in SUFFIXES] if inside.is_dir() else []


def _dataset(files: list[Path]) -> Any:
    import datasets

    found = [row for path in files for row in _rows(path)]
    if not found:
        raise DataError(f"{files[0]} holds no document: write one a line")
    try:
        return datasets.Dataset.from_list(found)
    except Exception as error:  # pyarrow has several kinds
        raise DataError(
            f"{files[0]} has a column whose values are of several types ({error}): make them one"
        ) from error


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if path.suffix == ".csv":
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read as CSV ({error}): mend the file") from error
    return (row for _, row in rows(path))
