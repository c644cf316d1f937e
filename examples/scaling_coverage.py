"""How often the 95% intervals of `hunyuan scale-fit --shape parabola` cover the true exponent, over simulated studies.

    python examples/scaling_coverage.py --output examples/scaling/coverage.json

Six budgets from 1e18 to 1e21 FLOPs at C = 6 N D on the surface E + A/N^alpha + B/D^beta, or on parabolas with its minima
and curvatures, with normal noise. Every set goes through what the command does: clean_runs, fit_isoflop with its tests of
outliers and of fit, the intervals. The truth is the line through the true minima (with --c-min at their C_min).
"""

import argparse
import json
import multiprocessing
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from analyses.scaling.bootstrap import case_bootstrap, percentiles, residual_bootstrap
from analyses.scaling.isoflop import IsoflopFit, fit_isoflop, law_document
from analyses.scaling.parabola import CMin
from analyses.scaling.runs import clean_runs
from analyses.scaling.tables import Table

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658  # arXiv:2404.10102
BUDGETS = np.geomspace(1e18, 1e21, 6)
NOISES = (0.002, 0.005, 0.01, 0.02)  # standard deviation of a loss, nats
WAYS = ("delta", "residual", "case")
SHARES = ("outliers_removed", "budgets_left_out", "refused", "lack_of_fit", "minima_scatter")


@dataclass(frozen=True)
class Cell:
    """Sizes over +-half decades about the best one, plus drift decades for each budget after number `centred`."""

    design: str
    sizes: int
    half: float
    drift: float = 0.0
    centred: float = 0.0
    losses: str = "surface"  # or "parabolas"
    c_min: bool = False
    noise: float = 0.0


DESIGNS = (
    Cell("9 sizes, +-0.7", 9, 0.7),
    Cell("drifting out", 9, 0.7, 0.08),
    Cell("drifting through", 9, 0.7, 0.08, 2.5),
    Cell("5 sizes, +-0.7", 5, 0.7),
    Cell("9 sizes, +-1.5", 9, 1.5),
)
CELLS = [replace(one, losses=losses, noise=noise)
         for one, losses, noise in product(DESIGNS, ("surface", "parabolas"), NOISES)]  # fmt: skip
CELLS += [replace(one, noise=noise, c_min=True) for one, noise in product(DESIGNS, NOISES[1:3])]


def simulated(cell: Cell, generator: np.random.Generator) -> Table:
    """A table of runs as a study would write it; the batch rises as the cube root of the budget, from 5e5 tokens."""
    flops = np.repeat(BUDGETS, cell.sizes)
    shift = np.repeat(cell.drift * (np.arange(len(BUDGETS)) - cell.centred), cell.sizes)
    best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (flops / 6) ** (BETA / (ALPHA + BETA))
    params = best * 10 ** (shift + np.tile(np.linspace(-cell.half, cell.half, cell.sizes), len(BUDGETS)))
    at = params if cell.losses == "surface" else best
    of_params, of_tokens = A / at**ALPHA, B / (flops / (6 * at)) ** BETA
    loss = E + of_params + of_tokens + cell.noise * generator.standard_normal(len(flops))
    loss += (ALPHA**2 * of_params + BETA**2 * of_tokens) / 2 * np.log(params / at) ** 2
    batch = 5e5 * (flops / BUDGETS[0]) ** (1 / 3)
    columns = {"flops": flops, "params": params, "tokens": flops / (6 * params), "loss": loss, "batch_tokens": batch}
    return Table("simulated", {name: values.tolist() for name, values in columns.items()})


def fitted(cell: Cell, generator: np.random.Generator) -> IsoflopFit:
    return fit_isoflop(clean_runs(simulated(cell, generator))[0], c_min=CMin() if cell.c_min else None)


def simulate(task: tuple[int, range, int]) -> list[dict[str, Any]]:
    """One row a set: the exponent, its interval by way, and what the fit warned of."""
    number, sets, resamples = task
    rows = []
    for index in sets:
        generator = np.random.default_rng([number, index])
        fit = fitted(CELLS[number], generator)
        codes = {finding.code for finding in fit.findings}
        row: dict[str, Any] = {
            "outliers_removed": fit.outliers > 0, "budgets_left_out": len(fit.usable) < len(fit.budgets),
            "refused": fit.params_law is None, "lack_of_fit": "lack_of_fit" in codes,
            "minima_scatter": "power_law_misfit" in codes,
        }  # fmt: skip
        if fit.params_law is not None:
            document = law_document(fit.params_law, 0.95)
            row |= {"exponent": document["exponent"], "delta": document["exponent_interval"]}
            for way, bootstrap in (("residual", residual_bootstrap), ("case", case_bootstrap)):
                row[way] = percentiles(bootstrap(fit.usable, resamples, generator).law("params")[0], 0.95)
        rows.append(row)
    return rows


def summary(cell: Cell, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of all sets; coverage and mean width over those with a law. An interval that is missing covers nothing."""
    quiet = replace(cell, noise=0.0), np.random.default_rng(0)
    true, own = fitted(replace(quiet[0], losses="parabolas"), quiet[1]).params_law, fitted(*quiet).params_law
    assert true is not None and own is not None
    out = asdict(cell) | {"truth": true.exponent, "bias": own.exponent - true.exponent}  # of the design, without noise
    laws = [row for row in rows if not row["refused"]]
    out["standard_deviation"] = float(np.std([row["exponent"] for row in laws]))
    for way in WAYS:
        low, high = np.array([row[way] for row in laws]).reshape(-1, 2).T
        covered = (low <= true.exponent) & (true.exponent <= high)
        out[way] = {"coverage": float(covered.mean()), "width": float(np.nanmean(high - low))}
    return out | {name: sum(row[name] for row in rows) / len(rows) for name in SHARES}


def line(row: dict[str, Any]) -> str:
    coverage = " ".join(f"{row[way]['coverage']:8.2%}" for way in WAYS)
    shares = " ".join(f"{row[name]:7.1%}" for name in SHARES)
    losses, width = "C_min" if row["c_min"] else row["losses"], f"{row['delta']['width']:7.4f} {row['bias']:+8.4f}"
    return f"{row['design']:17}{losses:10}{row['noise']:<6g}{coverage} {width} {shares}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="simulated studies of each cell")
    parser.add_argument("--resamples", type=int, default=400, help="of each bootstrap; the command's default is 2000")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file")
    options = parser.parse_args(arguments)
    began, tasks = time.perf_counter(), [(i, range(options.sets), options.resamples) for i in range(len(CELLS))]
    with multiprocessing.Pool(options.processes) if options.processes > 1 else nullcontext() as pool:
        results = list(pool.imap(simulate, tasks) if pool else map(simulate, tasks))
    rows = [summary(cell, found) for cell, found in zip(CELLS, results, strict=True)]
    print("design, losses, noise", *(f"{way} coverage" for way in WAYS), "delta width, bias", *SHARES, sep=", ")
    print(*map(line, rows), sep="\n")
    settings = {
        "sets": options.sets, "resamples": options.resamples, "confidence": 0.95, "budgets": BUDGETS.tolist(),
        "surface": {"E": E, "A": A, "B": B, "alpha": ALPHA, "beta": BETA}, "batch_tokens": "5e5 (C / 1e18)^(1/3)",
        "seed": "numpy.random.default_rng([index of the row, index of the set])", "numpy": np.__version__,
        "processes": options.processes, "seconds": round(time.perf_counter() - began),
    }  # fmt: skip
    if options.output:
        text = ",\n".join(map(json.dumps, rows))
        options.output.write_text(f'{{"settings": {json.dumps(settings)},\n"rows": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
