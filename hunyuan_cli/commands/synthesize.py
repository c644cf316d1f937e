"""`hunyuan synthesize`: instruction data in four resumable stages, and what became of it."""

import shlex
from pathlib import Path

import typer

from hunyuan_cli.commands.synthesize_filter import filter_pairs
from hunyuan_cli.commands.synthesize_report import report, trace
from hunyuan_cli.console import stderr
from hunyuan_cli.options import synthesize as options
from hunyuan_cli.options import writers as who
from hunyuan_cli.options.common import Format, Output, Seed
from hunyuan_cli.signals import stop_on_signal

FINISH_REQUESTS = "stopping after the requests under way (Ctrl-C again to stop at once; what was answered is kept)"

app = typer.Typer(cls=options.SourcesFirst, no_args_is_help=True)
app.command("filter")(filter_pairs)
app.command("report")(report)
app.command("trace")(trace)


@app.callback()
def synthesize() -> None:
    """Make instruction data in four stages: instructions, their evolution, responses, filters.

    Example: hunyuan synthesize docs/ --out data --count 1000    (the same as: hunyuan synthesize run docs/ ...)

    Then: hunyuan synthesize report data, and: hunyuan sft --data data/4_kept
    """


@app.command("run")
def run(
    sources: options.Sources = None,
    out: options.Out = Path("runs/synthesis"),
    writer: who.WriterName = "embedded",
    writers: who.WritersFile = None,
    routes: who.Routes = None,
    url: who.Url = None,
    model: who.ModelName = None,
    key_env: who.KeyEnv = None,
    checkpoint: who.Checkpoint = None,
    concurrency: who.Concurrency = None,
    requests_per_minute: who.RequestsPerMinute = None,
    tokens_per_minute: who.TokensPerMinute = None,
    price_in: who.PriceIn = None,
    price_out: who.PriceOut = None,
    max_cost: who.MaxCost = None,
    settings: who.WriterSet = None,
    dry_run: who.DryRun = False,
    stage: options.Stages = "1-4",
    count: options.Count = 1000,
    samples: options.Samples = 1,
    seed: Seed = 0,
    harder: options.Harder = 0.5,
    expand: options.Expand = 0.25,
    overlap: options.Overlap = None,
    families: options.Families = None,
    split: options.SplitName = "train",
    error_rate: options.ErrorRate = 0.0,
    text_key: options.TextKey = "text",
    encoding: options.Encoding = "utf-8",
    shard_units: options.ShardUnits = 10_000,
    filters: options.Filters = None,
    threads: options.Threads = None,
    show: options.Show = 0,
    quiet: options.Quiet = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Make, evolve, answer and filter instructions from text; `run` itself may be left out.

    Killed or stopped at any moment, the same command goes on. OUT/4_kept is data for train and sft, OUT/dropped.jsonl has
    everything that was dropped, with its filter and reason.

    Example, offline: hunyuan synthesize docs/ --out data --count 1000 --show 3

    With a model: hunyuan synthesize docs/ --out data --writer endpoint --endpoint http://localhost:8000/v1 --model m
    """
    from hunyuan_cli.synthesis_authors import authors
    from hunyuan_cli.views.synthesis import emit_funnel, emit_outlook, make_view
    from model.data.synthesis.config import SynthesisConfig
    from model.data.synthesis.critics import opened_critic
    from model.data.synthesis.keeping import keep
    from model.data.synthesis.pipeline import Synthesis

    stages = options.parse_stages(stage)
    given = {
        "url": url, "model": model, "key_env": key_env, "folder": checkpoint and str(checkpoint), "concurrency": concurrency,
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "price_in": price_in,
        "price_out": price_out, "max_cost": max_cost,
    }  # fmt: skip
    chosen = who.chosen_writers(writer, writers, routes, given, settings)
    config = SynthesisConfig(
        sources=tuple(sources or ["stdlib"]), count=count, seed=seed, samples=samples, routes=chosen.routes,
        harder=harder, expand=expand, overlap=(0.0 if writer == "embedded" else 0.7) if overlap is None else overlap,
        text_key=text_key, encoding=encoding, shard_units=shard_units,
    )  # fmt: skip
    filtering, critic, judge = options.chosen_filters(filters, writers, embedded=writer == "embedded", samples=samples)
    problems = (families, split, error_rate)
    with (
        stop_on_signal(stderr, FINISH_REQUESTS, at_once=False) as should_stop,
        authors(chosen, None if dry_run and not out.exists() else out, problems, seed, should_stop) as by_name,
        make_view(quiet) as view,
    ):
        synthesis = Synthesis(out, config, by_name, writer, view, should_stop)
        if dry_run:
            emit_outlook(synthesis, stages, format, output)
            return
        with synthesis.held():
            whole = synthesis.run(number for number in stages if number < 4)
            if whole and 4 in stages:
                with opened_critic(critic, judge, out, note=stderr, should_stop=should_stop) as critique:
                    whole = keep(out, filtering, view, critique=critique, threads=threads, should_stop=should_stop)
    if not whole:
        stderr(f"stopped, and everything that was answered is kept; the same command goes on: {shlex.quote(str(out))}")
        raise typer.Exit(130)
    emit_funnel(out, show, format, output)
