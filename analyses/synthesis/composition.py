"""Of what a synthesis is made: domains and difficulty at each stage, and how far several answers to one instruction agree.

domains_table(folder)      domain, then the records of each closed stage
difficulty_table(folder)   difficulty, the same
votes_table(folder)        share of the winning answer, and how many instructions have it
"""

from collections import Counter
from pathlib import Path

import pandas as pd

from analyses.synthesis.funnel import manifests
from model.data.synthesis.answers import final_answer, read
from model.data.synthesis.record import STAGES, Record
from model.data.synthesis.store import read_records

BINS = 10  # of the share of the winning answer


def domains_table(folder: Path) -> pd.DataFrame:
    return _by_stage(folder, "domains", "domain")


def difficulty_table(folder: Path) -> pd.DataFrame:
    table = _by_stage(folder, "difficulty", "difficulty")
    return table.assign(difficulty=table["difficulty"].astype(float)).sort_values("difficulty", ignore_index=True)


def _by_stage(folder: Path, key: str, heading: str) -> pd.DataFrame:
    found = {STAGES[number - 1]: manifest[key] for number, manifest in manifests(folder).items()}
    values = dict.fromkeys(value for counts in found.values() for value in counts)
    rows = [
        {heading: value, **{stage: int(counts.get(value, 0)) for stage, counts in found.items()}} for value in values
    ]
    return pd.DataFrame(rows, columns=[heading, *found])


def votes_table(folder: Path) -> pd.DataFrame:
    """Columns: share (the upper end of its bin), instructions. Empty where no instruction has two answers.

    The samples of an instruction are in one part of stage 3, so that one part is held at a time.
    """
    counts: Counter[int] = Counter()
    for part in sorted((folder / STAGES[2]).glob("part-*.jsonl")):
        answers: dict[str, list[Record]] = {}
        for record in read_records(folder / STAGES[2], part.name):
            answers.setdefault(record["parents"][0], []).append(record)
        for samples in answers.values():
            if len(samples) > 1:
                votes = Counter(read(final_answer(record["response"])) for record in samples)
                counts[-(-max(votes.values()) * BINS // len(samples))] += 1
    return pd.DataFrame(
        [(place / BINS, counts[place]) for place in range(1, BINS + 1)] if counts else [],
        columns=["share", "instructions"],
    )
