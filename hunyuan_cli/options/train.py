"""The options of `hunyuan train`, and the settings of a run that they and its run file make."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from model.training.settings import RunSettings

Sections = dict[str, dict[str, Any]]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", exists=True, dir_okay=False, help="A run file: TOML with the tables model, data and training."
    ),
]
Preset = Annotated[
    str | None, typer.Option("--model", metavar="PRESET", help="toy, toy-dense, toy-hf, small, base or ladder-256.")
]
InitFrom = Annotated[
    Path | None,
    typer.Option(
        "--init-from", metavar="RUN|CHECKPOINT|FOLDER", exists=True, file_okay=False,
        help="Begin with the weights, model and tokenizer of a run, one of its checkpoints, or a Hugging Face folder.",
    ),
]  # fmt: skip
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change any setting of the run file; repeatable."),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="A file, folder, glob, hf:NAME, stdlib (this interpreter's library), or a generated task such as "
        "tasks:key_value:length=2K or tasks:copy:length=2K,words=64,loss=answer; repeatable.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", file_okay=False, help="The run folder; by default runs/PRESET-N.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps; or give --tokens or --flops.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --out, from its newest intact checkpoint. A greater --steps, --tokens or --flops lengthens "
        "it; --device and --set change what alters none of its numbers.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only warnings and the last line.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events (extra: tensorboard).")]


def changed_sections(options: Mapping[tuple[str, str], Any], assignments: list[str] | None) -> Sections:
    """What the command line says, by section and key; --set has the last word."""
    from model.training.settings import override

    changes: Sections = {}
    for (section, key), value in options.items():
        if value is not None:
            changes.setdefault(section, {})[key] = value
    for assignment in assignments or []:
        override(changes, assignment)
    return changes


def new_settings(config: Path | None, changes: Sections, *, new_length: bool) -> tuple["RunSettings", str]:
    """The settings of a new run, of its run file and `changes`, and a name for it; a new length replaces the file's."""
    from model.training.initial import take_over
    from model.training.settings import RunSettings, read_sections

    sections = read_sections(config) if config else {}
    for name in ("steps", "tokens", "flops") if new_length else ():
        sections.get("training", {}).pop(name, None)
    for section, keys in changes.items():
        sections[section] = sections.get(section, {}) | keys
    name = sections.get("model", {}).get("preset", "run" if config else "toy")
    if source := sections.get("training", {}).get("init_from"):
        sections, name = take_over(sections, Path(source)), "run"
    return RunSettings.from_sections(sections).absolute(), name
