"""The options of `hunyuan train`."""

from pathlib import Path
from typing import Annotated

import typer

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
    typer.Option("--data", help="A file, folder, glob, hf:NAME or stdlib (this interpreter's library); repeatable."),
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
