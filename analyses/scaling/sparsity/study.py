"""`--method sparsity`: a table of mixtures as a document with the same keys as every other fit.

    sparsity_study(table, options) -> SparsityStudy     budgets, laws, predictions, and the law itself under "sparsity"

n_opt and d_opt are those of the sparsest ratio that was run, without a memory limit and without serving; predictions keep
to the limits asked for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.scaling.columns import SIZES
from analyses.scaling.findings import Finding, status, summarised
from analyses.scaling.options import Options
from analyses.scaling.refusals import TIED
from analyses.scaling.sparsity.answers import Answers
from analyses.scaling.sparsity.runs import SparseRuns, sparse_runs, undetermined
from analyses.scaling.sparsity.surface import Form, SparsitySurface, fit_surface, misfit
from analyses.scaling.tables import Table
from model.errors import HunyuanError

RESAMPLES = 1000  # at most: 95% intervals need no more
OUTLIER_LEVEL = 0.01  # probability that any run of a clean study is taken for an outlier
FAR_OUT = 5.0  # an outlier is more than so many standard deviations of the noise off
MOST_OUTLIERS = 0.2  # of the runs
MISFIT_LEVEL = 0.01
VANISHES = 1e-2  # share of every run's loss below which a power is not determined


@dataclass(frozen=True)
class SparsityStudy:
    """A fitted study of mixtures; `answers` is None where it was refused."""

    options: Options
    study: SparseRuns
    answers: Answers | None
    findings: tuple[Finding, ...]
    document: dict[str, Any]

    @property
    def status(self) -> int:
        """0 clean, 3 fitted with something left out, in doubt or unanswered, 1 refused."""
        if self.answers is None:
            return 1
        return status(self.findings)


def sparsity_study(table: Table, options: Options) -> SparsityStudy:
    """Fits the joint law of a table of mixtures. HunyuanError says which column is missing, or which option does not go."""
    study, findings = sparse_runs(table, options)
    if options.memory is not None and study.by != "total_params":
        raise HunyuanError(f"--memory limits total parameters: {table.name} needs a column total_params for it")
    generator = np.random.default_rng(options.seed)
    form = Form.of(study.variables, study.covariates, options.interaction)
    reason, answers = undetermined(study, form), None
    if reason is None:
        surface, kept, said = _fitted(study, form, options, generator)
        findings += said
        reason = _unsound(surface)
        if reason is None:
            study, answers = kept, Answers(kept, surface, options)
    document = _heading(study, options)
    if answers is None:
        findings.append(Finding("no_surface", f"no law of sparsity: {reason}", excludes=True))
        document["budgets"] = [{"flops": flops, "n_runs": int(runs.sum()), "used": False, "interior": False,
                                "params_opt": None, "tokens_opt": None, "loss_opt": None}
                               for flops, runs in _budgets(study)]  # fmt: skip
    else:
        document["budgets"] = [answers.budget(flops, runs) for flops, runs in _budgets(study)]
        document["n_opt"], document["d_opt"] = answers.law("x"), answers.law("y")
        document["predictions"], said = answers.predictions()
        p = 1.0 if form.interaction else misfit(study.variables, study.runs.loss, answers.surface, generator)
        document["sparsity"] = answers.part() | {"misfit_p": None if form.interaction else p}
        findings += [*_doubts(answers, p), *said, *_limits_told(answers, document)]
    document["warnings"] = [finding.document() for finding in findings]
    return SparsityStudy(options, study, answers, tuple(findings), document)


def _heading(study: SparseRuns, options: Options) -> dict[str, Any]:
    runs = study.runs
    return {
        "method": "sparsity", "runs": runs.counts | {"used": len(runs)}, "cost": runs.cost.document(), "c_min": None,
        "confidence": options.confidence, "interval": "residual",
        "columns": {name: column.name for name, column in runs.columns.items()} | dict(study.columns),
        "units": {name: column.unit for name, column in runs.columns.items() if name in SIZES},
        "memory_params": options.memory, "served_tokens": options.served_tokens,
        "budgets": [], "n_opt": None, "d_opt": None, "predictions": [], "sparsity": None,
    }  # fmt: skip


def _budgets(study: SparseRuns) -> list[tuple[float, np.ndarray]]:
    """The geometric mean of the FLOPs of each budget, and the mask of its runs."""
    runs = study.runs
    masks = [runs.budget == number for number in np.unique(runs.budget)]
    return [(float(np.exp(np.log(runs.flops[mask]).mean())), mask) for mask in masks]


def _fitted(
    study: SparseRuns, form: Form, options: Options, generator: np.random.Generator
) -> tuple[SparsitySurface, SparseRuns, list[Finding]]:
    """The law of the runs that are no outliers, those runs, and a finding for each outlier."""
    resamples = min(options.resamples, RESAMPLES)
    surface = fit_surface(study.variables, study.runs.loss, form, generator, resamples)
    off = _outliers(surface)
    if not off.any() or off.mean() > MOST_OUTLIERS:
        return surface, study, []
    expected = np.exp(np.log(study.runs.loss) - surface.fit.residuals)
    does = "kept, as asked" if options.keep_outliers else "left out (--keep-outliers keeps it)"
    findings = summarised(
        [Finding("outlier", f"row {study.runs.row[i]} has a loss of {study.runs.loss[i]:.6g} where the law of the others has "
                 f"{expected[i]:.6g}: {does}", budget=float(study.runs.flops[i]), row=int(study.runs.row[i]),
                 excludes=not options.keep_outliers) for i in np.flatnonzero(off)],
        "rows are outliers",
    )  # fmt: skip
    kept = study.keep(~off)
    if options.keep_outliers or undetermined(kept, form) is not None:
        return surface, study, findings
    return fit_surface(kept.variables, kept.runs.loss, form, generator, resamples), kept, findings


def _outliers(surface: SparsitySurface) -> np.ndarray:
    """(n,) whether a run is too far off for the noise of the others, by a t test with Bonferroni's correction."""
    from scipy import special

    fit = surface.fit
    off = np.abs(fit.residuals) / np.sqrt(np.maximum(1 - fit.leverage, 1e-6))
    p = 2 * special.stdtr(max(1, fit.degrees), -off / max(fit.noise, 1e-12))
    return np.asarray((p * len(off) < OUTLIER_LEVEL) & (off > FAR_OUT * max(fit.noise, 1e-12)))


def _unsound(surface: SparsitySurface) -> str | None:
    """Why a law has no optimum."""
    theta = surface.theta
    if not np.isfinite(theta).all():
        return "the fit did not end: the losses do not tell of parameters and tokens"
    for name, value in (("activated parameters", theta[3]), ("tokens", theta[4])):
        if value <= 0:
            return f"the losses do not fall with {name}: check the columns"
        if value > 20:
            return f"the best fit has an exponent of {value:.3g}, and laws of scale have about 0.35"
    return None


def _doubts(answers: Answers, misfit_p: float) -> list[Finding]:
    """What a reader should know of the fit."""
    findings, surface, variables = [], answers.surface, answers.study.variables
    if misfit_p < MISFIT_LEVEL:
        reason = (
            f"what sparsity buys changes with size or tokens (p = {misfit_p:.2g}), which the plain law leaves out: add "
            "--interaction"
        )
        findings.append(Finding("sparsity_misfit", reason, suspect=True))
    terms = np.exp(np.einsum("knp,p->kn", surface.form.design(variables), surface.theta)) / answers.study.runs.loss
    for name, share in zip(("E", "A", "B"), terms.max(axis=1).tolist(), strict=True):
        if share < VANISHES:
            reason = f"the term of {name} is at most {share:.1g} of the loss of any run: the runs do not determine it"
            findings.append(Finding("surface", reason))
    if abs(np.corrcoef(variables.x, variables.y)[0, 1]) > TIED:
        reason = "tokens follow from the size in these runs: terms of N and D cannot be told apart without other ratios"
        findings.append(Finding("surface", reason))
    if len(np.unique(np.round(variables.r, 2))) < 3:
        reason = "the runs have two ratios, so nothing tests whether gains are a power of the ratio: add a third"
        findings.append(Finding("two_ratios", reason))
    low, high = answers.part()["intervals"]["gamma"]
    if low <= 0 <= high:
        reason = f"what sparsity buys is not told from nothing: gamma is {low:.3g} to {high:.3g}"
        findings.append(Finding("no_gain", reason))
    if 2 * surface.fit.agreeing < surface.fit.starts:
        reason = f"only {surface.fit.agreeing} of {surface.fit.starts} starts reached this law: give more runs"
        findings.append(Finding("surface", reason))
    return findings


def _limits_told(answers: Answers, document: dict[str, Any]) -> list[Finding]:
    """That nothing but the runs' own sparsity kept a prediction from more experts."""
    bound = [row for row in document["predictions"] if row["bound"] == "sparsest_run"]
    if not bound:
        return []
    ratio = f"{answers.study.ratio.max():.4g}"
    more = "" if answers.options.memory else "; --memory sets a limit of total parameters"
    reason = f"by the law more experts always help: predictions stop at the sparsest ratio that was run, {ratio}{more}"
    return [Finding("sparsest_run", reason)]
