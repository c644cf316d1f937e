"""Several runs of one size and budget: learning rates, of which the best counts, and seeds, of which the mean does.

    cells_of(budget, params, kind)               (n,) the cell of each run
    settle(cells, rates, seeds, loss, best_of)   what is fitted, and a sentence about it

A cell is a size of a budget, and a kind where runs differ in more. Its runs are all fitted, which is to fit their mean, unless
--best-of takes the best rate.
"""

import math

import numpy as np

from analyses.scaling.findings import Finding

SAME_SIZE = 1e-6  # relative difference of sizes written in two ways, as in parabola.distinct_sizes


def cells_of(budget: np.ndarray, params: np.ndarray, kind: np.ndarray | None = None) -> np.ndarray:
    """(n,) the number of each run's cell; runs are ordered by budget, size and kind."""
    new = (np.diff(budget) != 0) | (np.diff(np.log(params)) > SAME_SIZE)
    if kind is not None:
        new |= np.diff(kind) != 0
    return np.concatenate([[0], np.cumsum(new)]) if len(budget) else np.zeros(0, dtype=int)


def settle(
    cells: np.ndarray, rates: np.ndarray | None, seeds: np.ndarray | None, loss: np.ndarray, best_of: bool
) -> tuple[np.ndarray, list[Finding]]:
    """The runs that are fitted, (n,) bool, and what a reader must know of those that share a size and a budget.

    cells (n,) never fall. rates and seeds number the learning rates and seeds of the runs, where the table has them.
    """
    kept = np.ones(len(loss), dtype=bool)
    most = int(np.unique(cells, return_counts=True)[1].max()) if len(cells) else 0
    if most < 2:
        return kept, []
    runs, several = f"up to {most} runs of one size and budget", varies(cells, rates)
    if best_of:
        kept = _best(cells, rates if several else None, loss)
        by = "best learning rate" if several else "least loss"
        reason = f"of {runs} --best-of kept those of the {by}: {kept.sum()} of {len(kept)} in all"
        lucky = not several and varies(cells, seeds)
        if lucky:
            reason += (
                "; they differ by their seed alone, and the least loss of several seeds is luck: leave --best-of out"
            )
        return kept, [Finding("best_of", reason, suspect=lucky)]
    spread = f"their mean counts, and one of them spreads about it by {_spread(cells, loss):.2g} nats"
    if several:
        reason = f"{runs} have several learning rates, and all were fitted as if they were seeds: add --best-of"
        return kept, [Finding("several_rates", reason, suspect=True)]
    if varies(cells, seeds):
        return kept, [Finding("seeds", f"{runs} have several seeds: {spread}")]
    reason = f"{runs} were fitted as several seeds: {spread} (--best-of takes the least loss instead)"
    return kept, [Finding("repeated_sizes", reason)]


def varies(cells: np.ndarray, values: np.ndarray | None) -> bool:
    """Whether some cell has several of these values (n,)."""
    if values is None:
        return False
    return len(np.unique(np.stack([cells, values]), axis=1).T) > len(np.unique(cells))


def _best(cells: np.ndarray, rates: np.ndarray | None, loss: np.ndarray) -> np.ndarray:
    """(n,) the runs of every cell's best rate, by the mean over its seeds; without rates the run with the least loss."""
    kept = np.zeros(len(loss), dtype=bool)
    for runs in np.split(np.arange(len(cells)), np.flatnonzero(np.diff(cells)) + 1):
        group = np.arange(len(runs)) if rates is None else np.unique(rates[runs], return_inverse=True)[1]
        means = np.bincount(group, loss[runs]) / np.bincount(group)
        kept[runs[group == means.argmin()]] = True
    return kept


def _spread(cells: np.ndarray, loss: np.ndarray) -> float:
    """The standard deviation of a loss about the mean of its cell, pooled."""
    sums = np.bincount(cells, loss)
    counts = np.bincount(cells)
    about = loss - (sums / np.maximum(counts, 1))[cells]
    return math.sqrt(float((about**2).sum()) / max(int((counts[counts > 0] - 1).sum()), 1))
