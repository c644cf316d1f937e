"""Runs of a scaling study: the columns of any table found, its rows checked and put into budgets.

    clean_runs(table, ...) -> Runs, [Finding]   what can be used, in a canonical order, and what was left out and why

A run is flops (training), params (activated ones where the table has both kinds), tokens and loss (nats per token);
one of the first three may be missing and then follows from the cost rule. Every number of a fit is a function of the
canonical order, so the order of rows in the file changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analyses.scaling.cells import Marks, find_marks, read_column
from analyses.scaling.columns import ACTIVATED, SIZES, Column, find_columns, named_as, plain
from analyses.scaling.cost import SIX_ND, CostRule, own_cost
from analyses.scaling.findings import LISTED, Finding, summarised
from analyses.scaling.plausible import doubt_losses, doubt_sizes
from analyses.scaling.replicates import cells_of, settle, varies
from analyses.scaling.selection import kinds, numbered, refuse_mixtures, select
from analyses.scaling.tables import Table
from analyses.scaling.units import flops_factor, word_factor
from model.errors import DataError

LARGEST_LOSS = 1e9  # nats: a cell beyond is no loss, and its powers overflow
LARGEST_SIZE = 1e100  # of FLOPs, parameters and tokens, and the inverse of the smallest
SAME_NAME = 1e-6  # relative difference of budgets that are written in two ways
LOSS_UNITS = {"nats": 1.0, "bits": math.log(2), "perplexity": 0.0}


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
    columns: dict[str, Column] = field(default_factory=dict)  # that the quantities were read from

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
    units: Mapping[str, float] | None = None,
    loss_unit: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    best_of: bool = False,
    apart: Sequence[str] = (),
) -> tuple[Runs, list[Finding]]:
    """The runs of a table and what was left out.

    columns names the column of a quantity where the table calls it otherwise, units what one of its params, tokens or flops
    is, and loss_unit is nats, bits or perplexity. Without a cost rule the FLOPs per token are the table's own where it has
    all three of flops, params and tokens, else 6 N D. Runs belong to one budget when the table names it, or while their
    FLOPs lie within `tolerance` of the least of the group. where and best_of: see selection and replicates. Runs that differ
    in a column of `apart`, such as the number of experts, are no seeds of each other.
    """
    chosen = select(table, where or {})
    found, findings = find_columns(table.columns, table.name, columns or {})
    values, loss, said = _read(table, found, units or {}, loss_unit)
    findings += said
    read, rule = len(table), cost or SIX_ND
    own = "flops" in values or "budget" in values
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
    wrong, good = _check_rows(table, found, {"flops": flops, "params": params, "tokens": tokens}, loss, chosen)
    findings += wrong
    batch = values.get("batch_tokens", np.full(read, np.nan if batch_tokens is None else batch_tokens))
    batch = np.where((batch > 0) & (batch < LARGEST_SIZE), batch, np.nan)
    label = values["budget"] if "budget" in values and "flops" in values else np.full(read, np.nan)
    label = np.where(np.isfinite(label) & (label > 0), label, np.nan)

    order = np.lexsort((np.arange(read), batch, loss, tokens, params, flops))
    order = order[good[order]]
    kept, merged = _merge_duplicates(order, (flops, params, tokens, loss, label))
    findings += summarised(
        [Finding("duplicate", f"row {row + 1} repeats row {first + 1} and was merged with it",
                 budget=float(flops[row]), row=int(row) + 1, excludes=True) for row, first in merged],
        "rows repeat others and were merged with them",
    )  # fmt: skip
    budget = _group(flops[kept], label[kept], tolerance)
    kind = kinds([table.columns[name] for name in apart], read)
    by = np.lexsort((np.arange(len(kept)), loss[kept], tokens[kept], kind[kept], params[kept], budget))
    kept, budget = kept[by], np.sort(budget)
    told = {name: table.columns[found[name].name] for name in ("learning_rate", "seed") if name in found}
    rates, seeds = (
        numbered([told[name][row] for row in kept]) if name in told else None for name in ("learning_rate", "seed")
    )
    cells = cells_of(budget, params[kept], kind[kept])
    explained = varies(cells, rates) or varies(cells, seeds)
    refuse_mixtures(table, where or {}, {column.name for column in found.values()}, kept, None if explained else cells)
    fitted, said = settle(cells, rates, seeds, loss[kept], best_of)
    findings += said
    counts = {"read": read, "dropped": int((chosen & ~good).sum()), "merged": len(merged), "used": int(fitted.sum())}
    if where:
        counts["not_selected"] = int(read - chosen.sum())
    if best_of:
        counts["not_best"] = int((~fitted).sum())
    kept, budget = kept[fitted], budget[fitted]
    sizes = {"flops": flops[kept], "params": params[kept], "tokens": tokens[kept]}
    given = {name for name in sizes if name in found}
    rule, mismatch = _cost_of(sizes, cost, whole)
    agreed = cost is not None and mismatch is None  # the user says what a run costs
    doubt = doubt_sizes(
        sizes,
        given,
        set(units or {}),
        costs=not agreed,
        other_params=_other_params(table, found, kept),
        activated="params" in found and plain(found["params"].name) in ACTIVATED,
    )
    doubts = (doubt, mismatch, doubt_losses(loss[kept]) if loss_unit is None else None)
    findings += [doubt for doubt in doubts if doubt is not None]
    taken = {name: column for name, column in found.items() if name in (*given, "loss", "perplexity", "batch_tokens")}
    return Runs(**sizes, loss=loss[kept], batch_tokens=batch[kept], row=kept + 1, budget=budget, cost=rule, counts=counts,
                columns=taken), findings  # fmt: skip


def _read(
    table: Table, found: dict[str, Column], units: Mapping[str, float], loss_unit: str | None
) -> tuple[dict[str, np.ndarray], np.ndarray, list[Finding]]:
    """Numbers of the columns found, the losses in nats, and what a reader must know of them."""
    if "loss" in found:
        found.pop("perplexity", None)
    of_loss = "loss" if "loss" in found else "perplexity"
    own = "flops" in found or "budget" in found
    if own + ("params" in found) + ("tokens" in found) < 2 or of_loss not in found:
        missing = [
            name for name in ("flops", "params", "tokens") if name not in found and not (name == "flops" and own)
        ]
        need = "loss" if of_loss not in found else f"two of flops, params and tokens (missing: {', '.join(missing)})"
        raise DataError(
            f"{table.name} has the columns {', '.join(table.columns) or 'none'}, but {need} is needed: rename a column or "
            "name it with --flops-column, --params-column, --tokens-column or --loss-column"
        )
    for name, unit in units.items():
        if name not in found and not (name == "flops" and own):
            raise DataError(f"{table.name} has no {name} for --{name}-unit to be the unit of: leave it out")
        found |= {
            one: replace(found[one], unit=unit)
            for one in ({name, "budget"} if name == "flops" else {name})
            if one in found
        }
    numeric = {quantity: column for quantity, column in found.items() if quantity not in ("learning_rate", "seed")}
    marks = find_marks(table.name, [table.columns[column.name] for column in numeric.values()], table.separator)
    values = {}
    for quantity, column in numeric.items():
        word = flops_factor if quantity in ("flops", "budget") else word_factor if quantity in SIZES else None
        cells = table.columns[column.name]
        values[quantity] = read_column(cells, marks, column.unit, word)
        written = [cell for cell in cells if cell not in (None, "")]
        if quantity != "batch_tokens" and len(written) > LISTED and np.isnan(values[quantity]).all():
            raise DataError(
                f"{table.name}: the column '{column.name}' has no numbers, but cells such as {_shown(written[0])}: write "
                "numbers such as 53.3M or 5.33e7, or name another column"
            )
    loss, findings = values.pop(of_loss), []
    with np.errstate(all="ignore"):
        if loss_unit == "perplexity" or (loss_unit is None and of_loss == "perplexity"):
            loss = np.log(loss)
            findings.append(
                Finding("perplexity", f"losses are the logarithms of '{found[of_loss].name}', taken as perplexity")
            )
        else:
            loss = loss * LOSS_UNITS[loss_unit or "nats"]
    found["loss"] = found.pop(of_loss)
    return values, loss, findings


def _other_params(table: Table, found: Mapping[str, Column], kept: np.ndarray) -> list[np.ndarray]:
    """The table's columns of parameters that were not taken, where they are positive numbers."""
    if "params" not in found:
        return []
    columns = [read_column(table.columns[column.name], Marks(), column.unit, word_factor)[kept]
               for column in named_as(table.columns, "params") if column.name != found["params"].name]  # fmt: skip
    return [values for values in columns if (np.isfinite(values) & (values > 0)).all()]


def _cost_of(sizes: Mapping[str, np.ndarray], cost: CostRule | None, whole: bool) -> tuple[CostRule, Finding | None]:
    """What a run costs, by the table or by the rule that was given, and where they do not go together."""
    flops, params, tokens = (sizes[name] for name in ("flops", "params", "tokens"))
    rule = cost or SIX_ND
    if not whole or not len(flops):
        return rule, None
    if cost is None:
        rule = own_cost(params, flops / tokens)
        if rule.worst_fraction <= 0.5:
            return rule, None
        reason = f"FLOPs per token are up to {rule.worst_fraction:.0%} off any K1 N + K2: check the columns"
        return rule, Finding("cost_mismatch", reason, suspect=True)
    ratio = float(np.median(flops / tokens / np.exp(rule.log_flops_per_token(np.log(params)))))
    if abs(ratio - 1) <= 0.05:
        return rule, None
    reason = f"the runs cost {ratio:.3g} times what --cost {rule.name} says: leave it out to take their own cost"
    return rule, Finding("cost_mismatch", reason, suspect=not 0.5 <= ratio <= 2)


def _check_rows(
    table: Table, found: Mapping[str, Column], sizes: Mapping[str, np.ndarray], loss: np.ndarray, chosen: np.ndarray
) -> tuple[list[Finding], np.ndarray]:
    """What is wrong with which of the chosen rows, and the mask of good ones."""
    good = chosen & np.isfinite(loss) & (loss > 0) & (loss < LARGEST_LOSS)
    findings = []
    for row in np.flatnonzero(chosen & ~good):
        code = "bad_loss" if np.isfinite(loss[row]) else "nonfinite_loss"
        limit = "" if code == "nonfinite_loss" else f", and a loss lies between 0 and {LARGEST_LOSS:g} nats"
        findings.append(_dropped(code, row, "loss", _shown(table.columns[found["loss"].name][row]) + limit))
    findings = summarised(findings, "rows were dropped for their loss")
    for name, values in sizes.items():
        wrong = good & ~(np.isfinite(values) & (values > 1 / LARGEST_SIZE) & (values < LARGEST_SIZE))
        said = []
        for row in np.flatnonzero(wrong):
            written = _shown(table.columns[found[name].name][row]) if name in found else "impossible by the cost rule"
            said.append(_dropped("bad_value", row, name, written))
        findings += summarised(said, f"rows were dropped for their {name}")
        good &= ~wrong
    return findings, good


def _dropped(code: str, row: Any, name: str, why: str) -> Finding:
    return Finding(code, f"row {row + 1} was dropped: its {name} is {why}", row=int(row) + 1, excludes=True)


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
