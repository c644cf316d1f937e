"""Tables of learning curves: several checkpoints of a run, of which the last is the run; and runs whose schedule had not ended.

A loss on the way is not that of a run which ends there: its learning rate has not decayed (Hoffmann et al. 2022,
arXiv:2203.15556, section 3.1 and appendix B). So only the last row of a run counts, and only if its schedule was finished.

    last_checkpoints(table, where, last) -> table, where, findings     rows keep the numbers that they have
"""

from collections.abc import Mapping, Sequence

import numpy as np

from analyses.scaling.cells import find_marks, read_column
from analyses.scaling.columns import COLUMNS, plain
from analyses.scaling.findings import Finding
from analyses.scaling.selection import numbered, select
from analyses.scaling.tables import Table
from analyses.scaling.units import word_factor
from model.errors import DataError

RUN = (
    "run",
    "run_id",
    "run_name",
    "runid",
    "cell",
    "experiment",
    "experiment_id",
    "exp",
    "uid",
    "name",
    "id",
    "model_id",
)
STEP = ("step", "steps", "global_step", "iteration", "iter", "train_step", *COLUMNS["tokens"][0])
PLANNED = ("total_steps", "max_steps", "planned_steps", "train_steps", "planned_tokens", "max_tokens", "target_tokens")
DONE = (
    "finished",
    "done",
    "completed",
    "complete",
    "decayed",
    "schedule_finished",
    "decay_finished",
    "annealed",
    "status",
)
NOT_YET = {
    "false",
    "no",
    "0",
    "0.0",
    "running",
    "interrupted",
    "unfinished",
    "incomplete",
    "stopped",
    "partial",
    "preempted",
}
LAST = "last checkpoint"  # the column that is added
DECAYED = 0.5  # share of its highest rate that a run whose schedule has ended is below
SHOWN = 3  # runs that a sentence names


def last_checkpoints(
    table: Table, where: Mapping[str, Sequence[str]], last: bool
) -> tuple[Table, dict[str, Sequence[str]], list[Finding]]:
    """The table and what --where has to say, so that with `last` only the last checkpoint of every run is left.

    DataError where no column says which run a row is of. Without `last`, a table of learning curves is a doubt.
    """
    chosen = select(table, where)
    column = _named(table, RUN)
    order = _numbers(table, STEP)
    if last and (column is None or order is None):
        missing = "run" if column is None else "step"
        raise DataError(
            f"--last needs to know {'whose each row is' if column is None else 'which row is the last'}: {table.name} has no "
            f"column called {missing}, or the like"
        )
    run = np.arange(len(table)) if column is None else _runs(table, column)
    most = int(np.bincount(run[chosen]).max(initial=0)) if chosen.any() else 0
    curves = most > 1 and order is not None and _rising(run[chosen], order[chosen])
    if not last:
        if not curves:
            return table, dict(where), _unfinished(table, run, column, chosen, chosen)
        reason = (
            f"the table has up to {most} checkpoints of a run, by its column '{column}', and a loss on the way is not that "
            "of a run which ends there: add --last"
        )
        return table, dict(where), [Finding("checkpoints", reason, suspect=True)]
    assert order is not None
    kept = _last(run, np.where(chosen & np.isfinite(order), order, -np.inf)) & chosen
    columns = table.columns | {LAST: ["yes" if one else "no" for one in kept]}
    reason = f"--last kept the last of up to {most} checkpoints of a run: {int(kept.sum())} of {int(chosen.sum())} rows"
    findings = [Finding("last", reason), *_unfinished(table, run, column, kept, chosen)]
    return Table(table.name, columns, table.separator), {**where, LAST: ["yes"]}, findings


def _named(table: Table, names: Sequence[str]) -> str | None:
    return next((column for name in names for column in table.columns if plain(column) == name), None)


def _numbers(table: Table, names: Sequence[str]) -> np.ndarray | None:
    """(rows,) the numbers of the first column of these names."""
    column = _named(table, names)
    if column is None:
        return None
    cells = [*table.columns[column], *[None] * (len(table) - len(table.columns[column]))]
    return read_column(cells, find_marks(table.name, [cells], table.separator), word=word_factor)


def _runs(table: Table, column: str) -> np.ndarray:
    cells = table.columns[column]
    return numbered([*cells, *[None] * (len(table) - len(cells))])


def _rising(run: np.ndarray, order: np.ndarray) -> bool:
    """Whether the rows of some run differ in their step: seeds of one name do not."""
    return len(np.unique(np.stack([run, order]), axis=1).T) > len(np.unique(run))


def _last(run: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(rows,) whether a row is the last of its run; the later of equal steps."""
    kept = np.zeros(len(run), dtype=bool)
    by = np.lexsort((np.arange(len(run)), order, run))
    ends = np.append(np.flatnonzero(np.diff(run[by])), len(run) - 1)
    kept[by[ends]] = True
    return kept


def _unfinished(
    table: Table, run: np.ndarray, column: str | None, kept: np.ndarray, chosen: np.ndarray
) -> list[Finding]:
    """The warning of runs whose last row comes before the end of their schedule, by whatever column tells of it."""
    reasons: dict[int, str] = {}
    done, rate, planned = _named(table, DONE), _named(table, COLUMNS["learning_rate"][0]), _named(table, PLANNED)
    rows = np.flatnonzero(kept).tolist()
    if done is not None:
        cells = [str(cell).strip().lower() for cell in table.columns[done]]
        reasons |= {row: f"'{done}' says {cells[row]}" for row in rows if row < len(cells) and cells[row] in NOT_YET}
    rates = _numbers(table, COLUMNS["learning_rate"][0])
    if rates is not None and column is not None:
        known = chosen & np.isfinite(rates)
        count = np.bincount(run[known], minlength=int(run.max()) + 1)
        high, low = np.zeros(len(count)), np.full(len(count), np.inf)
        np.maximum.at(high, run[known], rates[known])
        np.minimum.at(low, run[known], rates[known])
        # A run with one value in all of its rows has its peak rate there, which says nothing.
        told = known & (count[run] > 2) & (low[run] < high[run]) & (rates > DECAYED * high[run])
        for row in rows:
            if told[row]:
                reasons.setdefault(row, f"it ended at {rates[row] / high[run[row]]:.0%} of its highest '{rate}'")
    ends = _numbers(table, PLANNED)
    steps = _numbers(table, STEP if planned is None or "token" not in planned else COLUMNS["tokens"][0])
    if ends is not None and steps is not None:
        with np.errstate(invalid="ignore"):
            short = steps < 0.999 * ends
        for row in rows:
            if short[row]:
                reasons.setdefault(row, f"it ended at {steps[row] / ends[row]:.0%} of '{planned}'")
    if not reasons:
        return []
    called = table.columns[column] if column else []
    names = [str(called[row]) if row < len(called) else f"row {row + 1}" for row in sorted(reasons)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    first = reasons[min(reasons)]
    reason = (
        f"the schedule of {len(reasons)} of {len(rows)} runs was not finished ({', '.join(names[:SHOWN])}{more}: {first}): "
        "their losses are higher than those of runs that end there, leave them out"
    )
    return [Finding("unfinished", reason, suspect=True, rows=tuple(int(row) + 1 for row in sorted(reasons)))]
