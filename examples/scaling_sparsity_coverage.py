"""How often the 95% intervals of `hunyuan scale-fit --method sparsity` cover the truth.

    python examples/scaling_sparsity_coverage.py --sets 100 --output examples/scaling/sparsity_coverage.json

Mixtures on a surface E + A/(N^alpha R^gamma) + B/D^beta at C = 6 N D, with normal noise in the log of the loss. Every set
goes through what the command does. The truths are the exponents, the exponent of N_opt, and N_opt, D_opt and the least loss
at 10 times the last budget under a memory that binds.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.scaling.laws import Surface
from analyses.scaling.options import Options
from analyses.scaling.sparsity.study import sparsity_study
from analyses.scaling.surface import optimum
from analyses.scaling.tables import Table

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658  # arXiv:2404.10102
QUANTITIES = ("alpha", "beta", "gamma", "n_opt", "params", "tokens", "loss")


@dataclass(frozen=True)
class Cell:
    """Budgets of FLOPs, sizes over +-0.6 decades about the best dense one, each at every ratio."""

    budgets: tuple[float, ...]
    sizes: int
    ratios: tuple[float, ...]
    gamma: float
    noise: float


FEW, MANY = (1e19, 1e20, 1e21), (1e18, 1e19, 1e20, 1e21)
CELLS = [
    Cell(FEW, 4, (1, 8), 0.1, 0.004), Cell(FEW, 5, (1, 4, 16), 0.05, 0.01), Cell(MANY, 5, (1, 4, 16), 0.1, 0.002),
    Cell(MANY, 5, (1, 4, 16), 0.1, 0.01), Cell(MANY, 7, (1, 4, 16, 64), 0.15, 0.004),
    Cell((1e18, 1e21), 7, (1, 4, 16, 64), 0.1, 0.004),
]  # fmt: skip


def simulated(cell: Cell, generator: np.random.Generator) -> Table:
    places = 10 ** np.linspace(-0.6, 0.6, cell.sizes)
    best = [Surface(E, A, B, ALPHA, BETA).laws()[0](flops) for flops in cell.budgets]
    grid = [(flops, size * place, ratio) for flops, size in zip(cell.budgets, best, strict=True)
            for place in places for ratio in cell.ratios]  # fmt: skip
    flops, params, ratio = np.array(grid).T
    tokens = flops / 6 / params
    loss = E + A / params**ALPHA / ratio**cell.gamma + B / tokens**BETA
    loss = loss * np.exp(cell.noise * generator.standard_normal(len(loss)))
    columns = {"activated_params": params, "total_params": params * ratio, "tokens": tokens, "loss": loss}
    return Table("simulated", {name: values.tolist() for name, values in columns.items()})


def truths(cell: Cell, flops: float, memory: float) -> dict[str, float]:
    params, tokens = optimum(Surface(E, A / memory**cell.gamma, B, ALPHA - cell.gamma, BETA), flops, (6.0, 0.0))
    loss = E + A * params ** (cell.gamma - ALPHA) / memory**cell.gamma + B / tokens**BETA
    found = {"alpha": ALPHA, "beta": BETA, "gamma": cell.gamma, "n_opt": BETA / (ALPHA + BETA)}
    return found | {"params": float(params), "tokens": float(tokens), "loss": float(loss)}


def simulate(number: int, sets: int) -> dict[str, Any]:
    """One cell: for each quantity the coverage and the median width (relative, of params, tokens and loss)."""
    cell = CELLS[number]
    flops = 10 * cell.budgets[-1]
    memory = 3 * Surface(E, A, B, ALPHA, BETA).laws()[0](flops)
    true = truths(cell, flops, memory)
    rows = []
    for index in range(sets):
        table = simulated(cell, np.random.default_rng([number, index]))
        options = Options(method="sparsity", predict=(flops,), memory=memory, resamples=300, seed=index)
        document = sparsity_study(table, options).document
        (row,) = document["predictions"]
        ends = {name: document["sparsity"]["intervals"][name] for name in ("alpha", "beta", "gamma")}
        ends |= {"n_opt": document["n_opt"]["exponent_interval"]}
        rows.append(ends | {name: row[f"{name}_interval"] for name in ("params", "tokens", "loss")})
    out = asdict(cell) | {"truth": true, "sets": sets, "coverage": {}, "width": {}}
    for name in QUANTITIES:
        low, high = np.array([row[name] for row in rows]).T
        out["coverage"][name] = float(np.mean((low <= true[name]) & (true[name] <= high)))
        relative = true[name] if name in ("params", "tokens", "loss") else 1.0
        out["width"][name] = float(np.median(high - low)) / relative
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100, help="simulated studies of each cell")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many")
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file")
    options = parser.parse_args(arguments)
    rows = []
    for number in range(options.cells):
        rows.append(simulate(number, options.sets))
        shown = " ".join(f"{name} {share:.0%}" for name, share in rows[-1]["coverage"].items())
        print(f"cell {number + 1}: {shown}", flush=True)
        if options.output:  # after every cell, so that what is done stays
            text = ",\n".join(map(json.dumps, rows))
            settings = {"confidence": 0.95, "seed": "numpy.random.default_rng([cell, set])"}
            options.output.write_text(f'{{"settings": {json.dumps(settings)},\n"rows": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
