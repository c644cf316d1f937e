"""Configurations and shapes by name or file.

load_shape("mixtral-8x22b")           what it counts: the sizes of a preset (presets.py)
load_shape("downloads/some-model")    or of a config.json, or the folder that holds one
"""

import difflib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config.architectures import READERS, buildable_config, read_shape
from model.config.hunyuan import HunyuanConfig
from model.config.presets import COMPARED, PRESETS
from model.config.quantization import stored_weights
from model.config.released import is_released, read_config
from model.config.shape import ModelShape
from model.config.storage import Storage
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
    """The keys of a preset or of a config.json, unchecked. A preset may be called as its repository is."""
    name = preset_of(name_or_path) or str(name_or_path)
    if name in PRESETS or name in COMPARED:
        return dict(PRESETS.get(name) or COMPARED[name])
    path = Path(name_or_path)
    try:
        missing = not path.exists()
    except OSError as error:  # a name too long for the file system, a folder closed to the user
        raise ConfigError([f"{reprlib.repr(name)} cannot be read: {error.strerror}"]) from error
    if missing:
        known = [*PRESETS, *COMPARED]
        near = difflib.get_close_matches(name.rpartition("/")[2].lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}, or name a config.json"
        raise ConfigError([f"there is no model and no file named {name!r}: {hint}"])
    return read_config_file(path)


# What repositories add to the names of models of one shape: their owner, training after the first, a file format.
_ADDED = re.compile(r"^(meta|tencent)-|-(instruct|chat|base|pretrain|hf|0324|v[0-9]+\.[0-9]+)$")


def preset_of(name_or_path: str | Path) -> str | None:
    """The preset that a name means: its own in any case, or its repository's such as meta-llama/Llama-3.1-8B-Instruct.

    A file or folder of that name comes first.
    """
    name, known = str(name_or_path), PRESETS | COMPARED
    if name in known:
        return name
    try:
        if Path(name_or_path).exists():
            return None
    except OSError:
        return None
    short, before = name.rpartition("/")[2].lower(), ""
    while short not in known and short != before:
        short, before = _ADDED.sub("", short), short
    return short if short in known else None


@dataclass(frozen=True, kw_only=True)
class CountedModel:
    """What the reporting commands know of a model."""

    values: dict[str, Any]  # of its language model
    shape: ModelShape
    weights: Storage | None  # their format where quantization_config says it
    weights_reason: str
    counted_as: str | None  # the type that was asked for, where it took effect
    notes: tuple[str, ...]  # what a reader of the counts should know


def load_counted(
    name_or_path: str | Path, changes: Mapping[str, Any] | None = None, counted_as: str | None = None
) -> CountedModel:
    """A preset, a config.json or the folder that holds one, with some keys changed, read for its counts.

    `counted_as` is the model type of a file whose own type is not known, or missing. Of a multimodal model its language
    model is counted. ConfigError lists everything that is wrong.
    """
    if counted_as is not None and counted_as not in READERS:
        raise ConfigError([f"--as {counted_as!r} is not a known model type: choose one of {', '.join(READERS)}"])
    preset = preset_of(name_or_path)
    name, values, notes = preset or str(name_or_path), load_values(name_or_path), []
    while preset is None and _kind(values) not in READERS and (key := _language_key(values)):
        kind, outer = values.get("model_type", "the whole model"), values
        values = dict(outer[key])
        for shared in ("tie_word_embeddings", "quantization_config"):  # often said once, for the whole model
            if shared in outer and shared not in values:
                values[shared] = outer[shared]
        notes.append(f"{name}: of {kind} the language model in {key} is counted, without what reads images or sound")
    kind = _kind(values)
    taken = counted_as if preset is None and kind not in READERS else None
    if taken is not None:
        shown = reprlib.repr(kind) if "model_type" in values else "no model_type"
        values = values | {"model_type": taken}
        notes.append(f"{name}: has {shown} and is counted as {taken}, as --as says")
    values = values | dict(changes or {})
    shape = read_shape(values, name, changed=changes or {})
    weights, reason = stored_weights(values)
    return CountedModel(
        values=values, shape=shape, weights=weights, weights_reason=reason, counted_as=taken, notes=tuple(notes)
    )


def load_shape(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> ModelShape:
    """The shape of a preset, a config.json, or a folder that holds one, with some keys changed; as load_counted."""
    return load_counted(name_or_path, changes).shape


def _kind(values: dict[str, Any]) -> str | None:
    kind = values.get("model_type")
    return kind if isinstance(kind, str) else None


def _language_key(values: dict[str, Any]) -> str | None:
    """Where a multimodal config.json keeps its language model's."""
    keys = ("text_config", "llm_config", "language_config", "thinker_config")
    return next((key for key in keys if isinstance(values.get(key), dict)), None)


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
