"""Runs of a scaling study: the columns of any table found, its rows checked and put into budgets.

    clean_runs(table, ...) -> Runs, [Finding]   what can be used, in a canonical order, and what was left out and why

A run is flops (training), params (activated ones where the table has both kinds), tokens and loss (nats per token);
one of the first three may be missing and then follows from the cost rule. Every number of a fit is a function of the
canonical order, so the order of rows in the file changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np

from analyses.scaling.cost import SIX_ND, CostRule, own_cost
from analyses.scaling.tables import Table
from model.errors import DataError, HunyuanError

# Names by which tables call their columns, the preferred first; compared in lower case with _ for spaces.
COLUMNS: dict[str, tuple[str, ...]] = {
    "budget": ("budget", "compute_budget"),
    "flops": ("flops", "compute", "training_flops", "training_flop", "flop", "c"),
    "params": ("activated_params", "active_params", "activated_parameters", "active_parameters", "params", "parameters",
               "n", "model_size", "total_params", "total_parameters"),
    "tokens": ("tokens", "training_tokens", "d"),
    "loss": ("loss", "final_loss", "l"),
    "batch_tokens": ("batch_tokens", "global_batch_tokens"),
}  # fmt: skip


LARGEST_LOSS = 1e9  # nats: a cell beyond is no loss, and its powers overflow
LARGEST_SIZE = 1e100  # of FLOPs, parameters and tokens, and the inverse of the smallest
SAME_NAME = 1e-6  # relative difference of budgets that are written in two ways


@dataclass(frozen=True)
class Finding:
    """Something a reader of the fit must know: a code for programs, a reason for people, and what it is about."""

    code: str
    reason: str
    budget: float | None = None  # FLOPs
    row: int | None = None  # of the table, the first one being 1
    excludes: bool = False  # a run or a budget was left out for it

    def document(self) -> dict[str, Any]:
        place = {"budget": self.budget, "row": self.row}
        return {"code": self.code, "reason": self.reason} | {k: v for k, v in place.items() if v is not None}


class FitRefusedError(HunyuanError):
    """No law can be fitted; `findings` say what was left out on the way."""

    def __init__(self, finding: Finding, findings: Sequence[Finding] = ()) -> None:
        super().__init__(finding.reason)
        self.finding, self.findings = finding, [*findings, finding]


@dataclass(frozen=True)
class Runs:
    """Usable runs in canonical order: by budget, size, tokens, loss. Arrays of shape (n,)."""

    flops: np.ndarray
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    batch_tokens: np.ndarray  # NaN where the table has none
    row: np.ndarray  # in the table, from 1
    budget: np.ndarray  # index of the run's budget, from 0
    cost: CostRule
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.flops)

    def keep(self, mask: np.ndarray) -> "Runs":
        names = ("flops", "params", "tokens", "loss", "batch_tokens", "row", "budget")
        return replace(self, **{name: getattr(self, name)[mask] for name in names})


def clean_runs(
    table: Table,
    *,
    cost: CostRule | None = None,
    columns: Mapping[str, str] | None = None,
    batch_tokens: float | None = None,
    tolerance: float = 0.1,
) -> tuple[Runs, list[Finding]]:
    """The runs of a table and what was left out.

    columns names the column of a quantity where the table calls it otherwise. Without a cost rule the FLOPs per token
    are the table's own where it has all three of flops, params and tokens, else 6 N D. Runs belong to one budget when
    the table names it, or while their FLOPs lie within `tolerance` of the least of the group.
    """
    found = _find_columns(table, columns or {})
    values = {quantity: _numbers(table.columns[name]) for quantity, name in found.items()}
    read, rule = len(table), cost or SIX_ND
    own = "flops" in values or "budget" in values
    if own + ("params" in values) + ("tokens" in values) < 2 or "loss" not in values:
        missing = [
            name for name in ("flops", "params", "tokens") if name not in values and not (name == "flops" and own)
        ]
        need = "loss" if "loss" not in values else f"two of flops, params and tokens (missing: {', '.join(missing)})"
        raise DataError(
            f"{table.name} has the columns {', '.join(table.columns) or 'none'}, but {need} is needed: rename a column or "
            "name it with --flops-column, --params-column, --tokens-column or --loss-column"
        )
    flops = values.get("flops", values.get("budget", np.full(read, np.nan)))
    params, tokens = (values.get(name, np.full(read, np.nan)) for name in ("params", "tokens"))
    whole = own and "params" in values and "tokens" in values
    with np.errstate(all="ignore"):
        if not own:
            flops = tokens * np.exp(rule.log_flops_per_token(np.log(params)))
        elif "tokens" not in values:
            tokens = flops / np.exp(rule.log_flops_per_token(np.log(params)))
        elif "params" not in values:
            params = (flops / tokens - rule.k2) / rule.k1
    if "flops" not in found and own:
        found["flops"] = found["budget"]
    findings, good = _check_rows(table, found, {"flops": flops, "params": params, "tokens": tokens}, values["loss"])
    batch = values.get("batch_tokens", np.full(read, np.nan if batch_tokens is None else batch_tokens))
    batch = np.where((batch > 0) & (batch < LARGEST_SIZE), batch, np.nan)
    label = values["budget"] if "budget" in values and "flops" in values else np.full(read, np.nan)
    label = np.where(np.isfinite(label) & (label > 0), label, np.nan)

    order = np.lexsort((np.arange(read), batch, values["loss"], tokens, params, flops))
    order = order[good[order]]
    kept, merged = _merge_duplicates(order, (flops, params, tokens, values["loss"], label))
    findings += [
        Finding("duplicate", f"row {row + 1} repeats row {first + 1} and was merged with it",
                budget=float(flops[row]), row=int(row) + 1, excludes=True)
        for row, first in merged
    ]  # fmt: skip
    budget = _group(flops[kept], label[kept], tolerance)
    kept = kept[np.lexsort((np.arange(len(kept)), values["loss"][kept], tokens[kept], params[kept], budget))]
    budget = np.sort(budget)
    if cost is None and whole and len(kept):
        rule = own_cost(params[kept], flops[kept] / tokens[kept])
        if rule.worst_fraction > 0.5:
            reason = f"FLOPs per token are up to {rule.worst_fraction:.0%} off any K1 N + K2: check the columns"
            findings.append(Finding("cost_mismatch", reason))
    elif whole and len(kept):
        ratio = float(np.median(flops[kept] / tokens[kept] / np.exp(rule.log_flops_per_token(np.log(params[kept])))))
        if abs(ratio - 1) > 0.05:
            reason = (
                f"the runs cost {ratio:.3g} times what --cost {rule.name} says: leave it out to take their own cost"
            )
            findings.append(Finding("cost_mismatch", reason))
    counts = {"read": read, "dropped": int(read - good.sum()), "merged": len(merged), "used": len(kept)}
    runs = Runs(
        flops[kept], params[kept], tokens[kept], values["loss"][kept], batch[kept], kept + 1, budget, rule, counts
    )
    return runs, findings


def _find_columns(table: Table, chosen: Mapping[str, str]) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for name in table.columns:
        by_name.setdefault("_".join(name.lower().replace("-", " ").replace("_", " ").split()), name)
    found = {}
    for quantity, names in COLUMNS.items():
        if quantity in chosen:
            if chosen[quantity] not in table.columns:
                raise DataError(
                    f"{table.name} has no column '{chosen[quantity]}': it has {', '.join(table.columns) or 'none'}"
                )
            found[quantity] = chosen[quantity]
            continue
        known = [by_name[name] for name in names if name in by_name]
        if known:
            found[quantity] = known[0]
    if found.get("budget") == found.get("flops"):
        found.pop("budget", None)  # named as the FLOPs
    for quantity, name in found.items():
        other = next((one for one in found if one != quantity and found[one] == name), None)
        if other is not None:
            raise DataError(f"{table.name}: the column '{name}' cannot be both {quantity} and {other}: name another")
    return found


def _numbers(cells: Sequence[Any]) -> np.ndarray:
    """Cells as float64; NaN where a cell is no number."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: Any) -> float:
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str, Decimal)):
        return math.nan
    try:
        return float(cell)
    except (ValueError, ArithmeticError):
        return math.nan


def _check_rows(
    table: Table, found: Mapping[str, str], sizes: dict[str, np.ndarray], loss: np.ndarray
) -> tuple[list[Finding], np.ndarray]:
    """What is wrong with which row, and the mask of good ones."""
    findings = []
    good = np.isfinite(loss) & (loss > 0) & (loss < LARGEST_LOSS)
    for row in np.flatnonzero(~good):
        code = "bad_loss" if np.isfinite(loss[row]) else "nonfinite_loss"
        cell = table.columns[found["loss"]][row]
        limit = "" if code == "nonfinite_loss" else f", and a loss lies between 0 and {LARGEST_LOSS:g} nats"
        findings.append(
            Finding(
                code, f"row {row + 1} was dropped: its loss is {_shown(cell)}{limit}", row=int(row) + 1, excludes=True
            )
        )
    for name, values in sizes.items():
        wrong = good & ~(np.isfinite(values) & (values > 1 / LARGEST_SIZE) & (values < LARGEST_SIZE))
        for row in np.flatnonzero(wrong):
            written = _shown(table.columns[found[name]][row]) if name in found else "impossible by the cost rule"
            findings.append(
                Finding(
                    "bad_value", f"row {row + 1} was dropped: its {name} is {written}", row=int(row) + 1, excludes=True
                )
            )
        good &= ~wrong
    return findings, good


def _shown(cell: Any) -> str:
    text = "empty" if cell is None or cell == "" else " ".join(str(cell).split())
    text = text.encode(errors="replace").decode()  # JSON can spell half of a surrogate pair
    return text if len(text) <= 40 else f"{text[:37]}..."


def _merge_duplicates(order: np.ndarray, keys: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The first of equal rows, and (row, the row it repeats) of the others. Another loss is another seed, no duplicate."""
    first: dict[tuple[float, ...], int] = {}
    kept, merged = [], []
    for row in order.tolist():
        key = tuple(-1.0 if np.isnan(values[row]) else float(values[row]) for values in keys)
        if key in first:
            merged.append((row, first[key]))
        else:
            first[key] = row
            kept.append(row)
    return np.array(kept, dtype=np.int64), merged


def _group(flops: np.ndarray, label: np.ndarray, tolerance: float) -> np.ndarray:
    """The budget of each run, numbered by rising FLOPs; budgets that the table names stay as they are named."""
    named = ~np.isnan(label)
    nominal = np.where(named, label, flops)
    number = np.zeros(len(flops), dtype=np.int64)
    current, start, start_named = -1, -math.inf, False
    for index in np.argsort(nominal, kind="stable"):
        width = SAME_NAME if named[index] and start_named else tolerance
        if nominal[index] > start * (1 + width) or current < 0:
            current, start, start_named = current + 1, nominal[index], bool(named[index])
        number[index] = current
    return number
