"""`--rates`: the best learning rate and batch against parameters and tokens, from a sweep with several rates.

Two steps. In every group of runs that share N, D and batch, the loss is a parabola in the log of the rate, whose minimum is
the best rate. Over the groups the log of the best rate is linear in log N, log D and log B: a power law, as Li et al. 2025
have it (arXiv:2503.04715, rate in N and D, batch in D) and Bi et al. 2024 in C (arXiv:2401.02954). The best batch of N and D
is found alike, from the least losses of several batches. Intervals are those of the line, by the scatter of the minima.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.scaling.cells import find_marks, read_column
from analyses.scaling.columns import find_columns
from analyses.scaling.findings import Finding, summarised
from analyses.scaling.options import Options
from analyses.scaling.parabola import bounded_exp
from analyses.scaling.replicates import cells_of
from analyses.scaling.runs import Runs, clean_runs
from analyses.scaling.tables import Table
from model.errors import DataError
from model.sweep.rates import VARIABLES

AROUND = math.log(4.5)  # of the best rate or batch that was run: beyond, the loss is no parabola
LEAST_GROUPS = 3  # for a law
SPARE = 1  # groups beyond the coefficients, so that their scatter is known at all
VARIES = math.log(1.5)  # a variable with a smaller range has no exponent
TIED = 0.98  # share of a variable's variance that others explain, from which it has no exponent of its own
FEW = "fewer than 3 rates"
SAME_VALUE = 1e-6  # relative difference of rates that are written in two ways


@dataclass(frozen=True)
class _Group:
    """Runs that differ in one thing, whose best value is asked: logs of the variables, the best value, the loss there."""

    at: dict[str, float]
    best: float  # log
    error: float  # standard error of best, NaN where the noise is not known
    loss: float
    runs: int


def rates_part(table: Table, options: Options) -> tuple[dict[str, Any] | None, list[Finding]]:
    """What the document has under "rates", and its warnings. DataError where the table has no learning rates."""
    runs, _ = clean_runs(
        table, cost=options.cost, columns=options.columns, units=options.units, loss_unit=options.loss_unit,
        where=options.where, batch_tokens=options.batch_tokens, tolerance=options.tolerance,
    )  # fmt: skip
    rates = _rates(table, runs, options)
    batch = np.where(np.isfinite(runs.batch_tokens), runs.batch_tokens, 1.0)
    has_batch = bool(np.isfinite(runs.batch_tokens).all())
    cells = cells_of(runs.budget, runs.params)
    findings: list[Finding] = []
    groups: dict[int, list[_Group]] = {}
    for cell in np.unique(cells):
        for value in np.unique(batch[cells == cell]):
            mask = (cells == cell) & (batch == value)
            group = _best(np.log(rates[mask]), runs.loss[mask])
            place = f"{runs.params[mask].mean():.3g} parameters and {runs.tokens[mask].mean():.3g} tokens"
            place += f" in batches of {value:.4g}" if has_batch else ""
            if isinstance(group, str):
                findings.append(Finding("rates_group", f"no best rate for {place}: {group}", excludes=group != FEW))
                continue
            at = {"params": float(np.log(runs.params[mask]).mean()), "tokens": float(np.log(runs.tokens[mask]).mean())}
            at |= {"batch_tokens": math.log(value)} if has_batch else {}
            groups.setdefault(int(cell), []).append(_Group(at, *group, int(mask.sum())))
    findings = [one for one in findings if not one.reason.endswith(FEW)]
    findings = summarised(findings, "groups have no best rate")
    found = [group for several in groups.values() for group in several]
    law = _law(found, VARIABLES if has_batch else VARIABLES[:2], options.confidence)
    if law is None:
        reason = (
            f"no law of the learning rate: {len(found)} groups of runs have a best rate inside of those that were run, and "
            f"{LEAST_GROUPS} are needed: run 3 or more rates, a factor of 2 apart, at several sizes"
        )
        return None, [*findings, Finding("no_rates", reason, excludes=True)]
    batches = [one for several in groups.values() if (one := _best_batch(several)) is not None] if has_batch else []
    batch_law = _law(batches, VARIABLES[:2], options.confidence)
    if batch_law is None and any(len(np.unique(batch[cells == cell])) > 2 for cell in np.unique(cells)):
        reason = (
            f"no law of the batch: {len(batches)} sizes have a best batch inside of those that were run, and "
            f"{LEAST_GROUPS} are needed"
        )
        findings.append(Finding("no_batch_law", reason))
    logs = {name: [group.at[name] for group in found] for name in found[0].at}
    return {
        "learning_rate": law | {"groups": [_row(group, "learning_rate", options) for group in found]},
        "batch_tokens": batch_law and batch_law | {"groups": [_row(one, "batch_tokens", options) for one in batches]},
        "valid": {name: [bounded_exp(min(values)), bounded_exp(max(values))] for name, values in logs.items()},
    }, findings


def _rates(table: Table, runs: Runs, options: Options) -> np.ndarray:
    """(n,) the learning rate of each run."""
    found, _ = find_columns(table.columns, table.name, options.columns)
    if "learning_rate" not in found:
        raise DataError(f"{table.name} has no column of learning rates for --rates: call it learning_rate or lr")
    cells = table.columns[found["learning_rate"].name]
    rates = read_column(cells, find_marks(table.name, [cells], table.separator))[runs.row - 1]
    wrong = ~(np.isfinite(rates) & (rates > 0))
    if wrong.any():
        row = int(runs.row[wrong].min())
        raise DataError(
            f"{table.name}: row {row} has no learning rate above 0: fill it, or leave the row out with --where"
        )
    return rates


def _best(logs: np.ndarray, loss: np.ndarray) -> tuple[float, float, float] | str:
    """The log of the best value, its standard error and the loss there, or why there is none."""
    values = np.unique(np.round(logs / SAME_VALUE)) * SAME_VALUE
    if len(values) < 3:
        return FEW
    means = np.array([loss[np.abs(logs - value) < 2 * SAME_VALUE].mean() for value in values])
    lowest = int(means.argmin())
    if lowest in (0, len(values) - 1):
        return "the least loss is at an end of the rates that were run"
    near = np.abs(logs - values[lowest]) <= max(AROUND, *np.diff(values[lowest - 1 : lowest + 2])) * (1 + 1e-6)
    u, y = logs[near] - values[lowest], loss[near]
    design = np.stack([np.ones_like(u), u, u * u], axis=1)
    (level, slope, bend), *_ = np.linalg.lstsq(design, y, rcond=None)
    if not bend > 0:
        return "the losses do not bend upward about their least"
    shift = -slope / (2 * bend)
    if not u.min() <= shift <= u.max():
        return "the minimum lies outside of the rates that were run"
    error, degrees = math.nan, len(u) - 3
    if degrees > 0:
        noise = float(((y - design @ [level, slope, bend]) ** 2).sum()) / degrees
        gradient = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
        error = math.sqrt(noise * float(gradient @ np.linalg.inv(design.T @ design) @ gradient))
    return float(values[lowest] + shift), error, float(level - slope**2 / (4 * bend))


def _best_batch(groups: Sequence[_Group]) -> _Group | None:
    """The best batch of one N and D, from the least losses over the rates of each batch."""
    found = _best(np.array([one.at["batch_tokens"] for one in groups]), np.array([one.loss for one in groups]))
    if isinstance(found, str):
        return None
    at = {name: float(np.mean([one.at[name] for one in groups])) for name in VARIABLES[:2]}
    return _Group(at, *found, sum(one.runs for one in groups))


def _law(groups: Sequence[_Group], variables: Sequence[str], confidence: float) -> dict[str, Any] | None:
    """The least-squares power law of the best values, with t intervals; None for too few groups.

    A variable that does not vary, or that others explain, has the exponent 0 and no interval. With few groups the batch goes
    first, then the tokens.
    """
    from scipy import special

    if len(groups) < LEAST_GROUPS:
        return None
    columns = {name: np.array([group.at[name] for group in groups]) for name in variables}
    used: list[str] = []
    for name in variables:
        values = columns[name] - columns[name].mean()
        if np.ptp(values) < VARIES or len(used) + 2 + SPARE > len(groups):
            continue
        design = np.stack([columns[other] - columns[other].mean() for other in used], axis=1) if used else None
        left = values if design is None else values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        if float((left**2).sum()) > (1 - TIED) * float((values**2).sum()):
            used.append(name)
    centre = {name: float(columns[name].mean()) for name in used}
    design = np.stack([np.ones(len(groups)), *(columns[name] - centre[name] for name in used)], axis=1)
    best = np.array([group.best for group in groups])
    line, *_ = np.linalg.lstsq(design, best, rcond=None)
    degrees = len(groups) - design.shape[1]
    scatter = math.sqrt(float(((best - design @ line) ** 2).sum()) / degrees)
    covariance = scatter**2 * np.linalg.inv(design.T @ design)
    half = float(special.stdtrit(degrees, (1 + confidence) / 2)) * np.sqrt(np.diag(covariance))
    powers = dict(zip(used, line[1:].tolist(), strict=True))
    return {
        "coefficient": bounded_exp(float(line[0]) - sum(powers[name] * centre[name] for name in used)),
        "exponents": {name: powers.get(name, 0.0) for name in variables},
        "exponent_intervals": {
            name: [powers[name] - float(half[1 + index]), powers[name] + float(half[1 + index])]
            for index, name in enumerate(used)
        },
        "at": {name: bounded_exp(value) for name, value in centre.items()},
        "value": bounded_exp(float(line[0])),
        "value_interval": [bounded_exp(float(line[0] - half[0])), bounded_exp(float(line[0] + half[0]))],
        "scatter": scatter, "degrees": degrees, "covariance": covariance.tolist(),
    }  # fmt: skip


def _row(group: _Group, name: str, options: Options) -> dict[str, Any]:
    from scipy import special

    wide = float(special.ndtri((1 + options.confidence) / 2)) * group.error
    ends = None if math.isnan(wide) else [bounded_exp(group.best - wide), bounded_exp(group.best + wide)]
    logs = {key: bounded_exp(value) for key, value in group.at.items()}
    return logs | {name: bounded_exp(group.best)} | {f"{name}_interval": ends, "loss": group.loss, "runs": group.runs}
