"""What a reader of a scaling fit must know: rows left out and why, doubts, what was taken for what."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

LISTED = 5  # findings of one kind that are told one by one; more are one sentence


@dataclass(frozen=True)
class Finding:
    """Something a reader of the fit must know: a code for programs, a reason for people, and what it is about."""

    code: str
    reason: str
    budget: float | None = None  # FLOPs
    row: int | None = None  # of the table, the first one being 1
    excludes: bool = False  # a run or a budget was left out for it
    suspect: bool = False  # what was fitted may be something else than it seems
    unanswered: bool = False  # a prediction that was asked for is missing
    rows: tuple[int, ...] = ()  # where it stands for several

    def document(self) -> dict[str, Any]:
        place = {"budget": self.budget, "row": self.row, "rows": list(self.rows) or None}
        return {"code": self.code, "reason": self.reason} | {k: v for k, v in place.items() if v is not None}


def status(findings: Iterable[Finding]) -> int:
    """The exit status of a study with laws: 3 where something is left out, in doubt or unanswered, else 0."""
    return 3 if any(one.excludes or one.suspect or one.unanswered for one in findings) else 0


def summarised(findings: Sequence[Finding], what: str) -> list[Finding]:
    """Findings of rows or budgets; more than a few of one code are one: how many `what`, and the first reason."""
    result: list[Finding] = []
    for _, group in groupby(sorted(findings, key=lambda one: one.code), key=lambda one: one.code):
        alike = list(group)
        if len(alike) > LISTED:
            rows = tuple(one.row for one in alike if one.row is not None)
            alike = [replace(alike[0], reason=f"{len(alike)} {what}, such as this: {alike[0].reason}", row=None,
                             budget=None, rows=rows)]  # fmt: skip
        result += alike
    return result
