"""The funnel of a synthesis: how many records each stage kept, and what it dropped, by filter.

funnel_table(folder)   a row a stage: kept, dropped, share kept, tokens and cost
dropped_table(folder)  a row a stage and filter, with the commonest reason
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from model.data.synthesis.record import STAGES
from model.data.synthesis.store import DROPPED, MANIFEST
from model.errors import DataError
from model.files import read_json


def manifests(folder: Path) -> dict[int, dict[str, Any]]:
    """The manifests of the closed stages by their number; DataError where there is none."""
    found = {
        number: read_json(path)
        for number, name in enumerate(STAGES, start=1)
        if (path := folder / name / MANIFEST).exists()
    }
    if not found:
        raise DataError(f"{folder} has no closed stage: name a folder that hunyuan synthesize wrote")
    return found


def funnel_table(folder: Path) -> pd.DataFrame:
    """Columns: stage, kept, dropped, kept_fraction, prompt_tokens, completion_tokens, cost."""
    rows = []
    for number, manifest in manifests(folder).items():
        dropped = int(sum(manifest["dropped"].values()))
        usage = manifest["usage"]
        rows.append({
            "stage": STAGES[number - 1], "kept": manifest["rows"], "dropped": dropped,
            "kept_fraction": manifest["rows"] / max(1, manifest["rows"] + dropped),
            "prompt_tokens": usage.get("prompt_tokens"), "completion_tokens": usage.get("completion_tokens"),
            "cost": usage.get("cost"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def dropped_table(folder: Path) -> pd.DataFrame:
    """Columns: stage, filter, dropped, commonest_reason."""
    reasons: dict[tuple[int, str], Counter[str]] = {}
    path = folder / DROPPED
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                name, _, reason = record["reasons"][0].partition(": ")
                reasons.setdefault((record["stage"], name), Counter())[reason] += 1
    columns = ["stage", "filter", "dropped", "commonest_reason"]
    rows = [
        (STAGES[stage - 1], name, sum(found.values()), found.most_common(1)[0][0])
        for (stage, name), found in sorted(reasons.items())
    ]
    return pd.DataFrame(rows, columns=columns)
