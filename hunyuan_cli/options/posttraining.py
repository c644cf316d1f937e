"""The options that `sft`, `reward` and `dpo` share, and the settings of a stage that they and its run file make."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from model.config.hunyuan import HunyuanConfig
    from model.training.settings import RunSettings

Sections = dict[str, dict[str, Any]]
Defaults = Callable[["HunyuanConfig", Mapping[str, Any]], dict[str, Any]]  # of a model, and the keys that were chosen

From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="RUN|CHECKPOINT|FOLDER", exists=True, file_okay=False,
        help="The model to begin with: a run, one of its checkpoints, or a Hugging Face folder.",
    ),
]  # fmt: skip
StageConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", exists=True, dir_okay=False,
        help="A run file: TOML with the tables model, data, training and that of the command.",
    ),
]  # fmt: skip
StageOut = Annotated[Path | None, typer.Option("--out", file_okay=False, help="The run folder.")]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Readings of the data; or give --steps.")]

# Keys of [data] that are for text alone, as a run file has them where nobody has changed them.
OF_TEXT = {"text_key": "text", "anneal_sources": [], "anneal_weights": []}


def stage_settings(
    section: str,
    out: Path | None,
    source: Path | None,
    config: Path | None,
    changes: Sections,
    defaults: Defaults,
    *,
    needs: str = "name a file with --data",
) -> "RunSettings":
    """The settings of a new run of `section` in `out`, of its run file and `changes`, with the model of `source`."""
    from model.config.hunyuan import HunyuanConfig
    from model.errors import ConfigError
    from model.training.initial import take_over
    from model.training.run_folder import refuse_other_run
    from model.training.settings import POSTTRAINING, RunSettings, read_sections

    if out is None:
        raise typer.BadParameter("the run needs a folder: add --out DIR")
    refuse_other_run(out)
    sections = read_sections(config) if config else {}
    for name, keys in changes.items():
        sections[name] = sections.get(name, {}) | keys
    sections.setdefault(section, {})
    training, data = sections.setdefault("training", {}), sections.setdefault("data", {})
    if other := [name for name in sections if name in POSTTRAINING and name != section]:
        raise ConfigError([f"[{other[0]}] has no place in a run of hunyuan {section}: leave it out"])
    if unused := [key for key, value in OF_TEXT.items() if data.get(key, value) != value]:
        raise ConfigError([f"data.{unused[0]} is for text and has no effect on hunyuan {section}: leave it out"])
    if not data.get("sources"):
        raise typer.BadParameter(f"there is nothing to learn from: {needs}")
    begin = str(source) if source else training.get("init_from")
    if not begin:
        raise typer.BadParameter("there is no model to begin with: name a run or a Hugging Face folder with --from")
    sections = take_over(sections, Path(begin))
    model = HunyuanConfig.from_dict(sections["model"])
    settings = RunSettings.from_sections(sections | {"training": defaults(model, training) | sections["training"]})
    return dataclasses.replace(settings, data=settings.data.absolute())


def stage_of(folder: Path | None, section: str, *, without: Mapping[str, Any]) -> "RunSettings":
    """The settings of the run in a folder, which goes on; it was begun by this command. Nothing in `without` may be given."""
    from model.errors import ConfigError
    from model.training import run_folder

    if folder is None:
        raise typer.BadParameter("--resume needs the folder of the run: add --out RUN")
    for name, value in without.items():
        if value is not None:
            raise typer.BadParameter(f"{name} cannot change a run that is resumed: leave it out")
    settings = run_folder.settings_of(folder)
    if getattr(settings, section) is None:
        raise ConfigError([f"{folder} is no run of hunyuan {section}: go on with it by the command that began it"])
    return settings
