"""The models that a reporting command is asked about: names or paths, with keys changed by --set."""

from typing import Any

from model.config.load import load_shape, load_values
from model.config.shape import ModelShape
from model.errors import ConfigError


def model_values(name: str, settings: list[str] | None) -> dict[str, Any]:
    """The keys of one model's configuration, changed."""
    return load_values(name) | _changes(settings)


def model_shapes(names: list[str], settings: list[str] | None) -> list[ModelShape]:
    """The shapes of all models, each changed alike."""
    changes = _changes(settings)
    return [load_shape(name, changes) for name in dict.fromkeys(names)]


def _changes(settings: list[str] | None) -> dict[str, Any]:
    if not settings:
        return {}
    from model.training.settings import override

    sections: dict[str, dict[str, Any]] = {}
    for assignment in settings:
        override(sections, assignment)
    others = [name for name in sections if name != "model"]
    if others:
        raise ConfigError([f"--set {others[0]}... changes a run: write --set model.KEY=VALUE here"])
    return sections.get("model", {})
