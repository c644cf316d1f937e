"""How long `hunyuan scale-fit` takes: its bootstraps, the whole command, large tables, and a parametric fit beside a PyPI
package's.

    python examples/scaling_speed.py --chinchilla-python /tmp/venv/bin/python --output examples/scaling/speed.json

The package is chinchilla 0.2.0 in a virtual environment of its own; without that python its part is skipped, and what
--output holds of it stays. It runs BFGS with finite differences in long double from every point of a grid, a process for
each processor. It is given our objective, the mean of Huber's loss (1e-3) of log-loss, and is not timed while it draws its
figure.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from analyses.scaling.bootstrap import case_bootstrap, residual_bootstrap
from analyses.scaling.isoflop import fit_isoflop
from analyses.scaling.runs import clean_runs
from analyses.scaling.surface import Surface, fit_parametric
from analyses.scaling.tables import read_table

TRUTH = Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658)  # arXiv:2404.10102
LARGE = {  # budgets, sizes, seeds, decades to either side of the best size, and the method
    "1,000 rows": (10, 100, 1, 0.7, "both"),
    "1,000 rows over wide sizes": (10, 100, 1, 1.5, "both"),
    "10,000 rows": (20, 500, 1, 0.7, "parametric"),
    "100,000 rows, 100 seeds": (10, 100, 100, 0.7, "quadratic"),
}
GRIDS = (2, 5)  # the package's README starts from 5 points a parameter, 3,125 in all; 2 make 32
PEER = """
import functools, importlib.metadata, json, sys, time
import numpy as np
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
folder, points = sys.argv[1], int(sys.argv[2])
ends = dict(E=(1, 2), a=(1, 10), b=(1, 10), alpha=(0.1, 0.7), beta=(0.1, 0.7))
grid = {name: np.linspace(*values, points) for name, values in ends.items()}
model = Chinchilla(folder, param_grid=grid, loss_fn=functools.partial(log_huber, delta=1e-3), log_level=50)
model.visualizer.optim = lambda *args, **kwargs: None
began = time.perf_counter()
model.fit()
found = {"starts": points**5, "seconds": time.perf_counter() - began, "surface": model.params}
print(json.dumps(found | {name: importlib.metadata.version(name) for name in ("chinchilla", "numpy", "scipy")}))
"""


def study(budgets: int, sizes: int, path: Path, seeds: int = 1, half: float = 0.7, noise: float = 0.01) -> np.ndarray:
    """Rows C, N, D, loss over +-half decades about each budget's best size, with noise in nats; written to path."""
    flops = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes * seeds)
    best = (TRUTH.alpha * TRUTH.A / (TRUTH.beta * TRUTH.B)) ** (1 / (TRUTH.alpha + TRUTH.beta))
    params = (
        best
        * (flops / 6) ** TRUTH.exponents[0]
        * 10 ** np.tile(np.repeat(np.linspace(-half, half, sizes), seeds), budgets)
    )
    loss = TRUTH.loss(params, flops / (6 * params)) + noise * np.random.default_rng(0).standard_normal(len(flops))
    table = np.stack([flops, params, flops / (6 * params), loss], axis=1)
    np.savetxt(path, table, delimiter=",", fmt="%.17g", header="C,N,D,loss", comments="")
    return table


def median(work: Callable[..., Any], repeats: int, *arguments: Any) -> float:
    """Seconds, after a first call that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work(*arguments)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def command(runs: Path, resamples: int, repeats: int) -> dict[str, Any]:
    """The bootstraps in this process; then whole processes, which share nothing but the disk's cache."""
    study(10, 10, runs)
    row: dict[str, Any] = {"runs": 100, "resamples": resamples, "repeats": repeats}
    usable = fit_isoflop(clean_runs(read_table(runs))[0]).usable
    for name, way in (("residual", residual_bootstrap), ("case", case_bootstrap)):
        draw = lambda f: f(usable, resamples, np.random.default_rng(0)).law("params")  # noqa: E731
        row[f"{name}_bootstrap_seconds"] = median(draw, repeats, way)
    lines = {"scale_fit": [str(Path(sys.executable).with_name("hunyuan")), "scale-fit", str(runs)]}
    lines["numpy_and_scipy_special"] = [sys.executable, "-c", "import numpy, scipy.special"]
    row["status"] = subprocess.run(lines["scale_fit"], capture_output=True).returncode  # 3: something was left out
    call = lambda line: subprocess.run(line, capture_output=True)  # noqa: E731
    for name, line in lines.items():
        before = os.times()
        row[f"{name}_seconds"] = median(call, repeats, line)
        spent = [now - then for now, then in zip(os.times(), before, strict=True)]
        row[f"{name}_processor_seconds"] = (spent[2] + spent[3]) / (repeats + 1)  # of children; load hardly changes it
    return row


def large(folder: Path) -> dict[str, Any]:
    """Processor seconds of the whole command on one core, for tables of many rows with noise of 0.002 nats."""
    rows = {}
    for name, (budgets, sizes, seeds, half, method) in LARGE.items():
        study(budgets, sizes, folder / "large.csv", seeds, half, noise=0.002)
        line = [str(Path(sys.executable).with_name("hunyuan")), "scale-fit", str(folder / "large.csv")]
        before = os.times()
        status = subprocess.run([*line, "--method", method], capture_output=True).returncode
        spent = [now - then for now, then in zip(os.times(), before, strict=True)]
        rows[name] = {"method": method, "processor_seconds": spent[2] + spent[3], "status": status}
    return rows


def parametric(chinchilla: Path | None, runs: Path, repeats: int) -> dict[str, Any]:
    """The same 240 runs fitted by us and by the package; objectives are means over runs, all computed here."""
    _, params, tokens, loss = study(8, 30, runs).T

    def row(surface: Surface, **more: Any) -> dict[str, Any]:
        r = np.abs(np.log(surface.loss(params, tokens)) - np.log(loss))
        objective = float(np.where(r < 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).mean())
        return {"objective": objective, "n_opt_exponent": surface.exponents[0], "surface": vars(surface)} | more

    ours = lambda: fit_parametric(params, tokens, loss, generator=np.random.default_rng(0), starts=20, delta=1e-3)  # noqa: E731
    law = lambda: fit_isoflop(clean_runs(read_table(runs))[0]).params_law  # noqa: E731
    rows: dict[str, Any] = {"runs": len(loss), "true": row(TRUTH)}
    rows["quadratic"] = {
        "n_opt_exponent": getattr(law(), "exponent", None),
        "seconds_with_the_file": median(law, repeats),
    }
    rows["ours"] = row(ours().surface, starts=20, seconds=median(ours, repeats))
    if chinchilla is None:
        print("The package chinchilla was left out: give its python with --chinchilla-python.", file=sys.stderr)
        return rows
    for points in GRIDS:
        line = [str(chinchilla), "-c", PEER, str(runs.parent), str(points)]
        found = json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)
        rows[f"chinchilla, {found['starts']} starts"] = row(Surface(**found.pop("surface")), **found)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chinchilla-python", type=Path, help="of the environment that has the package chinchilla")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    parser.add_argument(
        "--large", action=argparse.BooleanOptionalAction, default=True, help="tables of up to 100,000 rows"
    )
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"processors": os.cpu_count(), "load_average": os.getloadavg()}
    found |= {"python": sys.version.split()[0]} | {name: version(name) for name in ("numpy", "scipy")}
    with tempfile.TemporaryDirectory() as folder:
        found["command"] = command(Path(folder) / "runs.csv", options.resamples, options.repeats)
        if options.large:
            found["large"] = large(Path(folder))
        found["parametric"] = parametric(options.chinchilla_python, Path(folder) / "df.csv", options.repeats)
    if options.chinchilla_python is None and options.output and options.output.exists():
        before = json.loads(options.output.read_text())["parametric"]
        found["parametric"] |= {name: row for name, row in before.items() if name.startswith("chinchilla")}
    print(json.dumps(found, indent=2))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
