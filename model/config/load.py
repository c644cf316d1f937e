"""Configurations and shapes by name or file.

load_shape("mixtral-8x22b")           what it counts: the sizes of a preset (presets.py)
load_shape("downloads/some-model")    or of a config.json, or the folder that holds one
"""

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config.architectures import buildable_config, read_shape
from model.config.hunyuan import HunyuanConfig
from model.config.presets import COMPARED, PRESETS
from model.config.released import is_released, read_config
from model.config.shape import ModelShape
from model.errors import ConfigError
from model.files import read_json


def named_config(name: str, changes: Mapping[str, Any]) -> HunyuanConfig:
    """A preset by name, with some fields changed; of another system, what builds its sizes here."""
    if not isinstance(name, str) or name not in PRESETS | COMPARED:  # a run file may hold anything
        raise ConfigError([f"there is no model named {name!r}: choose one of {', '.join(_buildable_names())}"])
    values = PRESETS[name] if name in PRESETS else config_of(COMPARED[name], name).to_dict()
    return HunyuanConfig.from_dict(values | dict(changes))


def _buildable_names() -> list[str]:
    """The presets, and of other systems those whose sizes can be built here."""

    def builds(name: str) -> bool:
        try:
            config_of(COMPARED[name], name)
        except ConfigError:
            return False
        return True

    return [*PRESETS, *filter(builds, COMPARED)]


def config_of(values: dict[str, Any], name: str) -> HunyuanConfig:
    """What builds a config.json: this project's own, exactly for the Hunyuan families, at the same sizes for others."""
    if "model_type" not in values:
        return HunyuanConfig.from_dict(values)
    return (read_config if is_released(values) else buildable_config)(values, name)


def load_values(name_or_path: str | Path) -> dict[str, Any]:
    """The keys of a preset or of a config.json, unchecked."""
    name = str(name_or_path)
    if name in PRESETS or name in COMPARED:
        return dict(PRESETS.get(name) or COMPARED[name])
    path = Path(name_or_path)
    try:
        missing = not path.exists()
    except OSError as error:  # a name too long for the file system, a folder closed to the user
        raise ConfigError([f"{reprlib.repr(name)} cannot be read: {error.strerror}"]) from error
    if missing:
        known = [*PRESETS, *COMPARED]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}, or name a config.json"
        raise ConfigError([f"there is no model and no file named {name!r}: {hint}"])
    return read_config_file(path)


def load_shape(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> ModelShape:
    """The shape of a preset, a config.json, or a folder that holds one, with some keys changed.

    ConfigError lists everything that is wrong.
    """
    return read_shape(load_values(name_or_path) | dict(changes or {}), str(name_or_path), changed=changes or {})


def read_config_file(path: Path) -> dict[str, Any]:
    """The keys of a config.json, or of that in a folder, unchecked."""
    path = path / "config.json" if path.is_dir() else path
    try:
        values = read_json(path)
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"{path} is not a JSON document: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path} holds a {type(values).__name__}, not an object of settings"])
    return values
