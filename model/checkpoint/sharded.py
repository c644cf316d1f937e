"""Checkpoints of several processes: every rank writes and hashes its own pieces, the first one makes them a checkpoint.

    RUN/checkpoints/step-00000200/
        model-00001-of-00002.safetensors, ...       weights of each rank, by name, and buffers with the first one's
        optimizer-00001-of-00002.safetensors, ...   AdamW's moments
        shards.json                                 which box of which tensor is where (shard_files.py)
        state.json, config.json, manifest.json      as those of one process (run.py)

A piece that several ranks hold is saved by the first of them. The folder appears whole or not at all, and any number of
processes goes on with it, in any layout. The run folder must be one that all processes see.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from model.checkpoint.run import (
    CONFIG,
    MANIFEST,
    STATE,
    checkpoint_folder,
    not_written,
    part_weight,
    remove_others,
    sweep_left_over,
    write_tensors,
)
from model.checkpoint.shard_files import INDEX, Entry, FilePiece, Kind, ShardFiles, file_name, index_of
from model.config.hunyuan import HunyuanConfig
from model.errors import CheckpointError
from model.files import folder_aside, read_json, sha256, write_json
from model.parallel.agree import gathered, of_first, together
from model.parallel.pieces import Piece, piece_of
from model.parallel.shard import Shards

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


def save_sharded(
    run: Path,
    step: int,
    shards: Shards,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    *,
    config: HunyuanConfig | None = None,
    boundaries: Collection[int] = (),
) -> None:
    """Writes the checkpoint of `step` as run.save_checkpoint does; every rank calls it.

    CheckpointError on the rank that cannot write, PeerError on the others.
    """
    folder, ranks = checkpoint_folder(run, step), shards.ranks
    with ExitStack() as stack:
        aside = ""
        with together(ranks), _told(run, step):
            if ranks.is_first:
                sweep_left_over(folder)
                aside = str(stack.enter_context(folder_aside(folder)))
        aside = of_first(ranks, aside)
        hashes = _write_own(run, Path(aside), step, shards, optimizer)
        with together(ranks), _told(run, step):
            if ranks.is_first:
                _write_records(Path(aside), hashes, _index(shards), state | {"step": step}, config)
                stack.close()  # it takes its place
                remove_others(run, step, keep, boundaries)


@contextmanager
def _told(run: Path, step: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise not_written(run, step, error) from error


def _write_records(
    aside: Path, hashes: dict[str, str], index: dict[str, Any], state: dict[str, Any], config: HunyuanConfig | None
) -> None:
    write_json(aside / STATE, state)
    write_json(aside / INDEX, index)
    if config is not None:
        write_json(aside / CONFIG, config.to_dict())
    names = (INDEX, STATE, *([CONFIG] if config else []))
    write_json(aside / MANIFEST, hashes | {name: sha256(aside / name) for name in names})


def restore_sharded(folder: Path, shards: Shards, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Loads this rank's pieces of a checkpoint, whoever saved it, and returns its state.json."""
    boxes = {name: piece.slices for name, piece in shards.pieces.items()}
    with ShardFiles(folder, "model") as files:
        for name, piece in shards.pieces.items():
            if name not in files.entries or files.entries[name].shape != piece.whole:
                raise CheckpointError(
                    f"{folder} holds a model of another shape than run.toml says: undo the change there"
                )
        shards.fill(((name, files.read(name, box)) for name, box in boxes.items()), optimizer.state)
        for name, buffer in shards.net.named_buffers():
            buffer.copy_(files.read(name))
    with ShardFiles(folder, "optimizer") as files:
        for name, part in shards.parts.items():
            moments = {key: files.read(f"{name}.{key}", boxes[name]).to(part.device) for key in MOMENTS}
            count = files.read(f"{name}.{STEP}").to(part.device)
            optimizer.state[part] |= {STEP: count, **moments}
    state: dict[str, Any] = read_json(folder / STATE)
    return state


def _write_own(run: Path, aside: Path, step: int, shards: Shards, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Writes this rank's two files; the hashes of all ranks' files by name."""
    ranks, own = shards.ranks, []
    kinds: tuple[tuple[Kind, Any], ...] = (("model", _weights), ("optimizer", _moments))
    with together(ranks), _told(run, step):
        for kind, tensors in kinds:
            path = aside / file_name(kind, ranks.rank, ranks.layout.processes)
            write_tensors(dict(tensors(shards, optimizer)), path)
            own.append(f"{path.name} {sha256(path)}")
    lines = "\n".join(gathered(ranks, "\n".join(own))).splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _weights(shards: Shards, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """float32 values of the pieces that this rank saves, and of the first one the buffers."""
    for name, part in shards.parts.items():
        if shards.pieces[name].is_first:
            yield name, part_weight(part, optimizer).contiguous().cpu()
    if shards.ranks.is_first:
        for name, buffer in shards.net.named_buffers():
            yield name, buffer.detach().cpu()


def _moments(shards: Shards, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, part in shards.parts.items():
        state = optimizer.state[part]
        if shards.pieces[name].is_first:
            yield from ((f"{name}.{key}", state[key].contiguous().cpu()) for key in MOMENTS)
        if shards.ranks.is_first:
            yield f"{name}.{STEP}", torch.as_tensor(state[STEP]).cpu()


def _index(shards: Shards) -> dict[str, Any]:
    """Where everything is: each rank's pieces follow from the layout."""
    layout = shards.ranks.layout
    tensors: dict[Kind, dict[str, Entry]] = {"model": {}, "optimizer": {}}
    for name, own in shards.pieces.items():
        every = [piece_of(layout, rank, name, own.whole) for rank in range(layout.processes)]
        there = [(rank, piece) for rank, piece in enumerate(every) if piece.is_first]
        tensors["model"][name] = _entry("model", there, layout.processes)
        moment = _entry("optimizer", there, layout.processes)
        tensors["optimizer"] |= {f"{name}.{key}": moment for key in MOMENTS}
        tensors["optimizer"][f"{name}.{STEP}"] = _whole("optimizer", (), layout.processes)
    for name, buffer in shards.net.named_buffers():
        tensors["model"][name] = _whole("model", tuple(buffer.shape), layout.processes)
    return index_of(layout.processes, tensors)


def _entry(kind: Kind, there: list[tuple[int, Piece]], processes: int) -> Entry:
    pieces = [FilePiece(file_name(kind, rank, processes), piece.start, piece.shape) for rank, piece in there]
    return Entry(there[0][1].whole, pieces)


def _whole(kind: Kind, shape: tuple[int, ...], processes: int) -> Entry:
    return Entry(shape, [FilePiece(file_name(kind, 0, processes), (0,) * len(shape), shape)])
