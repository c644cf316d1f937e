"""The runs of a table of mixtures: the columns that tell of sparsity, beside those of every study.

Sparsity is the ratio of total to activated parameters where the table has both, else the number of experts. Granularity and
shared experts count where a column has several values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analyses.scaling.cells import find_marks, read_column
from analyses.scaling.columns import COLUMNS, plain
from analyses.scaling.findings import Finding
from analyses.scaling.options import Options
from analyses.scaling.refusals import TIED, alike, no_surface
from analyses.scaling.runs import Runs, clean_runs
from analyses.scaling.sparsity.surface import Form, Variables
from analyses.scaling.tables import Table
from analyses.scaling.units import word_factor
from model.errors import DataError

NAMES = {
    "total_params": (*COLUMNS["params"][2], "all_params", "params_all"),
    "num_experts": ("num_experts", "experts", "n_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "granularity": ("granularity", "expert_granularity"),
    "shared_experts": ("num_shared_expert", "num_shared_experts", "shared_experts", "n_shared_experts"),
}
COVARIATES = {"granularity": "kappa", "shared_experts": "sigma"}  # and the exponents of their factors
SPARE = 3  # runs beyond the number of coefficients, so that the noise is known at all


@dataclass(frozen=True)
class SparseRuns:
    """Runs with their sparsity, (n,) each."""

    runs: Runs
    ratio: np.ndarray  # total by activated parameters, or the number of experts
    by: str  # total_params or num_experts
    more: Mapping[str, np.ndarray]  # granularity G and 1 + shared experts, where they vary
    columns: Mapping[str, str]  # the names of the columns of these

    @property
    def variables(self) -> Variables:
        more = tuple(np.log(values) for values in self.more.values())
        return Variables(np.log(self.runs.params), np.log(self.ratio), np.log(self.runs.tokens), more)

    @property
    def covariates(self) -> tuple[str, ...]:
        return tuple(COVARIATES[name] for name in self.more)

    def keep(self, mask: np.ndarray) -> "SparseRuns":
        more = {name: values[mask] for name, values in self.more.items()}
        return SparseRuns(self.runs.keep(mask), self.ratio[mask], self.by, more, self.columns)


def sparse_runs(table: Table, options: Options) -> tuple[SparseRuns, list[Finding]]:
    """The usable runs and what was left out. DataError where the table does not tell of sparsity."""
    found = {
        name: next((column for known in names for column in table.columns if plain(column) == known), None)
        for name, names in NAMES.items()
    }
    by = next((name for name in ("total_params", "num_experts") if found[name] is not None), None)
    if by is None:
        raise DataError(
            f"{table.name} has neither total_params nor num_experts: --method sparsity needs one of them beside "
            "activated_params"
        )
    columns = {name: column for name, column in found.items() if column is not None and name in (by, *COVARIATES)}
    runs, findings = clean_runs(
        table, cost=options.cost, columns=options.columns, batch_tokens=options.batch_tokens, tolerance=options.tolerance,
        units=options.units, loss_unit=options.loss_unit, where=options.where, best_of=options.best_of,
        apart=tuple(columns.values()),
    )  # fmt: skip
    params = runs.columns.get("params")
    if by == "total_params" and params is not None and params.name == columns[by]:
        raise DataError(
            f"{table.name} has total parameters alone, in '{params.name}': add a column activated_params, by which a token "
            "costs FLOPs"
        )
    marks = find_marks(table.name, [table.columns[column] for column in columns.values()], table.separator)
    values = {
        name: read_column(table.columns[column], marks, word=word_factor)[runs.row - 1]
        for name, column in columns.items()
    }
    for name, numbers in values.items():
        wrong = ~(np.isfinite(numbers) & (numbers >= (0 if name == "shared_experts" else 1)))
        if by == name == "total_params":
            wrong |= numbers < runs.params * (1 - 1e-6)
        if wrong.any():
            row = int(runs.row[wrong].min())
            least = "activated_params" if name == "total_params" else "1" if name != "shared_experts" else "0"
            raise DataError(
                f"{table.name}: row {row} has {numbers[runs.row == row][0]:.6g} in '{columns[name]}', which must be a "
                f"number of at least {least}: mend it, or leave the row out with --where"
            )
    ratio = values[by] / runs.params if by == "total_params" else values[by]
    more = {name: values[name] + (name == "shared_experts") for name in COVARIATES if name in values}
    more = {name: numbers for name, numbers in more.items() if not alike(numbers)}
    return SparseRuns(runs, np.maximum(ratio, 1.0), by, more, columns), findings


def undetermined(study: SparseRuns, form: Form) -> str | None:
    """Why the runs cannot determine the law, in a sentence; None where they can."""
    runs = study.runs
    need = len(form.names) + SPARE
    if len(runs) < need:
        return f"{len(runs)} runs cannot determine {', '.join(form.names)}: give at least {need} runs"
    if (reason := no_surface(runs.params, runs.tokens, runs.loss)) is not None:
        return reason
    word = "ratio of total to activated parameters" if study.by == "total_params" else "number of experts"
    if alike(study.ratio):
        return f"all runs have the same {word}: add runs that are sparser or denser"
    if form.interaction and len(np.unique(np.round(np.log(study.ratio), 2))) < 3:
        return f"the runs have two values of the {word}: an interaction needs at least 3, so leave --interaction out"
    variables = study.variables
    named = {"activated parameters": variables.x, f"the {word}": variables.r, "tokens": variables.y}
    named |= dict(zip(study.more, variables.more, strict=True))
    for name in (f"the {word}", *study.more):
        values = named[name]
        others = {other: column for other, column in named.items() if other != name}
        share, nearest = _explained(values, others)
        if share > TIED:
            return (
                f"{name.removeprefix('the ')} and {nearest.removeprefix('the ')} go together in these runs: add runs that "
                "differ in one of them alone"
            )
    return None


def _explained(values: np.ndarray, others: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The share of the variance that a line in the others explains, and the one of them that goes with it most."""
    design = np.stack([column - column.mean() for column in others.values()], axis=1)
    centred = values - values.mean()
    line = np.linalg.lstsq(design, centred, rcond=1e-10)[0]
    share = 1 - float(((centred - design @ line) ** 2).sum()) / max(float((centred**2).sum()), 1e-300)
    weight = np.abs(line) * design.std(axis=0)
    return share, list(others)[int(weight.argmax())]
