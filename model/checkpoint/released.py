"""Models in the released Hugging Face layout: read shard by shard, and written again.

    load_released(folder, Hunyuan)                          the model, in evaluation mode
    save_released(net, folder, layout="hunyuan", ...)       config.json, weights in shards with their index, copied files

Names are those of model/checkpoint/released_names.py, config.json of released_config.py. While reading, memory holds the model
and the mapped pages of one shard; while writing, the model and one shard.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoint.native import ROUTED, M, keeps_precision, sync
from model.checkpoint.released_config import Layout, read_config, write_config
from model.checkpoint.released_names import Part, parts_of
from model.checkpoint.tensor_files import INDEX, WEIGHTS, TensorFiles, some
from model.config import HunyuanConfig
from model.errors import CheckpointError

Table = dict[str, tuple[str, Part]]  # released name -> the tensor of this project that it is a part of

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DEFAULT_SHARD_BYTES = 5_000_000_000  # as transformers cuts them


def is_released_folder(folder: Path) -> bool:
    """Whether a folder's config.json names a model type, as those of Hugging Face do; a run's own has none."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def released_config(folder: Path) -> HunyuanConfig:
    """The configuration of a folder for which is_released_folder holds."""
    path = folder / "config.json"
    return read_config(json.loads(path.read_text(encoding="utf-8")), str(path))


def load_released(folder: Path, kind: type[M], dtype: torch.dtype | None = None, *, routed: bool = True) -> M:
    """The model of a released folder, on the CPU, in evaluation mode, in the precision of its files or in `dtype`.

    Routers keep the precision of their file. Without `routed` the routed experts stay behind, on the meta device.
    """
    config = released_config(folder)
    with torch.device("meta"):
        net = kind(config)
    shapes = shapes_of(net)
    with TensorFiles(folder) as files:
        table = checked_parts(files, shapes, config, where=folder)
        weights: dict[str, Tensor] = {}
        for name, tensor in files.shards():
            native, part = table.get(name, ("", None))
            if part is None or (ROUTED in native and not routed):
                continue
            if native not in weights:
                precision = tensor.dtype if dtype is None or keeps_precision(native) else dtype
                weights[native] = torch.empty(shapes[native], dtype=precision)
            _rows(weights[native], part).copy_(tensor.view(part.rows, -1))
    net.load_state_dict(weights, assign=True, strict=routed)
    net.eval()
    return net


def shapes_of(net: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def checked_parts(files: TensorFiles, shapes: dict[str, tuple[int, ...]], config: HunyuanConfig, where: Path) -> Table:
    """The table for the tensors of `shapes`; every missing, unexpected or misshapen one is listed in one error."""
    table: Table = {}
    for native, shape in shapes.items():
        table |= {part.name: (native, part) for part in parts_of(native, shape, config.num_experts)}
    found = {name: info for name, info in files.info.items() if not name.endswith("rotary_emb.inv_freq")}
    problems = []
    if config.tie_word_embeddings and HEAD in found:  # some writers store a tied head as well
        del found[HEAD]
        if EMBEDDING in found and not torch.equal(files.get(HEAD), files.get(EMBEDDING)):
            problems.append(f"{HEAD} differs from the embedding, to which config.json ties it")
    precisions: dict[str, set[torch.dtype]] = {}
    misshapen = []
    for name in table.keys() & found.keys():
        native, part = table[name]
        precisions.setdefault(native, set()).add(found[name].dtype)
        if found[name].shape != part.shape:
            misshapen.append(f"{name} {list(found[name].shape)} instead of {list(part.shape)}")
    lists = {
        "missing": [name for name in table if name not in found],
        "unexpected": [name for name in found if name not in table],
        "misshapen": sorted(misshapen),
        "in several precisions": [native for native, dtypes in precisions.items() if len(dtypes) > 1],
    }
    problems += [f"{what}: {some(names)}" for what, names in lists.items() if names]
    if problems:
        raise CheckpointError(f"the weights in {where} are not those of its config.json ({'; '.join(problems)})")
    return table


def _rows(tensor: Tensor, part: Part) -> Tensor:
    """The rows of a tensor that a part of it fills."""
    return tensor.view(-1, tensor.shape[-1] if tensor.dim() > 1 else 1)[part.start : part.start + part.rows]


# --- writing ---------------------------------------------------------------------------------------------------------


def save_released(
    net: nn.Module,
    folder: Path,
    *,
    layout: Layout,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    token_ids: dict[str, Any] | None = None,
    files: dict[str, bytes] | None = None,
) -> None:
    """Writes a folder in `layout`, whole or not at all: `files` are the tokenizer's and others that belong beside the weights.

    `token_ids` are config.json's own, such as eos_token_id. CheckpointError when the layout's code would compute something
    else, when the folder is taken, or when it cannot be written.
    """
    config: HunyuanConfig = net.config  # type: ignore[assignment]
    weights = net.state_dict()
    biases = [name for name, tensor in weights.items() if name.endswith("expert_bias") and tensor.any()]
    if biases:
        raise CheckpointError(
            f"this model chooses its experts with a bias ({some(biases, 1)}), which no released layout knows: "
            "it runs here only"
        )
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("expert_bias")}
    stored = {
        name: tensor.dtype if dtype is None or keeps_precision(name) else dtype for name, tensor in weights.items()
    }
    precision = str(stored["embed_tokens.weight"]).removeprefix("torch.")
    values = write_config(config, layout, precision, token_ids or {})
    with written_aside(folder) as aside:
        for name, content in (files or {}).items():
            (aside / name).write_bytes(content)
        (aside / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        _write_shards(aside, _shards(weights, stored, config.num_experts, max_shard_bytes), weights, stored)


Shard = list[tuple[str, Part]]


def _shards(
    weights: dict[str, Tensor], stored: dict[str, torch.dtype], num_experts: int, max_bytes: int
) -> list[Shard]:
    """The parts of all tensors in order, cut where a shard would grow over max_bytes."""
    shards: list[Shard] = []
    size = max_bytes + 1
    for native, tensor in weights.items():
        for part in parts_of(native, tuple(tensor.shape), num_experts):
            part_bytes = math.prod(part.shape) * stored[native].itemsize
            if size + part_bytes > max_bytes:
                shards.append([])
                size = 0
            shards[-1].append((native, part))
            size += part_bytes
    return shards


def _write_shards(
    folder: Path, shards: list[Shard], weights: dict[str, Tensor], stored: dict[str, torch.dtype]
) -> None:
    weight_map, total = {}, 0
    for index, shard in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for native, part in shard:  # copies: slices of one tensor may not go into one file
            tensors[part.name] = _rows(weights[native], part).reshape(part.shape).to("cpu", stored[native], copy=True)
            weight_map[part.name] = file
            total += tensors[part.name].nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index_json = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index_json, indent=2) + "\n", encoding="utf-8")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name when all of it is written and synced, and not at all otherwise."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is already there: name another folder, or remove it first")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in [*(path for path in aside.rglob("*") if path.is_file()), aside]:
            sync(path)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(
            f"{folder} could not be written ({reason}): free some space or name another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
