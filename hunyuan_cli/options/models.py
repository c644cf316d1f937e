"""The models that a reporting command is asked about: names or paths, with keys changed by --set and types by --as."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import ConfigError

if TYPE_CHECKING:
    from model.config.load import CountedModel

CountAs = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="TYPE",
        help="Count a config.json of an unknown or missing model_type as one of this type, such as deepseek_v3.",
    ),
]


def counted_models(names: list[str] | None, settings: list[str] | None, counted_as: str | None) -> "list[CountedModel]":
    """All models, each changed alike; by default Hunyuan-Large."""
    from model.config.load import load_counted  # here: --help needs none of it

    names, changes = names or ["hunyuan-large"], _changes(settings)
    models = [load_counted(name, changes, counted_as) for name in dict.fromkeys(names)]
    if counted_as is not None and not any(model.counted_as for model in models):
        raise ConfigError([f"--as {counted_as} changes nothing: {' and '.join(names)} can be counted as it is"])
    return models


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
