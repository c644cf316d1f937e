"""How well the filters find errors that were planted: precision, and recall by the kind of error, with Wilson intervals.

Records that another filter dropped (duplicates, lengths) were never judged, and do not count.
"""

import json
from collections import Counter
from pathlib import Path

import pandas as pd

from model.data.synthesis.record import STAGES
from model.data.synthesis.store import DROPPED, LABELS, read_records
from model.evaluation.intervals import wilson

JUDGES = ("check", "execution", "vote", "critique")  # the filters that say an answer is wrong
COLUMNS = ["error", "planted", "found", "recall", "low", "high"]


def planted_table(folder: Path) -> pd.DataFrame:
    """A row a kind of error and one of "all", then "precision": of `planted` dropped records, `found` had an error."""
    path = folder / LABELS
    if not path.exists() or not (folder / STAGES[3]).exists():
        return pd.DataFrame(columns=COLUMNS)
    labels = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            label = json.loads(line)
            labels[label["id"]] = label["error"]
    planted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    dropped = wrong = 0
    for record in read_records(folder / STAGES[3]):
        if error := labels.get(record["parents"][0]):
            planted[error] += 1
    with (folder / DROPPED).open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record["stage"] == len(STAGES) and record["filter"] in JUDGES:
                dropped += 1
                if error := labels.get(record["parents"][0]):
                    wrong += 1
                    planted[error] += 1
                    found[error] += 1
    rows = [_row(error, planted[error], found[error]) for error in sorted(planted)]
    rows.append(_row("all", planted.total(), found.total()))
    rows.append(_row("precision", dropped, wrong))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(name: str, planted: int, found: int) -> tuple[str, int, int, float, float, float]:
    low, high = wilson(found, planted) if planted else (float("nan"), float("nan"))
    return name, planted, found, found / planted if planted else float("nan"), low, high
