"""The safetensors files of a folder: which tensors they hold, checked before any is read.

    with TensorFiles(folder) as files:
        files.info["model.norm.weight"]    its shape and dtype
        files.get("model.norm.weight")     a tensor over the mapped file: pages are read when they are touched
        files.shards()                     (name, tensor) of all, one file open at a time

The weights are in one model.safetensors, or in shards that model.safetensors.index.json names. Pickled weights (.bin, .pt)
can run code when they are loaded, so they never are. The safetensors library refuses overlapping tensors, shapes that do
not fit their bytes, and files cut short.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


class TensorInfo(NamedTuple):
    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorFiles:
    """The tensors of a folder by name; CheckpointError says in one sentence why they cannot be read.

    `rename` turns the name in a file into the one by which this object knows the tensor.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str] = str) -> None:
        self.info: dict[str, TensorInfo] = {}
        self._open: dict[Path, Any] = {}
        self._stack = ExitStack()
        for file, listed in _files(folder).items():
            with _opened(file) as handle:
                held = set(handle.keys())
                absent = sorted(listed - held)
                if absent:
                    raise CheckpointError(
                        f"{file} does not hold {some(absent)}, which {INDEX} says it does: copy it again"
                    )
                for name in listed or held:
                    self._add(file, name, handle.get_slice(name), rename(name))

    def _add(self, file: Path, name: str, part: Any, renamed: str) -> None:
        if part.get_dtype() not in DTYPES:
            raise CheckpointError(
                f"{file} holds {name} as {part.get_dtype()}: only {', '.join(DTYPES)} are read here, "
                "take a checkpoint that is not quantised"
            )
        if renamed in self.info:
            raise CheckpointError(
                f"{file.parent} holds {renamed} twice, as {self.info[renamed].name} and as {name}: remove one of them"
            )
        self.info[renamed] = TensorInfo(file, name, tuple(part.get_shape()), DTYPES[part.get_dtype()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._open.clear()

    def get(self, name: str) -> Tensor:
        """One tensor, from a file that stays open."""
        tensor: Tensor = self._handle(name).get_tensor(self.info[name].name)
        return tensor

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors hold the same values; what is mapped to find out is given back."""
        one, two = self.info[name], self.info[other]
        with _opened(one.file) as first, _opened(two.file) as second:
            return torch.equal(first.get_tensor(one.name), second.get_tensor(two.name))

    def rows(self, name: str, index: int) -> Tensor:
        """Entry `index` of a tensor along its first dimension, without reading the others."""
        tensor: Tensor = self._handle(name).get_slice(self.info[name].name)[index]
        return tensor

    def shards(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, file after file: what a file had mapped is given back before the next one is opened."""
        for file in dict.fromkeys(info.file for info in self.info.values()):
            with _opened(file) as handle:
                for name, info in self.info.items():
                    if info.file == file:
                        yield name, handle.get_tensor(info.name)

    def _handle(self, name: str) -> Any:
        file = self.info[name].file
        if file not in self._open:
            self._open[file] = self._stack.enter_context(_opened(file))
        return self._open[file]


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not an intact safetensors file ({error}): copy it again") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error}): copy it again") from error


def _files(folder: Path) -> dict[Path, set[str]]:
    """The weight files of a folder, each with the tensors that the index says it holds (none where there is no index)."""
    if (folder / WEIGHTS).is_file() and (not (folder / INDEX).exists() or ambiguity(folder)):
        return {folder / WEIGHTS: set()}
    if (folder / INDEX).exists():
        return _indexed(folder)
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} has its weights in {pickled[0]}, a pickle, which can run code and is never loaded: "
            "take the model's safetensors files"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    hint = f"; {some(others)} cannot be told apart without {INDEX}" if others else ""
    raise CheckpointError(
        f"{folder} holds neither {WEIGHTS} nor {INDEX}{hint}: give a folder with all of a model's files"
    )


def ambiguity(folder: Path) -> str | None:
    """A sentence where a folder holds a single file of weights and an index of others: transformers reads the single file."""
    if not (folder / WEIGHTS).is_file() or not (folder / INDEX).exists():
        return None
    try:
        if folder / WEIGHTS in _indexed(folder):  # one of the shards, or all of them
            return None
    except CheckpointError:  # an index that is of no use
        pass
    return (
        f"{folder} holds both {WEIGHTS} and {INDEX}: {WEIGHTS} is read, as transformers does; "
        "remove whichever is not the model's"
    )


def _indexed(folder: Path) -> dict[Path, set[str]]:
    path = folder / INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        entries = {str(name): str(file) for name, file in weight_map.items() if isinstance(file, str)}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not an index, an object with a weight_map of file names: copy it again"
        ) from error
    if not entries or len(entries) != len(weight_map):
        raise CheckpointError(f"{path} has a weight_map that does not give every tensor a file: copy it again")
    files: dict[Path, set[str]] = {}
    for name, file in entries.items():
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{path} names {file!r}, which is not a safetensors file of that folder: do not use it"
            )
        files.setdefault(folder / file, set()).add(name)
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {some(absent)} of its {len(files)} weight files: copy the missing ones")
    return files


def some(names: list[str], most: int = 20) -> str:
    """The first of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
