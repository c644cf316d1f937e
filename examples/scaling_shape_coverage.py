"""How often the 95% intervals of `hunyuan scale-fit --shape shared` and `--shape parabola` cover the truth.

    python examples/scaling_shape_coverage.py --cells 24 --output examples/scaling/shape_coverage.json

Six budgets from 1e18 to 1e21 FLOPs at C = 6 N D on surfaces E + A/N^alpha + B/D^beta, with normal noise. Every set goes
through what the command does, its tests of outliers included. The truth is the surface's own: the exponent of N_opt, and
N_opt, D_opt and the least loss at 10 and 100 times the last budget. Parabolas have no interval of the loss.
"""

import argparse
import json
import multiprocessing
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from analyses.scaling.fit import scale_fit
from analyses.scaling.laws import Surface
from analyses.scaling.options import Options
from analyses.scaling.tables import Table

BUDGETS = np.geomspace(1e18, 1e21, 6)
BEYOND = (10, 100)
SURFACES = ((0.3478, 0.3658), (0.28, 0.34), (0.34, 0.28), (0.45, 0.25))
DRIFTS = (0.0, 0.08, -0.08)  # decades of the sizes' centre from the minima, for each budget: none, away, the other way
QUANTITIES = ("exponent", *(f"{name}_{factor}" for factor in BEYOND for name in ("params", "tokens", "loss")))
SHAPES = ("shared", "parabola")


@dataclass(frozen=True)
class Cell:
    """Sizes over +-0.7 decades about the best one plus the drift."""

    alpha: float
    beta: float
    sizes: int
    drift: float
    noise: float

    @property
    def surface(self) -> Surface:
        """With the terms of arXiv:2404.10102's surface at 1e9 parameters and 2e10 tokens."""
        return Surface(1.8172, 0.357 * 1e9**self.alpha, 0.355 * 2e10**self.beta, self.alpha, self.beta)


CELLS = [Cell(*surface, sizes, drift, noise)
         for surface, sizes, drift, noise in product(SURFACES, (5, 9), DRIFTS, (0.002, 0.01))]  # fmt: skip


def simulated(cell: Cell, generator: np.random.Generator) -> Table:
    flops = np.repeat(BUDGETS, cell.sizes)
    best = np.array([cell.surface.laws()[0](c) for c in BUDGETS])
    centre = best * 10 ** (cell.drift * np.arange(len(BUDGETS)))
    params = np.repeat(centre, cell.sizes) * 10 ** np.tile(np.linspace(-0.7, 0.7, cell.sizes), len(BUDGETS))
    loss = cell.surface.loss(params, flops / (6 * params)) + cell.noise * generator.standard_normal(len(flops))
    columns = {"flops": flops, "params": params, "tokens": flops / (6 * params), "loss": loss}
    return Table("simulated", {name: values.tolist() for name, values in columns.items()})


def truths(cell: Cell) -> dict[str, float]:
    n_opt, d_opt = cell.surface.laws()
    found = {"exponent": n_opt.exponent}
    for factor in BEYOND:
        params, tokens = n_opt(factor * BUDGETS[-1]), d_opt(factor * BUDGETS[-1])
        found |= {f"params_{factor}": params, f"tokens_{factor}": tokens}
        found[f"loss_{factor}"] = cell.surface.loss(params, tokens)
    return found


def intervals(document: dict[str, Any]) -> dict[str, list[float] | None]:
    found = {"exponent": document["n_opt"]["exponent_interval"]}
    for factor, row in zip(BEYOND, document["predictions"], strict=True):
        found |= {f"{name}_{factor}": row.get(f"{name}_interval") for name in ("params", "tokens", "loss")}
    return found


def simulate(task: tuple[int, int]) -> dict[str, Any]:
    """One cell: for each shape and quantity the coverage and mean width over its sets (of logs, but for exponent and loss)."""
    number, sets = task
    cell = CELLS[number]
    true = truths(cell)
    rows: dict[str, list[Any]] = {shape: [] for shape in SHAPES}
    told = dict.fromkeys(("fallback", "shape_misfit", "lack_of_fit", "refused"), 0)
    for index in range(sets):
        table = simulated(cell, np.random.default_rng([number, index]))
        codes: set[str] = set()
        for shape in SHAPES:
            options = Options(shape=shape, predict=tuple(factor * BUDGETS[-1] for factor in BEYOND), resamples=100)
            document = scale_fit(table, options).document
            codes |= {warning["code"] for warning in document["warnings"]}
            if document["n_opt"] is None:
                told["refused"] += 1
                continue
            rows[shape].append(intervals(document))
        told["fallback"] += "shape_fallback" in codes
        told["shape_misfit"] += "shape_misfit" in codes
        told["lack_of_fit"] += "lack_of_fit" in codes
    out: dict[str, Any] = asdict(cell) | {"truth": true, "told": {name: count / sets for name, count in told.items()}}
    for shape in SHAPES:
        out[shape] = {}
        for name in QUANTITIES:
            ends = np.array([row[name] for row in rows[shape] if row[name] is not None]).reshape(-1, 2)
            if not len(ends):
                continue
            hits = (ends[:, 0] <= true[name]) & (true[name] <= ends[:, 1])
            width = np.diff(ends if name == "exponent" or "loss" in name else np.log(ends), axis=1)
            out[shape][name] = {"coverage": float(hits.mean()), "width": float(np.median(width)), "sets": len(ends)}
    return out


def line(row: dict[str, Any]) -> str:
    parts = [
        f"{row['alpha']:.2f}/{row['beta']:.2f} {row['sizes']} sizes drift {row['drift']:+.2f} noise {row['noise']:<5g}"
    ]
    for shape in SHAPES:
        parts.append(shape + " " + " ".join(f"{found['coverage']:6.1%}" for found in row[shape].values()))
    return " | ".join(
        (*parts, f"widths {row['shared']['exponent']['width'] / row['parabola']['exponent']['width']:.2f}")
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200, help="simulated studies of each cell")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many, taken at random")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file")
    options = parser.parse_args(arguments)
    chosen = sorted(np.random.default_rng(0).permutation(len(CELLS))[: options.cells].tolist())
    with multiprocessing.Pool(options.processes) as pool:
        rows = []
        for row in pool.imap(simulate, [(number, options.sets) for number in chosen]):
            print(line(row), flush=True)
            rows.append(row)
    if options.output:
        settings = {"sets": options.sets, "confidence": 0.95, "seed": "numpy.random.default_rng([cell, set])"}
        text = ",\n".join(map(json.dumps, rows))
        options.output.write_text(f'{{"settings": {json.dumps(settings)},\n"rows": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
