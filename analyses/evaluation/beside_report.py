"""Our scores beside those that the report prints, where both are of one benchmark.

The report does not say which program scored it, with which prompts, nor always how many examples. So a score of ours stands
beside one of the report with its own shots and template, and repeats none of it. LV-Eval is left out: the report's figures
are of another scorer than its authors'.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analyses.paper.scores import Scores, reported_scores
from model.evaluation.benchmarks import BENCHMARKS
from model.evaluation.ruler import NAMES

# The models of tables 3 to 6, by a word of the name that each table gives them.
MODELS = {
    "Hunyuan-Large": "Hunyuan",
    "Llama 3.1 405B": "405B",
    "Llama 3.1 70B": "70B",
    "Mixtral 8x22B": "8x22B",
    "DeepSeek V2, V2.5": "DeepSeek",
}
RULER_RANGES = (("RULER 0-8K", 0), ("RULER 8K-32K", 8192), ("RULER 32K-64K", 32768), ("RULER 64K-128K", 65536))
LONGEST = 131_072

Rows = Sequence[Mapping[str, Any]]


def beside_report(rows: Rows) -> pd.DataFrame:
    """A row for each score of results.json's `tasks` that tables 3 to 6 have; empty where they have none.

    A prompt in a chat template is put beside table 4, any other beside table 3, as far as the benchmark is in it.
    RULER is the mean of its 13 tasks at one length, beside the range of lengths that holds it.
    """
    scores = reported_scores()
    return pd.DataFrame([*_benchmarks(rows, scores), *_ruler(rows, scores), *_penguinscrolls(rows, scores)])


def _benchmarks(rows: Rows, scores: Scores) -> Iterator[dict[str, Any]]:
    for benchmark in BENCHMARKS:
        own = next((r for r in rows if r["task"] == benchmark.task and r["metric"].startswith(benchmark.metric)), None)
        if own is None or own["score"] is None:
            continue
        tables = ("3", "4") if own["template"] == "none" else ("4", "3")
        table = next(table for table in tables if (table, benchmark.name) in scores)
        yield {
            "benchmark": benchmark.name,
            "ours": own["score"],
            "95%": _range(own["interval"]),
            "n": own["n"],
            "shots": own["shots"],
            "template": own["template"],
            "table": int(table),
        } | _models(scores[table, benchmark.name])


def _ruler(rows: Rows, scores: Scores) -> Iterator[dict[str, Any]]:
    own = [row for row in rows if row["task"] in NAMES and row["length"] is not None and row["score"] is not None]
    means = {row["length"]: row["interval"] for row in rows if row["task"] == "ruler"}
    for length in sorted({row["length"] for row in own}):
        tasks = {row["task"]: row for row in own if row["length"] == length}
        if length > LONGEST:
            continue
        name = [name for name, above in RULER_RANGES if length > above][-1]
        part = "" if len(tasks) == len(NAMES) else f", {len(tasks)} of {len(NAMES)} tasks"
        yield {
            "benchmark": f"{name} at {length:,}{part}",
            "ours": sum(row["score"] for row in tasks.values()) / len(tasks),
            "95%": _range(means.get(length)),
            "n": sum(row["n"] for row in tasks.values()),
            "shots": 0,
            "template": next(iter(tasks.values()))["template"],
            "table": 5,
        } | _models(scores["5", name])


def _penguinscrolls(rows: Rows, scores: Scores) -> Iterator[dict[str, Any]]:
    """Its groups, and their plain mean, which is how the report averages."""
    for row in rows:
        name, _, group = row["task"].partition(": ")
        benchmark = "Overall" if row["metric"] == "mean_of_groups" else group
        if name == "penguinscrolls" and ("6", benchmark) in scores and row["score"] is not None:
            yield {
                "benchmark": f"PenguinScrolls, {benchmark}",
                "ours": row["score"],
                "95%": _range(row["interval"]),
                "n": row["n"],
                "shots": row["shots"],
                "template": row["template"],
                "table": 6,
            } | _models(scores["6", benchmark])


def _models(found: Mapping[str, float]) -> dict[str, float | None]:
    return {
        name: next((score for model, score in found.items() if word in model), None) for name, word in MODELS.items()
    }


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None or interval[0] is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
