"""Runs of `hunyuan bench --format json`, put side by side: one row a contender, and what every kind of run can say of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from model.errors import HunyuanError
from model.files import read_json

# What names a contender's work, then its figures; a run has some of them.
NAMES = ("shape", "layer", "batch", "contender")
FIGURES = (
    *("milliseconds", "tokens_per_second"),
    *("of_ceiling", "of_ceiling_causal", "of_bandwidth", "of_dense", "of_peer", "peak_memory_bytes"),
)
WANTED = "give files that hunyuan bench wrote with --format json"


def read_runs(paths: Iterable[Path]) -> dict[str, Any]:
    """The document of every file by the file's stem; HunyuanError where one is not JSON."""
    runs = {}
    for path in paths:
        try:
            runs[path.stem] = read_json(path)
        except ValueError as error:
            raise HunyuanError(f"{path} is not JSON: {WANTED}") from error
    return runs


def report_table(documents: Mapping[str, Any]) -> pd.DataFrame:
    """documents: a run by its name. HunyuanError where one is no run of a benchmark."""
    rows = []
    for run, document in documents.items():
        if not isinstance(document, dict) or not isinstance(document.get("contenders"), list):
            raise HunyuanError(f"{run} has no contenders: {WANTED}")
        facts = {"run": run, "card": document.get("card", document.get("device"))}
        for contender in document["contenders"]:
            values = document | contender
            row = facts | {key: values[key] for key in (*NAMES, *FIGURES) if values.get(key) is not None}
            if row.keys() & set(FIGURES):  # ceilings have none
                rows.append(row)
    frame = pd.DataFrame(rows)
    return frame[[name for name in ("run", "card", *NAMES, *FIGURES) if name in frame]]
