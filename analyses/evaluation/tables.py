"""The scores of an evaluation as tables: alone, and beside another evaluation's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from model.errors import DataError
from model.evaluation.intervals import paired
from model.evaluation.record import read_results, read_samples

ORDINARY = {
    "nulls": 0,
    "truncated": 0,
    "shots": 0,
    "template": "none",
    "length": None,
}  # columns of these alone are left out


def scores_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each task, metric and length; tasks within a group are left to results.json, but for long-context ones."""
    inside = {row["group"] for row in rows if row["group"]}
    shown = [row for row in rows if row["length"] is not None or row["group"] is None or row["group"] not in inside]
    table = pd.DataFrame([
        {
            "task": row["task"], "length": row["length"], "metric": row["metric"], "score": row["score"],
            "95%": _range(row["interval"]), "n": row["n"], "shots": row["shots"], "template": row["template"],
            "nulls": row["nulls"], "truncated": row["truncated"], "seconds": row["seconds"],
        }
        for row in shown
    ])  # fmt: skip
    table["length"] = table["length"].astype("Int64") if table["length"].notna().any() else None
    keep = ("shots", "template")
    return table[[name for name in table if name in keep or not _is_ordinary(table[name])]]


def _is_ordinary(column: "pd.Series[Any]") -> bool:
    if column.name not in ORDINARY:
        return False
    usual = ORDINARY[str(column.name)]
    return bool(column.isna().all() if usual is None else (column == usual).all())


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None or interval[0] is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def differences_table(
    rows: Sequence[Mapping[str, Any]], samples: Mapping[tuple[str, int | None, int], Mapping[str, Any]], other: Path
) -> pd.DataFrame:
    """Ours minus theirs for every metric that both have, over the documents that both were asked, in percent.

    Raises DataError where the two share no document. A document counts as the same where its prompt is.
    """
    read_results(other)
    theirs = read_samples(other)
    shared = [place for place, row in samples.items() if place in theirs and theirs[place]["prompt"] == row["prompt"]]
    if not shared:
        raise DataError(
            f"{other} was asked none of these documents: evaluate both models with the same --tasks, --lengths, --samples, "
            "--limit, --shots, --seed and template"
        )
    found = []
    for row in rows:
        if row["unit"] != "percent":
            continue
        inside = [place for place in shared if _belongs(place, row, rows) and row["metric"] in samples[place]["scores"]]
        pairs = [
            (samples[place]["scores"][row["metric"]], theirs[place]["scores"][row["metric"]])
            for place in inside
            if row["metric"] in theirs[place]["scores"]
        ]
        if pairs:
            ours, their_scores = zip(*pairs, strict=True)
            difference, low, high = (100 * value for value in paired(ours, their_scores))
            found.append({
                "task": row["task"], "length": row["length"], "metric": row["metric"],
                "score": 100 * sum(ours) / len(ours), "other": 100 * sum(their_scores) / len(pairs),
                "difference": difference, "low": low, "high": high, "n": len(pairs),
                "verdict": "better" if low > 0 else "worse" if high < 0 else "no clear difference",
            })  # fmt: skip
    return pd.DataFrame(found)


def _belongs(place: tuple[str, int | None, int], row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a sample is one of a row's task, or of a task in its group."""
    task, length, _ = place
    if length != row["length"]:
        return False
    return task == row["task"] or any(other["task"] == task and other["group"] == row["task"] for other in rows)
