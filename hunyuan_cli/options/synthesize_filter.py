"""The options of `hunyuan synthesize filter`."""

from pathlib import Path
from typing import Annotated

import typer

from hunyuan_cli.options.sizes import parse_count

Pairs = Annotated[
    Path,
    typer.Argument(
        metavar="PAIRS.jsonl", exists=True, dir_okay=False, show_default=False,
        help="A JSON object a line: instruction, response, and if you like id and check.",
    ),
]  # fmt: skip
FilterOut = Annotated[
    Path, typer.Option("--out", file_okay=False, help="The folder of kept.jsonl and dropped.jsonl.", show_default=False)
]
MinCharacters = Annotated[int, typer.Option("--min-characters", min=0, help="Least characters of a response.")]
MaxCharacters = Annotated[
    int, typer.Option("--max-characters", parser=parse_count, metavar="N", help="Most characters of a response.")
]
Repetition = Annotated[
    float, typer.Option("--repetition", help="Greatest share of a response that repeats itself; 0: not looked at.")
]
Languages = Annotated[
    list[str] | None,
    typer.Option("--language", metavar="CODE", help="Keep responses in the script of en, zh, ru, ...; repeatable."),
]
Refusals = Annotated[bool, typer.Option("--refusals/--keep-refusals", help="Drop responses that refuse to answer.")]
Against = Annotated[
    list[Path] | None,
    typer.Option(
        "--against", metavar="FILE", exists=True, dir_okay=False,
        help="An evaluation set (jsonl, json, parquet, text): records that hold an item of it are dropped; repeatable.",
    ),
]  # fmt: skip
Contamination = Annotated[float, typer.Option("--contamination", help="Share of an item that counts as a copy of it.")]
Checks = Annotated[bool, typer.Option("--checks/--no-checks", help="Recompute the answers of records with a check.")]
Execute = Annotated[bool, typer.Option("--execute/--no-execute", help="Run the programs of checks, confined.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.01, help="Most seconds of one program.")]
AllowWeaker = Annotated[
    bool,
    typer.Option("--allow-weaker-confinement", help="Run programs even where the kernel cannot fully confine them."),
]
Vote = Annotated[
    bool, typer.Option("--vote", help="Of several answers to one instruction, keep those of more than half.")
]
Duplicates = Annotated[
    float, typer.Option("--duplicates", help="Least similarity of near duplicates, 0.4 to 1; 0: not looked for.")
]
Critique = Annotated[
    str,
    typer.Option(
        "--critique", metavar="FOLDER|NAME", show_default=False,
        help="A run or Hugging Face folder: drop responses that their instruction does not make likelier. Or an endpoint of "
        "--writers, which gives each a score from 1 to 10.",
    ),
]  # fmt: skip
CriticsFile = Annotated[
    Path | None,
    typer.Option(
        "--writers", exists=True, dir_okay=False, help="TOML with the table [writers.NAME] of --critique NAME."
    ),
]
CritiqueLeast = Annotated[
    float | None,
    typer.Option(
        "--critique-least", help="Keep from this score on: nats a token of a folder (0), of 10 by an endpoint (6)."
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Programs that run at a time; as many as there are processors.")
]
