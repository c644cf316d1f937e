"""What repeated tokens are worth: the law of data that are read several times.

    D' = U + U R* (1 - exp(-(D / U - 1) / R*))      U unique tokens, D tokens trained on, D' those that they are worth

Muennighoff et al. 2023 (arXiv:2305.16264, equation 5). D' is D for one epoch, nearly D for a few, and never above
U (1 + R*). The loss is E + A / N^alpha + B / D'^beta. R* is fitted where a table has runs of several epochs; else it is
theirs, 15.387756 (appendix A). Their discount of excess parameters (R*_N, equation 6) is left out: it would change the
surface of runs of one epoch as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.scaling.cells import find_marks, read_column
from analyses.scaling.columns import plain
from analyses.scaling.findings import Finding
from analyses.scaling.laws import Surface
from analyses.scaling.robust import Array, Model, residual_draws, robust_fit, stretched
from analyses.scaling.runs import Runs
from analyses.scaling.tables import Table

PUBLISHED = 15.387756
EPOCHS = ("epochs", "n_epochs", "num_epochs", "epoch", "train_epochs")
REPEATED = 1.01  # epochs from which a run has read tokens again
LEAST_REPEATED = 4  # runs of several epochs, for R* to be fitted
FEWEST_EPOCHS = 3.0  # of the run that repeats most: below, repeated tokens are worth about as much as new ones
STARTS = (1.0, 4.0, 15.0, 60.0)
UNBOUNDED = 1e4  # an R* beyond which repeated tokens count as new


@dataclass(frozen=True)
class Repetition:
    """R* with its draws, and the law that it was fitted with; `laws` is None where R* is the published one."""

    r_star: float
    draws: Array | None  # (R,)
    laws: Array | None  # (1 + R, 5) E, A, B, alpha, beta of the fit and its draws
    degrees: int

    def document(self, confidence: float) -> dict[str, Any]:
        source = "published, Muennighoff et al. 2023" if self.draws is None else "fitted to the runs of several epochs"
        ends = None
        if self.draws is not None:
            logs = stretched(math.log(self.r_star), np.log(self.draws), self.degrees, confidence)
            ends = [math.exp(min(end, 700.0)) for end in logs]
        return {"r_star": self.r_star, "r_star_interval": ends, "source": source}


def effective_tokens(tokens: Array, unique: Array | float, r_star: Array | float) -> Array:
    """D' of D tokens of which U are unique; arrays that broadcast."""
    unique = np.minimum(unique, tokens)
    again = np.maximum(tokens / unique - 1, 0.0)
    return np.asarray(unique * (1 - np.expm1(-again / r_star) * r_star))


def epochs_of(table: Table) -> tuple[str, Array] | None:
    """The column that says how often a run has read its data, and its numbers (rows,), 1 where it says nothing."""
    column = next((column for column in table.columns if plain(column) in EPOCHS), None)
    if column is None:
        return None
    cells = table.columns[column]
    values = read_column(cells, find_marks(table.name, [cells], table.separator))
    return column, np.where(np.isfinite(values) & (values > 1), values, 1.0)


def once_read(table: Table, where: Mapping[str, Sequence[str]]) -> tuple[dict[str, Sequence[str]], Finding | None]:
    """What --where has to say for the runs of one epoch, which determine the surface, and a sentence about the others.

    So did Muennighoff et al.: the surface is that of new data, and the runs that read them again tell R*.
    """
    found = epochs_of(table)
    if found is None or found[0] in where or not (found[1] > REPEATED).any():
        return dict(where), None
    column, epochs = found
    fresh = [str(cell) for cell, count in zip(table.columns[column], epochs, strict=False) if count <= REPEATED]
    if not fresh:
        return dict(where), None
    again = int((epochs > REPEATED).sum())
    reason = (
        f"{again} of {len(epochs)} runs have read their data again: they tell R* of repetition, the others the surface"
    )
    return {**where, column: list(dict.fromkeys(fresh))}, Finding("repeated_runs", reason)


def repetition_of(
    table: Table, runs: Runs, surface: Surface, generator: np.random.Generator, resamples: int
) -> tuple[Repetition, Finding]:
    """R* as the runs have it, or the published one, and a sentence that says which and why."""
    told = epochs_of(table)
    epochs = np.ones(len(runs)) if told is None else told[1][runs.row - 1]
    unique = runs.tokens / epochs
    repeated = int((epochs > REPEATED).sum())
    if repeated < LEAST_REPEATED or epochs.max() < FEWEST_EPOCHS:
        why = f"{repeated} runs of the table read tokens again, and at most {epochs.max():.3g} times"
        if told is None:
            why = "the table has no column of epochs"
        reason = (
            f"R* = {PUBLISHED:.4g} of repeated tokens is that of Muennighoff et al. 2023 (arXiv:2305.16264), for {why}"
        )
        return Repetition(PUBLISHED, None, None, 1), Finding("repetition_published", reason)
    form = _Form(np.log(runs.params), runs.tokens, unique)
    target = np.log(runs.loss)
    start = np.tile(form.theta(surface), (len(STARTS), 1))
    start[:, 5] = np.log(STARTS)
    fit = robust_fit(form.model, target, start)
    draws = residual_draws(fit, form.model, target, resamples, generator)
    laws = form.written(np.concatenate([fit.theta[None], draws]))
    found = Repetition(float(np.exp(fit.theta[5])), np.exp(np.minimum(draws[:, 5], 700)), laws, fit.degrees)
    if found.r_star > UNBOUNDED:
        reason = f"repeated tokens count as new in these runs, of at most {epochs.max():.3g} epochs: R* is open"
        return found, Finding("repetition_open", reason, suspect=True)
    return found, Finding("repetition_fitted", f"R* of repeated tokens was fitted to {repeated} runs of several epochs")


class _Form:
    """E + A / N^alpha + B / D'^beta of runs in theta = (log E, a, b, alpha, beta, log R*), about the runs' centre."""

    def __init__(self, log_params: Array, tokens: Array, unique: Array) -> None:
        self.centre = float(log_params.mean()), float(np.log(tokens).mean())
        self.x, self.unique = log_params - self.centre[0], unique
        self.again = np.maximum(tokens / unique - 1, 0.0)

    def theta(self, surface: Surface) -> Array:
        x, y = self.centre
        first, second = math.log(surface.A) - surface.alpha * x, math.log(surface.B) - surface.beta * y
        return np.array([math.log(max(surface.E, 1e-3)), first, second, surface.alpha, surface.beta, 0.0])

    def written(self, theta: Array) -> Array:
        """(R, 5) E, A, B, alpha, beta."""
        x, y = self.centre
        logs = theta[:, 0], theta[:, 1] + theta[:, 3] * x, theta[:, 2] + theta[:, 4] * y
        return np.column_stack([*(np.exp(np.minimum(log, 700)) for log in logs), theta[:, 3], theta[:, 4]])

    @property
    def model(self) -> Model:
        return self._model

    def _model(self, theta: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            r = np.exp(np.clip(theta[:, 5:6], -20, 50))
            fade = np.exp(-self.again / r)
            worth = 1 + r * -np.expm1(-self.again / r)  # D' / U
            y = np.log(self.unique * worth) - self.centre[1]
            slope = (r * (1 - fade) - self.again * fade) / worth  # of y by log R*
            logs = np.stack([
                np.broadcast_to(theta[:, :1], y.shape), theta[:, 1:2] - theta[:, 3:4] * self.x,
                theta[:, 2:3] - theta[:, 4:5] * y,
            ], axis=1)  # fmt: skip
            top = logs.max(axis=1, keepdims=True)
            parts = np.exp(logs - top)
            total = parts.sum(axis=1)
            e, a, b = np.moveaxis(parts / total[:, None], 1, 0)
        derivatives = [e, a, b, -a * self.x, -b * y, -b * theta[:, 4:5] * slope]
        return top[:, 0] + np.log(total), np.stack(derivatives, axis=2)
