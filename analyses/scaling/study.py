"""A table and options as a fitted study, whatever the method: the one door of the command and of notebooks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from analyses.scaling.checkpoints import last_checkpoints
from analyses.scaling.constrained import constrained_part
from analyses.scaling.findings import Finding
from analyses.scaling.fit import ScaleFit, scale_fit
from analyses.scaling.laws import ScalingLaw
from analyses.scaling.options import Options
from analyses.scaling.rates import rates_part
from analyses.scaling.repetition import once_read
from analyses.scaling.runs import clean_runs
from analyses.scaling.sparsity.study import SparsityStudy, sparsity_study
from analyses.scaling.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Study = ScaleFit | SparsityStudy
Fitted = TypeVar("Fitted", ScaleFit, SparsityStudy)


def fit_study(table: Table, options: Options) -> Study:
    """Fits the table by the method of the options. HunyuanError says what is wrong with either."""
    table, where, findings = last_checkpoints(table, options.where, options.last)
    options = replace(options, where=where)
    if options.method == "sparsity":
        return with_findings(sparsity_study(table, options), findings)
    rates, of_rates = rates_part(table, options) if options.rates else (None, [])
    findings += of_rates
    options = replace(options, best_of=options.best_of or options.rates)  # the best rate of each size and budget
    where, repeated = once_read(table, options.where) if options.unique_tokens else (dict(options.where), None)
    result = scale_fit(table, replace(options, where=where))
    findings += [] if repeated is None else [repeated]
    if options.rates:
        result.document["rates"] = rates
    if result.surface is not None and (options.served_tokens or options.unique_tokens):
        runs = clean_runs(
            table, cost=options.cost, columns=options.columns, units=options.units, loss_unit=options.loss_unit,
            where=options.where, best_of=options.best_of, batch_tokens=options.batch_tokens, tolerance=options.tolerance,
        )[0]  # fmt: skip
        result.document["constrained"], said = constrained_part(result.surface, table, runs, options)
        findings += said
    return with_findings(result, findings)


def with_findings(result: Fitted, findings: Sequence[Finding]) -> Fitted:
    """The same with more to tell, also in its document."""
    known = set(result.findings)
    more: list[Finding] = [finding for finding in dict.fromkeys(findings) if finding not in known]
    result.document["warnings"] += [finding.document() for finding in more]
    return replace(result, findings=(*result.findings, *more))


def plot_study(study: Study, laws: Sequence[ScalingLaw] = ()) -> "Figure":
    """The picture of `hunyuan scale-fit --plot`, with other laws laid over it."""
    if isinstance(study, SparsityStudy):
        from analyses.scaling.sparsity.plots import plot_sparsity

        return plot_sparsity(study, laws)
    from analyses.scaling.plots import plot_scaling

    return plot_scaling(study, laws)
