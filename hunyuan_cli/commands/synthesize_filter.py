"""`hunyuan synthesize filter`: pairs from anywhere, through the filters of stage 4."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from hunyuan_cli.console import progress, stderr
from hunyuan_cli.options.common import Format, Output
from hunyuan_cli.options.synthesize_filter import (
    Against,
    AllowWeaker,
    Checks,
    Contamination,
    CriticsFile,
    Critique,
    CritiqueLeast,
    Duplicates,
    Execute,
    FilterOut,
    Languages,
    MaxCharacters,
    MinCharacters,
    Pairs,
    Refusals,
    Repetition,
    Seconds,
    Threads,
    Vote,
)
from hunyuan_cli.results import emit
from hunyuan_cli.signals import stop_on_signal

FINISH_RECORDS = "stopping after the records under way (Ctrl-C again to stop at once; what was judged is kept)"


def filter_pairs(
    pairs: Pairs,
    out: FilterOut,
    min_characters: MinCharacters = 1,
    max_characters: MaxCharacters = 32_000,
    repetition: Repetition = 0.6,
    language: Languages = None,
    refusals: Refusals = True,
    against: Against = None,
    contamination: Contamination = 0.5,
    checks: Checks = True,
    execute: Execute = True,
    seconds: Seconds = 5.0,
    allow_weaker: AllowWeaker = False,
    vote: Vote = False,
    duplicates: Duplicates = 0.8,
    critique: Critique = "",
    writers: CriticsFile = None,
    critique_least: CritiqueLeast = None,
    threads: Threads = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Keep the pairs that pass all filters; say of every other which filter dropped it, and why.

    A check lets an answer be recomputed: {"kind": "arithmetic", "expression": "6 * 7"}, or {"kind": "python_stdout",
    "program": "print(6 * 7)"}, which is run confined. Stopped or killed, the same command goes on.

    Example: hunyuan synthesize filter pairs.jsonl --out filtered --against gsm8k_test.jsonl

    Then: hunyuan sft --data filtered/kept.jsonl
    """
    from model.data.synthesis.critics import LEAST_NATS, LEAST_SCORE, critic_config, opened_critic
    from model.data.synthesis.filter import FilterConfig
    from model.data.synthesis.filter_files import filter_file

    judge = critic_config(critique, writers)
    least = LEAST_NATS if judge is None else LEAST_SCORE
    config = FilterConfig(
        min_characters=min_characters, max_characters=max_characters, repetition=repetition,
        languages=tuple(language or ()), refusals=refusals, against=tuple(map(str, against or ())),
        contamination=contamination, checks=checks, execute=execute, seconds=seconds, allow_weaker=allow_weaker, vote=vote,
        duplicates=duplicates, critique=critique if judge is None else f"endpoint {judge.model}",
        critique_least=least if critique_least is None else critique_least,
    )  # fmt: skip
    with (
        stop_on_signal(stderr, FINISH_RECORDS, at_once=False) as should_stop,
        opened_critic(critique, judge, out, note=stderr, should_stop=should_stop) as critic,
        _shown() as advanced,
    ):
        counts = filter_file(
            pairs, config, out, threads=threads, critique=critic, advanced=advanced, should_stop=should_stop
        )
    if counts is None:
        stderr("stopped, and what was judged is kept; the same command goes on")
        raise typer.Exit(130)
    if bad := counts["dropped"].get("format"):
        stderr(f"{bad:,} lines hold no record: see those with the filter 'format' in {out / 'dropped.jsonl'}")
    emit(counts, format=format, output=output)


@contextmanager
def _shown() -> Iterator[Callable[[str, int], None]]:
    """Progress in records, one bar for all filters: `record` stands for those that judge a record by itself."""
    names = {"record": "filtering", "vote": "voting", "duplicate": "near duplicates", "critique": "critique"}
    with progress("filtering pairs") as advance:
        told = {"record"}

        def advanced(name: str, count: int) -> None:
            if name not in told:
                told.add(name)
                stderr(f"{names[name]} ...")
            advance(count)

        yield advanced
