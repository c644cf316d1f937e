"""Made-up studies of mixtures whose law is known."""

from collections.abc import Mapping, Sequence

import numpy as np

from analyses.scaling.options import Options
from analyses.scaling.sparsity.study import SparsityStudy, sparsity_study
from analyses.scaling.tables import Table

LAW = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37, "gamma": 0.1}


def loss_of(params, ratio, tokens, law: Mapping[str, float] = LAW, granularity=1.0, shared=0.0):
    """The law as it is written; chi, omega and zeta are 0 unless given, about log N = 20, log R = 1.5, log D = 23."""
    x, r, y = np.log(params) - 20, np.log(ratio) - 1.5, np.log(tokens) - 23
    first = np.log(law["A"]) - law["alpha"] * np.log(params) - law["gamma"] * np.log(ratio) - law.get("chi", 0) * x * r
    second = np.log(law["B"]) - law["beta"] * np.log(tokens) - law.get("omega", 0) * r - law.get("zeta", 0) * y * r
    first = first - law.get("kappa", 0) * np.log(granularity) - law.get("sigma", 0) * np.log(1 + shared)
    return law["E"] + np.exp(first) + np.exp(second)


def mixtures(
    *,
    budgets: Sequence[float] = (1e18, 1e19, 1e20, 1e21),
    sizes: int = 5,
    ratios: Sequence[float] = (1, 4, 16),
    noise: float = 0.0,
    seed: int = 0,
    law: Mapping[str, float] = LAW,
    covariates: bool = False,
) -> dict[str, list]:
    """Sizes over +-0.6 decades about the dense optimum, each at every ratio; noise is that of log loss."""
    draw = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ("activated_params", "total_params", "tokens", "loss")}
    columns |= {"granularity": [], "num_shared_expert": []} if covariates else {}
    scale = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / (law["alpha"] + law["beta"]))
    for flops in budgets:
        best = scale * (flops / 6) ** (law["beta"] / (law["alpha"] + law["beta"]))
        for place in np.linspace(-0.6, 0.6, sizes):
            for ratio in ratios:
                params = best * 10**place
                row = {"activated_params": params, "total_params": params * ratio, "tokens": flops / 6 / params}
                more = (
                    {"granularity": draw.choice([1, 2, 4]), "num_shared_expert": draw.choice([0, 1])}
                    if covariates
                    else {}
                )
                loss = loss_of(params, ratio, row["tokens"], law, *map(float, more.values()))
                row |= {"loss": loss * np.exp(noise * draw.standard_normal())} | more
                for name, value in row.items():
                    columns[name].append(float(value))
    return columns


def study_of(columns: Mapping[str, list], **options) -> SparsityStudy:
    table = Table("mixtures.csv", {name: list(values) for name, values in columns.items()})
    return sparsity_study(table, Options(**{"method": "sparsity", "resamples": 100, **options}))


def said(study: SparsityStudy) -> set[str]:
    return {finding.code for finding in study.findings}
