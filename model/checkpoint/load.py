"""A model from any folder: a run's or its checkpoint's (run.py), or one in the released layout (released.py)."""

from pathlib import Path

import torch

from model.checkpoint import disk_experts, released
from model.checkpoint import run as runs
from model.checkpoint.released_names import released_name
from model.checkpoint.run import M
from model.checkpoint.tensor_files import TensorFiles
from model.errors import ConfigError


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
    folder, routed = Path(folder), expert_cache_bytes is None
    if released.is_released_folder(folder):
        files_in, net = folder, released.load_released(folder, kind, dtype, routed=routed)
    else:
        run, files_in = runs.checkpoint_of(folder)
        net = runs.model_of(run, files_in, kind, dtype, routed=routed)
    if expert_cache_bytes is None:
        return net.to(device)
    config = net.config
    if config.is_dense:
        raise ConfigError([f"{folder} is a dense model: it has no routed experts that could stay on disk"])
    if released.is_released_folder(folder):  # files stay open as long as the model lives
        files = TensorFiles(files_in, released_name)
        read = disk_experts.released_reader(files)
    else:
        files = TensorFiles(files_in)
        read = disk_experts.run_reader(files)
    precision = dtype or next(info.dtype for name, info in files.info.items() if ".mlp.experts." in name)
    cache = disk_experts.ExpertCache(config, read, expert_cache_bytes, dtype=precision, device=device)
    disk_experts.keep_experts_on_disk(net, cache)
    return net.to(device)
