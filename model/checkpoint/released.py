"""Models in the released Hugging Face layout: read shard by shard, and written again.

    load_released(folder, Hunyuan)                          the model, in evaluation mode
    write_released(net, folder, layout="hunyuan", ...)      config.json, and the weights in shards with their index
    with written_aside(folder) as aside: ...                a folder that is there whole or not at all

Names are those of model/checkpoint/released_names.py, config.json that of model/config/released.py. While reading, memory
holds the model and the mapped pages of one shard; while writing, the model and one shard.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from model.checkpoint.released_names import Part, parts_of, released_name, stacked_experts, stacked_part_of
from model.checkpoint.run import ROUTED, M, keeps_precision, without_storage, write_tensors
from model.checkpoint.tensor_files import INDEX, WEIGHTS, TensorFiles, some
from model.config.hunyuan import HunyuanConfig
from model.config.load import load_values
from model.config.released import Layout, read_config, write_config
from model.errors import CheckpointError
from model.files import folder_aside, write_json

Table = dict[str, tuple[str, Part]]  # released name -> the tensor of this project that it is a part of
Progress = Callable[[int], None]  # takes the bytes of weights just read or written

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EXPERT_BIAS = ".router.expert_bias"  # ends the names of buffers that no release has
DEFAULT_SHARD_BYTES = 5_000_000_000  # near what transformers cuts them to, when it is asked to
FEW_BLOCKS = 1000  # so many layers and experts are built and named before anything is known of the weights


def is_released_folder(folder: Path) -> bool:
    """Whether a folder's config.json names a model type, as those of Hugging Face do; a run's own has none.

    ConfigError where it is no JSON object.
    """
    path = folder / "config.json"
    return path.is_file() and "model_type" in load_values(path)


def released_config(folder: Path) -> HunyuanConfig:
    """The configuration of a folder for which is_released_folder holds."""
    path = folder / "config.json"
    return read_config(load_values(path), str(path))


def load_released(
    folder: Path,
    kind: type[M],
    dtype: torch.dtype | None = None,
    *,
    routed: bool = True,
    progress: Progress = lambda count: None,
) -> M:
    """The model of a released folder, on the CPU, in evaluation mode, in the precision of its files or in `dtype`.

    Routers keep the precision of their file. Without `routed` the routed experts stay behind, on the meta device.
    """
    config = released_config(folder)
    with TensorFiles(folder, released_name) as files:
        experts = 1 if stacked_experts(0)[0] in files.info else config.num_experts
        if config.num_hidden_layers * experts > max(len(files.info), FEW_BLOCKS):
            raise CheckpointError(
                f"{folder} holds {len(files.info):,} tensors, too few for the {config.num_hidden_layers:,} layers and "
                f"{config.num_experts:,} experts of its config.json: take both from one model"
            )
        net = without_storage(kind, config, folder)
        shapes = shapes_of(net)
        table = checked_parts(files, shapes, config, where=folder)
        weights: dict[str, Tensor] = {}
        for name, tensor in files.shards():
            own, part = table.get(name, ("", None))
            if part is None or (ROUTED in own and not routed):
                continue
            if own not in weights:
                precision = tensor.dtype if dtype is None or keeps_precision(own) else dtype
                weights[own] = torch.empty(shapes[own], dtype=precision)
            _rows(weights[own], part).copy_(tensor.view(part.rows, -1))
            progress(tensor.nbytes)
    net.load_state_dict(weights, assign=True, strict=routed)
    net.eval()
    return net


def shapes_of(net: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def checked_parts(files: TensorFiles, shapes: dict[str, tuple[int, ...]], config: HunyuanConfig, where: Path) -> Table:
    """The table for the tensors of `shapes`; every missing, unexpected or misshapen one is listed in one error."""
    table: Table = {}
    found = {name: info for name, info in files.info.items() if not name.endswith("rotary_emb.inv_freq")}
    for own, shape in shapes.items():
        stacked = stacked_part_of(own, shape)
        parts = [stacked] if stacked and stacked.name in found else parts_of(own, shape, config.num_experts)
        table |= {part.name: (own, part) for part in parts}
    problems = []
    if config.tie_word_embeddings and HEAD in found:
        if EMBEDDING not in found:  # some writers keep the head of the two that are one
            table[HEAD] = table.pop(EMBEDDING)
        else:  # and some store both
            del found[HEAD]
            if not files.equal(HEAD, EMBEDDING):
                problems.append(f"{HEAD} differs from the embedding, to which config.json ties it")
    precisions: dict[str, set[torch.dtype]] = {}
    misshapen = []
    for name in table.keys() & found.keys():
        own, part = table[name]
        precisions.setdefault(own, set()).add(found[name].dtype)
        if found[name].shape != part.shape:
            misshapen.append(f"{name} {list(found[name].shape)} instead of {list(part.shape)}")
    lists = {
        "missing": [name for name in table if name not in found],
        "unexpected": [name for name in found if name not in table],
        "misshapen": sorted(misshapen),
        "in several precisions": [own for own, dtypes in precisions.items() if len(dtypes) > 1],
    }
    problems += [f"{what}: {some(names)}" for what, names in lists.items() if names]
    if problems:
        raise CheckpointError(f"the weights in {where} are not those of its config.json ({'; '.join(problems)})")
    return table


def _rows(tensor: Tensor, part: Part) -> Tensor:
    """The rows of a tensor that a part of it fills."""
    return tensor.view(-1, tensor.shape[-1] if tensor.dim() > 1 else 1)[part.start : part.start + part.rows]


# --- writing ---------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """What a folder's weights came to."""

    tensors: int
    shards: int
    bytes: int  # of the tensors, without the files' headers


def write_released(
    net: nn.Module,
    folder: Path,
    *,
    layout: Layout,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    token_ids: dict[str, Any] | None = None,
    progress: Progress = lambda count: None,
) -> Written:
    """Writes config.json and the weights, in their precision, into an existing folder.

    `token_ids` are config.json's own, such as eos_token_id. CheckpointError when the layout's code would compute something
    else.
    """
    config: HunyuanConfig = net.config  # type: ignore[assignment]
    weights = net.state_dict()
    biases = [name for name in weights if name.endswith(EXPERT_BIAS)]
    in_use = [name for name in biases if weights[name].any()]
    if in_use:
        raise CheckpointError(
            f"this model chooses its experts with a bias ({some(in_use, 1)}), which no released layout knows: "
            "it runs here only"
        )
    for name in biases:
        del weights[name]
    precision = str(weights["embed_tokens.weight"].dtype).removeprefix("torch.")
    values = write_config(config, layout, precision, token_ids or {})
    write_json(folder / "config.json", values)
    return _write_shards(folder, _shards(weights, config.num_experts, max_shard_bytes), weights, progress)


Shard = list[tuple[str, Part]]


def _shards(weights: dict[str, Tensor], num_experts: int, max_bytes: int) -> list[Shard]:
    """The parts of all tensors in order, cut where a shard would grow over max_bytes."""
    shards: list[Shard] = [[]]
    size = 0
    for own, tensor in weights.items():
        for part in parts_of(own, tuple(tensor.shape), num_experts):
            part_bytes = math.prod(part.shape) * tensor.element_size()
            if shards[-1] and size + part_bytes > max_bytes:
                shards.append([])
                size = 0
            shards[-1].append((own, part))
            size += part_bytes
    return shards


def _write_shards(folder: Path, shards: list[Shard], weights: dict[str, Tensor], progress: Progress) -> Written:
    weight_map, total = {}, 0
    for index, shard in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for own, part in shard:  # copies: slices of one tensor may not go into one file
            tensors[part.name] = _rows(weights[own], part).reshape(part.shape).to("cpu", copy=True)
            weight_map[part.name] = file
        write_tensors(tensors, folder / file, metadata={"format": "pt"})
        written = sum(tensor.nbytes for tensor in tensors.values())
        total += written
        progress(written)
    if len(shards) > 1:
        index_json = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX, index_json)
    return Written(len(weight_map), len(shards), total)


def refuse_taken(folder: Path) -> None:
    """CheckpointError if a folder to write is not empty, or cannot be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is already there: name another folder, or remove it first")
    above = next(path for path in folder.resolve().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise CheckpointError(f"{folder} cannot be made, for {above} is no folder to write in: name another one")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder to write into. It takes its name once all of it is written and synced; after an error it is removed."""
    refuse_taken(folder)
    try:
        with folder_aside(folder) as aside:
            yield aside
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(
            f"{folder} could not be written ({reason}): free some space or name another folder"
        ) from error
