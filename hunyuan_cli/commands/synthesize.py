"""`hunyuan synthesize`: instruction data in four resumable stages, and what became of it."""

import shlex
from pathlib import Path

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.options.common import Format, Output, Seed
from hunyuan_cli.options.synthesize import (
    Count,
    Encoding,
    ErrorRate,
    Expand,
    Families,
    Harder,
    Out,
    Overlap,
    Quiet,
    Routes,
    Samples,
    ShardUnits,
    Sources,
    SourcesFirst,
    SplitName,
    Stages,
    TextKey,
    WriterName,
    parse_routes,
    parse_stages,
)
from hunyuan_cli.signals import stop_on_signal

FINISH_REQUESTS = "stopping after the requests under way (Ctrl-C again to stop at once; what was answered is kept)"

app = typer.Typer(cls=SourcesFirst, no_args_is_help=True)


@app.callback()
def synthesize() -> None:
    """Make instruction data in four stages: instructions, their evolution, responses, filters.

    Example: hunyuan synthesize docs/ --out data --count 1000    (the same as: hunyuan synthesize run docs/ ...)

    Then: hunyuan synthesize report data, and: hunyuan sft --data data/4_kept
    """


@app.command("run")
def run(
    sources: Sources = None,
    out: Out = Path("runs/synthesis"),
    writer: WriterName = "embedded",
    routes: Routes = None,
    stage: Stages = "1-3",
    count: Count = 1000,
    samples: Samples = 1,
    seed: Seed = 0,
    harder: Harder = 0.5,
    expand: Expand = 0.25,
    overlap: Overlap = None,
    families: Families = None,
    split: SplitName = "train",
    error_rate: ErrorRate = 0.0,
    text_key: TextKey = "text",
    encoding: Encoding = "utf-8",
    shard_units: ShardUnits = 10_000,
    quiet: Quiet = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Make, evolve, answer and filter instructions from text; `run` itself may be left out.

    Killed or stopped at any moment, the same command goes on. OUT/4_kept is data for train and sft, OUT/dropped.jsonl has
    everything that was dropped, with its filter and reason.

    Example, offline: hunyuan synthesize docs/ --out data --count 1000

    With a model: hunyuan synthesize docs/ --out data --writer endpoint --samples 4 --dry-run
    """
    from hunyuan_cli.views.synthesis import emit_funnel, make_view
    from model.data.synthesis.config import SynthesisConfig
    from model.data.synthesis.embedded import EmbeddedWriter
    from model.data.synthesis.pipeline import Synthesis

    stages = parse_stages(stage)
    config = SynthesisConfig(
        sources=tuple(sources or ["stdlib"]), count=count, seed=seed, samples=samples, routes=parse_routes(routes),
        harder=harder, expand=expand, overlap=(0.0 if writer == "embedded" else 0.7) if overlap is None else overlap,
        text_key=text_key, encoding=encoding, shard_units=shard_units,
    )  # fmt: skip
    names = [name.strip() for name in families.split(",")] if families else []
    authors = {"embedded": EmbeddedWriter(names, split, error_rate)}
    with stop_on_signal(stderr, FINISH_REQUESTS, at_once=False) as should_stop, make_view(quiet) as view:
        synthesis = Synthesis(out, config, authors, writer, view, should_stop)
        with synthesis.held():
            whole = synthesis.run(stages)
    emit_funnel(out, format, output)
    if not whole:
        stderr(f"stopped, and everything that was answered is kept; the same command goes on: {shlex.quote(str(out))}")
        raise typer.Exit(130)
