"""A model from any folder: a run's or its checkpoint's (run.py), or one in the released layout (released.py).

found = locate(folder)          where its files are, each of which is read once for its checksum
load_located(found, Hunyuan)    the model; load_model(folder, Hunyuan) does both
"""

from pathlib import Path
from typing import NamedTuple

import torch

from model.checkpoint import disk_experts, released
from model.checkpoint import run as runs
from model.checkpoint.released_names import released_name
from model.checkpoint.run import M
from model.checkpoint.shard_files import INDEX
from model.checkpoint.tensor_files import TensorFiles, ambiguity
from model.errors import ConfigError


class ModelFiles(NamedTuple):
    """Where a model is, and what somebody who asked for it should know."""

    home: Path  # the folder of config.json and the tokenizer
    weights: Path
    of_release: bool
    notes: list[str]  # on newer checkpoints that are damaged, or weights that are there twice


def home_of(folder: Path) -> Path:
    """The folder of config.json and the tokenizer: that of a release, or the run that `folder` is a checkpoint of."""
    return folder if released.is_released_folder(folder) else runs.run_of(folder)


def locate(folder: Path) -> ModelFiles:
    """The files of a Hugging Face folder, of one checkpoint, or of a run's newest checkpoint whose weights are intact."""
    if released.is_released_folder(folder):
        note = ambiguity(folder)
        return ModelFiles(folder, folder, True, [note] if note else [])
    home = runs.run_of(folder)
    if folder == home:
        weights, notes = runs.newest_intact(home, weights_alone=True)
    else:
        weights, notes = runs.checkpoint_of(folder)[1], []
    return ModelFiles(home, weights, False, notes)


def load_model(
    folder: str | Path,
    kind: type[M],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    expert_cache_bytes: int | None = None,
) -> M:
    """The model of a folder, in evaluation mode, in the precision of its files or in `dtype` (routers excepted).

    With `expert_cache_bytes` the routed experts stay in the files, and at most so many bytes of them in memory.
    """
    found = locate(Path(folder))
    return load_located(found, kind, dtype=dtype, device=device, expert_cache_bytes=expert_cache_bytes)


def load_located(
    found: ModelFiles,
    kind: type[M],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    expert_cache_bytes: int | None = None,
) -> M:
    """The same of files that `locate` found."""
    routed = expert_cache_bytes is None
    if found.of_release:
        net = released.load_released(found.weights, kind, dtype, routed=routed)
    else:
        net = runs.model_of(found.home, found.weights, kind, dtype, routed=routed)
    if expert_cache_bytes is None:
        return net.to(device)
    config = net.config
    if config.is_dense:
        raise ConfigError([f"{found.home} is a dense model: it has no routed experts that could stay on disk"])
    if (found.weights / INDEX).exists():
        raise ConfigError([
            f"{found.weights} was saved by several processes: convert it first (hunyuan convert) to keep its experts on disk"
        ])  # fmt: skip
    # Files stay open as long as the model lives.
    files = TensorFiles(found.weights, released_name if found.of_release else str)
    read = (disk_experts.released_reader if found.of_release else disk_experts.run_reader)(files)
    precision = dtype or next(info.dtype for name, info in files.info.items() if ".mlp.experts." in name)
    cache = disk_experts.ExpertCache(config, read, expert_cache_bytes, dtype=precision, device=device)
    disk_experts.keep_experts_on_disk(net, cache)
    return net.to(device)
