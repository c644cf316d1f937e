"""The options of `hunyuan synthesize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from hunyuan_cli.options.writers import parse_settings

if TYPE_CHECKING:
    from model.data.synthesis.filter import FilterConfig
    from model.endpoint.config import EndpointConfig

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Files, folders, globs, hf:NAME, or stdlib (this interpreter's library, the default).",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", file_okay=False, help="The folder; the same command goes on in it.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The folder of a synthesis.")]
Stages = Annotated[
    str, typer.Option("--stage", metavar="N|N-M", help="1 instructions, 2 evolution, 3 responses, 4 filters.")
]
Count = Annotated[int, typer.Option("--count", min=1, help="Instructions of stage 1.")]
Samples = Annotated[
    int,
    typer.Option("--samples", min=1, help="Responses to each instruction; the same in other words may stay beside it."),
]
Harder = Annotated[float, typer.Option("--harder", help="Share of the instructions that are also made harder.")]
Expand = Annotated[float, typer.Option("--expand", help="Instructions added to rare domains, as a share of all.")]
Overlap = Annotated[
    float | None,
    typer.Option(
        "--overlap",
        help="Drop instructions of a greater ROUGE-L to an earlier one. By default 0.7; off for the embedded problems, "
        "which share their templates and differ in what they ask.",
    ),
]
Families = Annotated[
    str | None,
    typer.Option("--families", metavar="NAME,...", help="Of the embedded problems; a wrong name lists them."),
]
SplitName = Annotated[
    Literal["train", "held-out", "all"],
    typer.Option("--split", help="Which templates and problems the embedded writer may draw; a tenth is held out."),
]
ErrorRate = Annotated[
    float,
    typer.Option(
        "--error-rate", help="Share of embedded responses that are wrong on purpose; OUT/labels.jsonl names them."
    ),
]
TextKey = Annotated[str, typer.Option("--text-key", help="The key of a jsonl line that holds its text.")]
Encoding = Annotated[str, typer.Option("--encoding", help="Of text files, such as latin-1.")]
ShardUnits = Annotated[int, typer.Option("--shard-units", min=1, help="Units of work of one shard, held in memory.")]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", metavar="KEY=VALUE",
        help="A setting of stage 4, as synthesize filter has them: execute=false, vote=true, duplicates=0.9, against=[...], "
        "seconds, min_characters, critique, allow_weaker, ...; repeatable.",
    ),
]  # fmt: skip
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Programs of checks that run at a time.")]
Show = Annotated[int, typer.Option("--show", min=0, help="Also show so many of the pairs that were kept.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only the result.")]


class SourcesFirst(TyperGroup):
    """A group whose first argument may be a source: `synthesize docs/` is `synthesize run docs/`."""

    default = "run"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def parse_stages(text: str) -> range:
    """`3` is the third stage alone, `1-3` the first three."""
    first, _, last = text.partition("-")
    try:
        stages = range(int(first), int(last or first) + 1)
    except ValueError:
        stages = range(0)
    if not stages or stages[0] < 1 or stages[-1] > 4:
        raise typer.BadParameter(f"--stage '{text}' is no stage: write 3, or 1-4")
    return stages


def chosen_filters(
    settings: list[str] | None, writers: Path | None, *, embedded: bool, samples: int
) -> "tuple[FilterConfig, str, EndpointConfig | None]":
    """The filters of stage 4, the name of the critic among them, and its endpoint where it is one.

    Embedded problems share their wording, so that of them only equal ones are duplicates.
    """
    from dataclasses import fields

    from model.config.checks import unknown_key
    from model.data.synthesis.critics import LEAST_NATS, LEAST_SCORE, critic_config
    from model.data.synthesis.filter import FilterConfig
    from model.errors import ConfigError

    given: dict[str, Any] = {"duplicates": 1.0 if embedded else 0.8, "vote": samples > 1 and not embedded}
    given |= {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in parse_settings(settings, "--filter").items()
    }
    known = [field.name for field in fields(FilterConfig)]
    if problems := [unknown_key(key, known, "filter") for key in given if key not in known]:
        raise ConfigError(problems)
    critic = str(given.get("critique", ""))
    judge = critic_config(critic, writers)
    given.setdefault("critique_least", LEAST_NATS if judge is None else LEAST_SCORE)
    if judge is not None:
        given["critique"] = f"endpoint {judge.model}"
    try:
        return FilterConfig(**given), critic, judge
    except TypeError as error:
        raise ConfigError([f"--filter has a value of the wrong kind: {error}"]) from error
