"""How often the 95% intervals of `hunyuan scale-fit` cover the truth, over simulated studies of many designs.

    python examples/scaling_shape_coverage.py --out runs/coverage --minutes 8 --processes 16     # again to go on
    python examples/scaling_shape_coverage.py --out runs/coverage --summary examples/scaling/shape_coverage.json

Six budgets from 1e18 to 1e21 FLOPs at C = 6 N D on surfaces E + A/N^alpha + B/D^beta, with normal noise. Every set goes
through what the command does, its tests of outliers and of fit included. The truth is the surface's own: the exponent of
N_opt, and N_opt, D_opt and the least loss at 10 and 100 times the last budget. Three groups of cells:

    quadratic   the default, with the report's parabolas beside it in the same document; parabolas have no interval of a loss
    c-min       the same with --c-min, the batch being a fixed share of the critical one, so that the true law is a power
    surface     --method parametric

Sets are counted in blocks of 50, a line of blocks.jsonl each, which a later call leaves out.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from analyses.scaling.fit import scale_fit
from analyses.scaling.laws import Surface
from analyses.scaling.options import Options
from analyses.scaling.parabola import CMin
from analyses.scaling.tables import Table

BUDGETS = np.geomspace(1e18, 1e21, 6)
BEYOND = (10, 100)
BLOCK = 50  # sets


def _corner(alpha: float, beta: float) -> Surface:
    """With the terms of arXiv:2404.10102's surface at 1e9 parameters and 2e10 tokens."""
    return Surface(1.8172, 0.357 * 1e9**alpha, 0.355 * 2e10**beta, alpha, beta)


SURFACES = {
    "0.28/0.34": _corner(0.28, 0.34),
    "0.45/0.25": _corner(0.45, 0.25),
    "0.25/0.45": _corner(0.25, 0.45),
    "Hoffmann et al. 2022, 0.34/0.28": Surface(1.69, 406.4, 410.7, 0.34, 0.28),  # arXiv:2203.15556
    "Besiroglu et al. 2024, 0.35/0.37": Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658),  # arXiv:2404.10102
    "Muennighoff et al. 2023, 0.35/0.35": Surface(1.87, 521.0, 1488.0, 0.353, 0.353),  # arXiv:2305.16264
}
# Decades of the middle of the sizes from the best size, for each budget, and the budget at which it is 0.
LAYOUTS = {
    "about the minima": (0.0, 0.0),
    "through them": (0.08, 2.5),
    "away, larger": (0.08, 0.0),
    "away, smaller": (-0.08, 0.0),
}
QUANTITIES = ("exponent", *(f"{name}_{factor}" for factor in BEYOND for name in ("params", "tokens", "loss")))
TOLD = ("shape_misfit", "lack_of_fit", "power_law_misfit", "shape_fallback", "outlier", "refused")


@dataclass(frozen=True)
class Cell:
    group: str
    surface: str
    sizes: int  # of a budget, over +-0.7 decades
    layout: str
    noise: float  # standard deviation of a loss, nats

    def table(self, generator: np.random.Generator) -> Table:
        surface, (drift, center) = SURFACES[self.surface], LAYOUTS[self.layout]
        flops = np.repeat(BUDGETS, self.sizes)
        middle = np.array([surface.laws()[0](c) for c in BUDGETS]) * 10 ** (drift * (np.arange(len(BUDGETS)) - center))
        params = np.repeat(middle, self.sizes) * 10 ** np.tile(np.linspace(-0.7, 0.7, self.sizes), len(BUDGETS))
        tokens = flops / (6 * params)
        loss = surface.loss(params, tokens) + self.noise * generator.standard_normal(len(flops))
        columns = {"flops": flops, "params": params, "tokens": tokens, "loss": loss}
        if self.group == "c-min":  # B / B_crit is 1, so that C_min is C / 2
            correction, least = CMin(), np.array([_least(surface, c) for c in BUDGETS])
            columns["batch_tokens"] = np.repeat(correction.b_star / least ** (1 / correction.alpha_b), self.sizes)
        return Table("simulated", {name: values.tolist() for name, values in columns.items()})

    @property
    def asked(self) -> tuple[float, ...]:
        return tuple(factor * BUDGETS[-1] / (2 if self.group == "c-min" else 1) for factor in BEYOND)

    def truth(self) -> dict[str, float]:
        surface = SURFACES[self.surface]
        n_opt, found = surface.laws()[0], {"exponent": surface.exponents[0]}
        for factor, asked in zip(BEYOND, self.asked, strict=True):
            params = n_opt(factor * BUDGETS[-1])
            found |= {f"params_{factor}": params, f"tokens_{factor}": asked / (6 * params)}
            found[f"loss_{factor}"] = _least(surface, factor * BUDGETS[-1])
        return found

    def options(self) -> Options:
        return Options(
            method="parametric" if self.group == "surface" else "quadratic",
            c_min=CMin() if self.group == "c-min" else None,
            predict=self.asked,
            resamples=1000 if self.group == "surface" else 100,
        )


def _least(surface: Surface, flops: float) -> float:
    n_opt, d_opt = surface.laws()
    return float(surface.loss(n_opt(flops), d_opt(flops)))


def cells() -> list[Cell]:
    found = [Cell("quadratic", *rest) for rest in product(SURFACES, (5, 9), LAYOUTS, (0.002, 0.005, 0.01))]
    some = list(SURFACES)[:2] + list(SURFACES)[4:5]
    found += [Cell("c-min", *rest) for rest in product(some, (5, 9), LAYOUTS, (0.005, 0.01))]
    few = list(LAYOUTS)[::2]
    return found + [Cell("surface", *rest) for rest in product(some, (5, 9), few, (0.002, 0.01))]


CELLS = cells()


def count(task: tuple[int, int]) -> dict[str, Any]:
    """The sets of a block: how many intervals there are, how many cover and how many lie above the truth, and what was told."""
    number, block = task
    cell, told = CELLS[number], Counter[str]()
    truth, counts, widths = cell.truth(), Counter[str](), dict[str, list[float]]()
    for index in range(BLOCK * block, BLOCK * (block + 1)):
        document = scale_fit(cell.table(np.random.default_rng([2026, number, index])), cell.options()).document
        codes = {warning["code"] for warning in document["warnings"]}
        codes |= {"refused"} if document["n_opt"] is None else set()
        told.update(name for name in TOLD if name in codes)
        for way, part in (("default", document), ("parabola", document.get("parabola"))):
            for name, (low, high) in _intervals(part):
                key, true = f"{way} {name}", truth[name]
                counts.update(
                    {f"{key} sets": 1, f"{key} covered": int(low <= true <= high), f"{key} above": int(true < low)}
                )
                logs = name == "exponent" or name.startswith("loss")
                widths.setdefault(key, []).append(high - low if logs else math.log(high / low))
    middle = {key: float(np.median(values)) for key, values in widths.items()}
    return {"cell": number, "block": block, "told": dict(told), "counts": dict(counts), "widths": middle}


def _intervals(part: dict[str, Any] | None) -> Iterator[tuple[str, list[float]]]:
    if part is None or part["n_opt"] is None:
        return
    yield "exponent", part["n_opt"]["exponent_interval"]
    for factor, row in zip(BEYOND, part["predictions"], strict=False):
        for name in ("params", "tokens", "loss"):
            if row.get(f"{name}_interval") is not None:
                yield f"{name}_{factor}", row[f"{name}_interval"]


def summary(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a cell: for each way and quantity the coverage, its own 95% interval (Clopper and Pearson), and the width."""
    rows = []
    for number, cell in enumerate(CELLS):
        mine = [block for block in blocks if block["cell"] == number]
        if not mine:
            continue
        counts, told = Counter[str](), Counter[str]()
        for block in mine:
            counts.update(block["counts"])
            told.update(block["told"])
        sets = BLOCK * len(mine)
        row: dict[str, Any] = asdict(cell) | {
            "sets": sets,
            "told": {name: round(told[name] / sets, 4) for name in TOLD},
        }
        for way in ("default", "parabola"):
            found = {name: _share(counts, f"{way} {name}", mine) for name in QUANTITIES if counts[f"{way} {name} sets"]}
            row |= {way: found} if found else {}
        rows.append(row)
    return rows


def _share(counts: Counter[str], key: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    sets, covered = counts[f"{key} sets"], counts[f"{key} covered"]
    ends = [_beta(covered, sets - covered + 1, 0.025), _beta(covered + 1, sets - covered, 0.975)]
    width = float(np.median([block["widths"][key] for block in blocks if key in block["widths"]]))
    return {
        "coverage": round(covered / sets, 4), "interval": [round(end, 4) for end in ends],
        "above": round(counts[f"{key} above"] / sets, 4), "sets": sets, "width": float(f"{width:.4g}"),
    }  # fmt: skip


def _beta(a: float, b: float, share: float) -> float:
    from scipy import special

    return float(special.betaincinv(a, b, share)) if min(a, b) > 0 else float(a > 0)


def line(row: dict[str, Any]) -> str:
    parts = [
        f"{row['group']:9} {row['surface'][-9:]} {row['sizes']} sizes {row['layout']:16} {row['noise']:<5g} {row['sets']:5}"
    ]
    for way in ("default", "parabola"):
        if way in row:
            parts.append(way + " " + " ".join(f"{found['coverage']:6.1%}" for found in row[way].values()))
    return " | ".join(parts)


def digest(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each group and way the mean coverage of its figures, the least and the most, and those outside of 92 to 98%."""
    for group, way in product(dict.fromkeys(row["group"] for row in rows), ("default", "parabola")):
        mine = [row for row in rows if row["group"] == group and way in row]
        shares = [found["coverage"] for row in mine for found in row[way].values()]
        if not shares:
            continue
        outside = [
            (row, name) for row in mine for name, found in row[way].items() if not 0.92 <= found["coverage"] <= 0.98
        ]
        yield (
            f"{group}, {way}: {len(mine)} cells, {len(shares)} figures, {min(shares):.1%} to {max(shares):.1%}, mean "
            f"{np.mean(shares):.1%}, {len(outside)} outside of 92 to 98%, in {len({id(row) for row, _ in outside})} cells"
        )
        far = sorted(outside, key=lambda one: -abs(one[0][way][one[1]]["coverage"] - 0.95))
        for row, name in far[:3]:
            yield f"    {line(row).split('|')[0]}{name} {row[way][name]['coverage']:.1%}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder of blocks.jsonl, which a later call goes on with"
    )
    parser.add_argument("--sets", type=int, default=2000, help="simulated studies of each cell")
    parser.add_argument("--groups", nargs="*", default=["quadratic", "c-min", "surface"])
    parser.add_argument("--every", type=int, default=1, help="one cell of so many, to look quickly")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no block later than this")
    parser.add_argument("--summary", type=Path, help="write what there is to this JSON file")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path, until = options.out / "blocks.jsonl", time.monotonic() + 60 * options.minutes
    blocks = _read(path)
    path.write_text(
        "".join(json.dumps(block) + "\n" for block in blocks), encoding="utf-8"
    )  # without a line that was cut off
    done = {(block["cell"], block["block"]) for block in blocks}
    chosen = [number for number, cell in enumerate(CELLS) if cell.group in options.groups][:: options.every]
    tasks = [
        (number, block)
        for block in range(-(-options.sets // BLOCK))
        for number in chosen
        if (number, block) not in done
    ]
    with (
        multiprocessing.Pool(options.processes) if options.processes > 1 else nullcontext() as pool,
        path.open("a", encoding="utf-8") as log,
    ):
        for block in pool.imap_unordered(count, tasks) if pool else map(count, tasks):
            blocks.append(block)
            log.write(json.dumps(block) + "\n")
            log.flush()
            if time.monotonic() > until:  # leaving the pool ends what has begun
                break
    rows = summary(blocks)
    print(*map(line, rows), *digest(rows), sep="\n")
    if options.summary:
        settings = {
            "confidence": 0.95,
            "seed": "numpy.random.default_rng([2026, cell, set])",
            "told": "shares of all sets",
        }
        text = ",\n".join(map(json.dumps, rows))
        options.summary.write_text(f'{{"settings": {json.dumps(settings)},\n"rows": [\n{text}\n]}}\n', encoding="utf-8")


def _read(path: Path) -> list[dict[str, Any]]:
    """The blocks that are whole: the last line may have been cut off."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


if __name__ == "__main__":
    main()
