"""Tensors that several files hold between them: an index of which box of which tensor is where.

    shards.json    {"processes", "model": {NAME: {"shape", "pieces": [{"file", "start", "shape"}, ...]}}, "optimizer": ...}

Every process of a run writes one file of weights and one of moments, in each the pieces that it holds under the tensors' names.
A checkpoint of one process has no index: model.safetensors and optimizer.safetensors hold everything whole. Both are read here,
whole or by any box, so that what N processes saved is resumed on any other number.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import starmap
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import CheckpointError
from model.files import read_json

INDEX = "shards.json"
Kind = Literal["model", "optimizer"]
Slices = tuple[slice, ...]


class FilePiece(NamedTuple):
    file: str
    start: tuple[int, ...]
    shape: tuple[int, ...]


class Entry(NamedTuple):
    """A whole tensor and where its pieces lie."""

    shape: tuple[int, ...]
    pieces: list[FilePiece]

    def to_json(self) -> dict[str, Any]:
        return {"shape": self.shape, "pieces": [piece._asdict() for piece in self.pieces]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Entry":
        pieces = [FilePiece(str(p["file"]), tuple(p["start"]), tuple(p["shape"])) for p in values["pieces"]]
        return cls(tuple(values["shape"]), pieces)


def file_name(kind: Kind, rank: int, processes: int) -> str:
    """The file of one process among several."""
    return f"{kind}-{rank + 1:05d}-of-{processes:05d}.safetensors"


def single_name(kind: Kind) -> str:
    """The file of the only process."""
    return f"{kind}.safetensors"


def index_of(processes: int, tensors: dict[Kind, dict[str, Entry]]) -> dict[str, Any]:
    """The content of shards.json."""
    return {"processes": processes} | {
        kind: {name: entry.to_json() for name, entry in entries.items()} for kind, entries in tensors.items()
    }


class ShardFiles:
    """The weights or the moments of a checkpoint, whoever saved it. Files are opened when they are read, until the block ends.

    with ShardFiles(folder, "model") as files: files.read("norm.weight")
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder, self._stack = folder, ExitStack()
        self._open: dict[str, Any] = {}
        self.entries: dict[str, Entry] = _entries(folder, kind) if (folder / INDEX).exists() else {}
        if not self.entries:
            file = self._handle(single_name(kind))
            for name in file.keys():  # noqa: SIM118
                shape = tuple(file.get_slice(name).get_shape())
                self.entries[name] = Entry(shape, [FilePiece(single_name(kind), (0,) * len(shape), shape)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._open.clear()

    def names(self) -> list[str]:
        return list(self.entries)

    def read(self, name: str, box: Slices | None = None) -> Tensor:
        """A tensor, or a box of it: no more is read of the files. A whole one may lie over the mapped file."""
        entry = self.entries[name]
        if len(entry.pieces) == 1 and (box is None or not entry.shape):
            whole: Tensor = self._handle(entry.pieces[0].file).get_tensor(name)
            return whole
        wanted = [(0, size) for size in entry.shape] if box is None else [(part.start, part.stop) for part in box]
        result: Tensor | None = None
        for piece in entry.pieces:
            file = self._handle(piece.file)
            limits = zip(wanted, piece.start, piece.shape, strict=True)
            common = [(max(low, at), min(high, at + size)) for (low, high), at, size in limits]
            if result is None:
                dtype = _dtype(file, name)
                result = torch.empty([high - low for low, high in wanted], dtype=dtype)
            if any(low >= high for low, high in common):
                continue
            there = tuple(slice(low - at, high - at) for (low, high), at in zip(common, piece.start, strict=True))
            here = tuple(slice(low - at, high - at) for (low, high), (at, _) in zip(common, wanted, strict=True))
            result[here] = file.get_slice(name)[there]
        assert result is not None, "an entry has pieces"
        return result

    def _handle(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = self._stack.enter_context(safe_open(self.folder / name, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{self.folder / name} cannot be read ({error}): use another checkpoint"
                ) from error
        return self._open[name]


def read_all(folder: Path, kind: Kind) -> dict[str, Tensor]:
    """Every tensor, whole, by name."""
    with ShardFiles(folder, kind) as files:
        return {name: files.read(name) for name in files.names()}


def files_of(kind: Kind, names: Iterable[str]) -> list[str]:
    """Which of the files of a checkpoint are those of a kind, in order; INDEX is one of each kind."""
    found = [name for name in names if name == INDEX or name == single_name(kind) or name.startswith(f"{kind}-")]
    return sorted(found)


def _entries(folder: Path, kind: Kind) -> dict[str, Entry]:
    path = folder / INDEX
    try:
        entries = {str(name): Entry.from_json(values) for name, values in read_json(path)[kind].items()}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of shards: use another checkpoint") from error
    for name, entry in entries.items():
        held = sum(prod(piece.shape) for piece in entry.pieces)
        if held != prod(entry.shape) or not entry.pieces or not all(starmap(_inside(entry.shape), entry.pieces)):
            raise CheckpointError(f"{path} does not say where all of {name} is: use another checkpoint")
        if any(Path(piece.file).name != piece.file for piece in entry.pieces):
            raise CheckpointError(f"{path} names a file outside of its folder: do not use it")
    return entries


def _inside(whole: tuple[int, ...]) -> Any:
    def inside(file: str, start: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        fits = zip(start, shape, whole, strict=False)
        return len(start) == len(shape) == len(whole) and all(at >= 0 and at + size <= all_ for at, size, all_ in fits)

    return inside


def _dtype(file: Any, name: str) -> torch.dtype:
    known = {
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F64": torch.float64,
        "I64": torch.int64,
    }
    written = file.get_slice(name).get_dtype()
    if written not in known:
        raise CheckpointError(f"a checkpoint holds {name} as {written}, which a run never writes: use another one")
    return known[written]
