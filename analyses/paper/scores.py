"""Tables 3 to 6: margins, wins and means, from the scores that the report prints.

reported_scores.csv has them as printed, an empty score where the report has none; ruler_by_nvidia.csv is the table of
github.com/NVIDIA/RULER, README.md.
"""

import csv
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from analyses.paper.row import Row
from model.evaluation.penguinscrolls import GROUPS, ITEMS

Scores = dict[tuple[str, str], dict[str, float]]  # (table, benchmark) -> model -> score, where there is one
TABLES = {"3": "pre-trained", "4": "instruct", "5": "long context", "6": "PenguinScrolls"}
OURS = "Hunyuan-Large"
MARGINS = (
    ("3", "MMLU", "3.2"),
    ("4", "MMLU", "2.6"),
    ("4", "MATH", "3.6"),
)  # over Llama 3.1 405B, as the text has them
# The report's ranges of RULER, and the lengths of NVIDIA's table at which they end and begin.
RANGES = {
    "RULER 0-8K": (8192, None),
    "RULER 8K-32K": (16384, 32768),
    "RULER 32K-64K": (32768, 65536),
    "RULER 64K-128K": (65536, 131072),
}


def read_rows(name: str) -> list[dict[str, str]]:
    """A table of this package."""
    with files("analyses.paper").joinpath(name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reported_scores() -> Scores:
    scores: Scores = {}
    for row in read_rows("reported_scores.csv"):
        of_benchmark = scores.setdefault((row["table"], row["benchmark"]), {})
        if row["score"]:
            of_benchmark[row["model"]] = float(row["score"])
    return scores


def rows() -> Iterator[Row]:
    scores = reported_scores()
    for table, benchmark, published in MARGINS:
        found = scores[table, benchmark]
        ours, rival = (next(score for model, score in found.items() if name in model) for name in (OURS, "405B"))
        yield Row(
            key=f"margin.table_{table}.{benchmark}", quantity=f"{benchmark} over Llama 3.1 405B, {TABLES[table]}",
            unit="points", published=published, value=round(ours - rival, 4), where=f"table {table} and its text",
            formula=f"{ours:g} - {rival:g}",
        )  # fmt: skip
    for table, name in TABLES.items():
        benchmarks = {key: found for key, found in scores.items() if key[0] == table}
        yield Row(
            key=f"wins.table_{table}", quantity=f"best in {name}", value=sum(map(is_best, benchmarks.values())),
            where=f"table {table}", formula=f"of {len(benchmarks)} rows, against the scores that are printed",
        )  # fmt: skip
    yield from penguin_rows(scores)


def penguin_rows(scores: Scores) -> Iterator[Row]:
    sizes = dict(zip(GROUPS, ITEMS, strict=True))
    for model, published in scores["6", "Overall"].items():
        groups = [scores["6", group][model] for group in GROUPS]
        yield Row(
            key=f"penguinscrolls.{model}", quantity=f"overall of {model}", unit="points", published=f"{published:.2f}",
            value=round(sum(groups) / len(groups), 6), where="table 6", formula="the mean of the four groups",
        )  # fmt: skip
        if OURS in model:
            by_item = sum(size * group for size, group in zip(sizes.values(), groups, strict=True)) / sum(
                sizes.values()
            )
            yield Row(
                key="penguinscrolls.by_items", quantity=f"the same by items of {model}", unit="points",
                published=f"{published:.2f}", value=round(by_item, 6), where="table 6",
                formula=f"weights {', '.join(map(str, ITEMS))}, as the public board averages",
            )  # fmt: skip


def is_best(found: dict[str, float]) -> bool:
    """Whether this model's score is above every other that is printed."""
    ours = next(score for model, score in found.items() if OURS in model)
    return all(ours > score for model, score in found.items() if OURS not in model)


def ruler_readings() -> list[dict[str, Any]]:
    """The report's RULER of Llama 3.1 70B beside NVIDIA's own measurements, at both ends of each of the report's ranges."""
    measured = {int(row["length"]): float(row["score"]) for row in read_rows("ruler_by_nvidia.csv")}
    scores, model = reported_scores(), "Llama3.1-70B-Instruct"
    return [
        {
            "range": name.removeprefix("RULER "),
            "report": scores["5", name][model],
            "nvidia": measured[lower],
            "nvidia_length": lower,
            "nvidia_upper": measured[upper] if upper else None,
            "nvidia_upper_length": upper,
        }
        for name, (lower, upper) in RANGES.items()
    ]
