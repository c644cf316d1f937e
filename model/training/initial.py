"""Where a run begins: given weights instead of random ones (train --init-from), with their model section and tokenizer.

    take_over(sections, SOURCE)   the sections of the new run: [model] and the tokenizer are the source's
    load_weights(net, SOURCE)     its weights into a model, in float32

SOURCE is a run folder, one of its checkpoints, or a Hugging Face folder that this code reads.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import released
from model.checkpoint import run as runs
from model.checkpoint.shard_files import files_of
from model.config.checks import unknown_key
from model.config.hunyuan import HunyuanConfig
from model.errors import ConfigError
from model.files import read_json, sha256
from model.transformer import Hunyuan

STARTS_AT_ZERO = "expert_bias"  # ends the names of buffers that a source may lack, or have where they are not needed


def take_over(sections: dict[str, dict[str, Any]], source: Path) -> dict[str, dict[str, Any]]:
    """The sections of a run that begins with the weights of `source`; ConfigError for keys that do not fit them."""
    home, weights = locate(source)
    config = _config(home, weights)
    model, data = dict(sections.get("model", {})), dict(sections.get("data", {}))
    problems = []
    if "preset" in model:
        problems.append(f"the model is that of {source}: leave out --model, or model.preset, with --init-from")
    if data.get("tokenizer") not in (None, "", str(home)):
        problems.append(f"the tokenizer is that of {source}: leave out data.tokenizer with --init-from")
    if problems:
        raise ConfigError(problems)
    resolved = {key: value for key, value in (config.to_dict() | model).items() if value is not None}
    changed = {key: value for key, value in model.items() if value != config.to_dict().get(key, object())}
    _check_fits(config, changed, source)
    training = sections.get("training", {}) | {"init_from": str(weights)}
    return sections | {"model": resolved, "data": data | {"tokenizer": str(home)}, "training": training}


def locate(source: Path) -> tuple[Path, Path]:
    """The folder with config.json and the tokenizer, and the one with the weights: a run's newest intact checkpoint."""
    source = source.expanduser().absolute()
    if released.is_released_folder(source):
        return source, source
    return runs.checkpoint_of(source)


def load_weights(net: Hunyuan, weights: Path) -> None:
    """Loads the weights in `weights`, as `locate` names it, into a model whose settings `take_over` resolved."""
    found = read_weights(weights)
    missing, unexpected = net.load_state_dict(found, strict=False)
    missing = [name for name in missing if not name.startswith(runs.REWARD_HEAD)]
    if other := [name for name in (*missing, *unexpected) if not name.endswith(STARTS_AT_ZERO)]:
        raise ConfigError([f"the weights of {weights} do not fit the model: {other[0]} is not in both"])


def read_weights(weights: Path) -> dict[str, Tensor]:
    """The weights in `weights` by name, whole and in float32."""
    found: dict[str, Tensor] = Hunyuan.from_checkpoint(weights, dtype=torch.float32).state_dict()
    return found


def weights_fingerprint(weights: Path) -> str:
    """SHA-256 of the names and contents of a folder's weights."""
    manifest = weights / runs.MANIFEST
    names = files_of("model", read_json(manifest)) if manifest.exists() else None
    paths = sorted(weights.glob("*.safetensors")) if names is None else [weights / name for name in names]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _config(home: Path, weights: Path) -> HunyuanConfig:
    return released.released_config(home) if home == weights else runs.config_of(home, weights)


def _check_fits(config: HunyuanConfig, changed: dict[str, Any], source: Path) -> None:
    """Refuses changes that ask for tensors of another shape, each by its key."""
    shapes = _shapes(config)
    values = config.to_dict()
    problems = []
    for key, value in changed.items():
        if key not in values:
            problems.append(unknown_key(key, values, "model"))
        elif not _same_shapes(config, {key: value}, shapes):
            problems.append(
                f"model.{key} = {value} does not fit the weights of {source}, where it is {values[key]}: leave it out"
            )
    if changed and not problems and not _same_shapes(config, changed, shapes):
        names = " and ".join(f"model.{key}" for key in changed)
        problems.append(f"{names} do not fit the weights of {source}: leave them out")
    if problems:
        raise ConfigError(problems)


def _same_shapes(config: HunyuanConfig, changes: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> bool:
    try:
        return _shapes(config.replace(**changes)) == shapes
    except (ConfigError, TypeError):
        return False  # it cannot be changed alone, or not so


def _shapes(config: HunyuanConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        tensors = Hunyuan(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(STARTS_AT_ZERO)}
