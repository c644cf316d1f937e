"""`hunyuan convert`: a Hugging Face folder as a run folder, and back."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hunyuan_cli.console import progress, stderr
from hunyuan_cli.options.sizes import parse_bytes
from hunyuan_cli.results import emit

Source = Annotated[
    Path, typer.Argument(help="A Hugging Face folder, a run folder, or one checkpoint of a run.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", file_okay=False, help="The folder to write, which must not be there yet.")]
To = Annotated[
    Literal["native", "hunyuan", "transformers"] | None,
    typer.Option(
        "--to",
        help="native is a run folder, hunyuan the released layout, transformers that of its own classes. "
        "By default native for a Hugging Face folder, hunyuan for a run.",
    ),
]
DType = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Precision of the weights but for routers; by default that of the source."),
]
MaxShardSize = Annotated[
    int,
    typer.Option("--max-shard-size", parser=parse_bytes, metavar="BYTES", help="Largest file of weights, such as 5GB."),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Load what was written for transformers there, in float32, and compare the logits (extra: hf).",
    ),
]
TableOrJson = Annotated[Literal["table", "json"], typer.Option("--format", help="A table, or one JSON document.")]


def convert(
    source: Source,
    out: Out,
    to: To = None,
    dtype: DType = None,
    max_shard_size: MaxShardSize = "5GB",  # type: ignore[assignment]  # parsed by Typer
    check: Check = True,
    format: TableOrJson = "table",
) -> None:
    """Convert a model between a Hugging Face folder and a run folder, with its tokenizer.

    Example: hunyuan convert downloads/Hunyuan-A13B-Instruct --out runs/a13b

    Back: hunyuan convert runs/a13b --to transformers --dtype bfloat16 --max-shard-size 2GB --out exports/a13b
    """
    from model.checkpoint.convert import convert as convert_folder
    from model.checkpoint.released import is_released_folder

    facts = convert_folder(
        source,
        out,
        to=to or ("native" if is_released_folder(source) else "hunyuan"),
        dtype=dtype,
        max_shard_bytes=max_shard_size,
        check=check,
        stage=progress,
    )
    for note in facts["notes"]:
        stderr(note)
    emit(facts, format=format)
