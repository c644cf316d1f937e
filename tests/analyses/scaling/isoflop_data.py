"""Studies made up for the tests of scale-fit: exact parabolas, a loss surface, noise, and files of every kind of damage."""

import json
import random
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np

from analyses.scaling.fit import ScaleFit, scale_fit
from analyses.scaling.isoflop import IsoflopFit, fit_isoflop
from analyses.scaling.options import Options
from analyses.scaling.runs import Runs, clean_runs
from analyses.scaling.tables import Table

CHINCHILLA = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}  # arXiv:2404.10102
Columns = dict[str, list]


def study(
    *,
    budgets: Sequence[float] = tuple(np.logspace(18, 21, 5).tolist()),
    sizes: int = 7,
    reach: float = 1.0,
    coefficient: float = 0.1,
    exponent: float = 0.5,
    curvature: float = 0.05,
    noise: float = 0.0,
    seed: int = 0,
    off_center: float = 0.2,
    skew: float = 1.0,
    k1: float = 6.0,
    k2: float = 0.0,
    replicates: int = 1,
) -> Columns:
    """Losses least + curvature (log N - log N_opt)^2 with N_opt a power law; sizes within exp(+-reach) of about it."""
    draw = np.random.default_rng(seed)
    columns: Columns = {"flops": [], "params": [], "tokens": [], "loss": []}
    for index, flops in enumerate(budgets):
        best = np.log(coefficient) + exponent * np.log(flops)
        spread = 2 * np.linspace(0, 1, sizes) ** skew - 1  # evenly in log N for skew 1
        at = best + np.repeat(reach * spread + off_center * reach * (-1) ** index, replicates)
        loss = 1.8 + 30 * flops**-0.1 + curvature * (at - best) ** 2 + noise * draw.normal(size=len(at))
        columns["flops"] += [flops] * len(at)
        columns["params"] += np.exp(at).tolist()
        columns["tokens"] += (flops / (k1 * np.exp(at) + k2)).tolist()
        columns["loss"] += loss.tolist()
    return columns


def surface_study(
    *, budgets: int = 5, sizes: int = 9, decades: float = 1.5, noise: float = 0.0, seed: int = 0
) -> Columns:
    """Chinchilla's surface on a grid of sizes within +-decades of the best, at 6 N D = C."""
    e, a, b, alpha, beta = CHINCHILLA.values()
    draw = np.random.default_rng(seed)
    columns: Columns = {"flops": [], "params": [], "tokens": [], "loss": []}
    scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    for flops in np.logspace(18.5, 21.5, budgets).tolist():
        best = scale * (flops / 6) ** (beta / (alpha + beta))
        params = best * 10 ** np.linspace(-decades, decades, sizes)
        tokens = flops / 6 / params
        loss = e + a / params**alpha + b / tokens**beta + noise * draw.normal(size=sizes)
        for name, values in zip(
            columns, ([flops] * sizes, params.tolist(), tokens.tolist(), loss.tolist()), strict=True
        ):
            columns[name] += values
    return columns


def shuffled(columns: Mapping[str, list], seed: int) -> Columns:
    order = np.random.default_rng(seed).permutation(len(columns["loss"]))
    return {name: [values[index] for index in order] for name, values in columns.items()}


def table(columns: Mapping[str, list]) -> Table:
    return Table("runs.csv", {name: list(values) for name, values in columns.items()})


def runs_of(study: Mapping[str, list], **options) -> Runs:
    return clean_runs(table(study), **options)[0]


def fit_of(columns: Mapping[str, list], *, c_min=None, keep_outliers: bool = True, **options) -> IsoflopFit:
    return fit_isoflop(runs_of(columns, **options), c_min=c_min, keep_outliers=keep_outliers)


def result_of(study: Mapping[str, list], **options) -> ScaleFit:
    return scale_fit(table(study), Options(**{"resamples": 100, **options}))


def codes(found: ScaleFit | IsoflopFit) -> list[str]:
    return [finding.code for finding in found.findings]


def csv_text(columns: Mapping[str, list], separator: str = ",") -> str:
    rows = zip(*columns.values(), strict=True)
    lines = [list(columns), *([cell if isinstance(cell, str) else repr(cell) for cell in row] for row in rows)]
    return "\n".join(separator.join(line) for line in lines) + "\n"


def write_csv(path: Path, columns: Mapping[str, list]) -> Path:
    path.write_text(csv_text(columns), encoding="utf-8")
    return path


def rows_of(columns: Mapping[str, list]) -> list[dict]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# --- the same fit in exact arithmetic: textbook normal equations in powers of log N, 120 digits ---------------------------


def least_squares(columns: Sequence[Sequence[Decimal]], target: Sequence[Decimal]) -> list[Decimal]:
    """Gauss's elimination on the normal equations."""
    size = len(columns)
    rows = [[sum(a * b for a, b in zip(left, right, strict=True)) for right in (*columns, target)] for left in columns]
    for i in range(size):
        pivot = max(range(i, size), key=lambda row: abs(rows[row][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for j in range(i + 1, size):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [b - factor * a for a, b in zip(rows[i], rows[j], strict=True)]
    answer = [Decimal(0)] * size
    for i in reversed(range(size)):
        answer[i] = (rows[i][size] - sum(rows[i][j] * answer[j] for j in range(i + 1, size))) / rows[i][i]
    return answer


def exact_budgets(
    runs: Runs, *, c_min: tuple[float, float] | None = None, own: bool = True
) -> list[dict[str, Decimal]]:
    """Of every budget: x, y, z (logs of compute, N_opt, D_opt), least loss and curvature, from its runs as they are."""
    found = []
    for number in sorted(set(runs.budget.tolist())):
        one = runs.keep(runs.budget == number)
        columns = (one.flops, one.params, one.tokens, one.loss, one.batch_tokens)
        flops, params, tokens, loss, batch = ([Decimal(value) for value in column.tolist()] for column in columns)
        logs = [value.ln() for value in params]
        powers = [[value**power for value in logs] for power in (0, 1, 2)]
        c, b, a = least_squares(powers, loss)
        y, least = -b / (2 * a), c - b * b / (4 * a)
        log_flops = sum(value.ln() for value in flops) / len(flops)
        x = log_flops
        if c_min is not None:
            b_star, alpha_b = map(Decimal, c_min)
            mean_batch = (sum(value.ln() for value in batch) / len(batch)).exp()
            x -= (1 + mean_batch / b_star * (least.ln() / alpha_b).exp()).ln()
        if own:
            budget_tokens = [d.ln() + log_flops - f.ln() for d, f in zip(tokens, flops, strict=True)]
            q0, q1, q2 = least_squares(powers, budget_tokens)
            z = q0 + q1 * y + q2 * y * y + x - log_flops
        else:
            z = x - (Decimal(runs.cost.k1) * y.exp() + Decimal(runs.cost.k2)).ln()
        found.append({"x": x, "y": y, "z": z, "loss": least, "curvature": a})
    return found


def exact_law(budgets: Sequence[Mapping[str, Decimal]], of: str) -> tuple[Decimal, Decimal]:
    """Coefficient and exponent through the budgets."""
    x = [budget["x"] for budget in budgets]
    level, exponent = least_squares([[Decimal(1)] * len(x), x], [budget[of] for budget in budgets])
    return level.exp(), exponent


def digits():
    """A context of 120 digits, of which the normal equations of sizes within 1% lose about 40."""
    return localcontext(prec=120)


# --- damaged files ---------------------------------------------------------------------------------------------------

NASTY = [
    "", " ", "nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e308", "-1e308", "1e309", "5e-324", "1e-308", "0",
    "-0.0", "-1", "-2.5",
    "1e99", "1e-99", "1e101", "abc", "1,5", "1_000", "0x10", "١٢٣", "½", "NULL", "None", "true", "'", '"', '""',
    '"a', "1" * 400, "1e18 ",
    "=1+1", "\u2028", "\x00", "\x0c", "é", "😀", "1e18FLOPs", "[1]", "{}", "3.2;4", "\t", "#", "1e200", "1e-200",
    "2", "3.3",
]  # fmt: skip
NASTY_JSON = [
    None, True, False, [], [1, 2], {}, {"a": [1]}, float("nan"), float("inf"), -float("inf"), 10**400, -1, 0, 1e308,
    5e-324, "1e18", "x", "",
    [[[]]], 3, 1e99, 1e-99, {"flops": 1}, "\ud800", 2**63, -(2**70), 1e200,
]  # fmt: skip


def damaged_file(folder: Path, seed: int) -> Path:
    """A file that is no clean table of runs, of one of many kinds; some can be read in part."""
    draw = random.Random(seed)
    good = study(
        budgets=[10 ** draw.uniform(4, 24) for _ in range(draw.choice([1, 2, 3, 4, 5, 5, 5]))],
        sizes=draw.choice([3, 5, 6, 7, 7]),
        reach=10 ** draw.uniform(-3, 1),
        noise=draw.choice([0.0, 1e-3, 0.1]),
        curvature=draw.choice([0.05, 0.05, 0.05, 0.05, 1e-6, -0.05, 3.0]),
        seed=seed,
    )
    if draw.random() < 0.3:
        good["batch_tokens"] = [draw.choice([1e6, 2e6]) for _ in good["loss"]]
    if draw.random() < 0.2:
        del good[draw.choice(["flops", "params", "tokens"])]
    kinds = (
        *(_bytes, _truncated, _flipped, _cells, _all_cells, _json_cells, _json_nested, _json_lines, _header, _huge),
        *(_losses, _alike, _dialect, _columns, _parquet),
    )
    content, suffix = draw.choice(kinds)(draw, good)
    path = folder / f"{seed}{draw.choice(['.csv', '.txt', '.json', '.jsonl']) if draw.random() < 0.05 else suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def _bytes(draw, good):
    return draw.randbytes(draw.choice([0, 1, 7, 300])), draw.choice([".csv", ".json", ".parquet"])


def _truncated(draw, good):
    text = csv_text(good) if draw.random() < 0.5 else json.dumps(rows_of(good))
    return text[: draw.randrange(len(text))], ".csv" if text[0] != "[" else ".json"


def _flipped(draw, good):
    content = bytearray(csv_text(good).encode())
    for _ in range(draw.choice([1, 5, 50])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(7)
    return bytes(content), ".csv"


def _cells(draw, good):
    for _ in range(draw.choice([1, 3, 10])):
        values = good[draw.choice(list(good))]
        values[draw.randrange(len(values))] = draw.choice(NASTY)
    return csv_text(good), ".csv"


def _all_cells(draw, good):
    return csv_text({name: [draw.choice(NASTY) for _ in values] for name, values in good.items()}), ".csv"


def _json_cells(draw, good):
    for _ in range(draw.choice([1, 3, 30])):
        values = good[draw.choice(list(good))]
        values[draw.randrange(len(values))] = draw.choice(NASTY_JSON)
    return json.dumps(draw.choice([good, rows_of(good), {"runs": rows_of(good)}])), ".json"


def _json_nested(draw, good):
    content = rows_of(good)[: draw.choice([0, 1, 5])]
    for _ in range(draw.randrange(4)):
        content = draw.choice([[content], {"a": content}, [content, 1], {"flops": content, "loss": 1}])
    return draw.choice(
        [json.dumps(content), "[" * draw.choice([10, 100_000]), '{"a":' * 2000, "null", "3", '""', "{}", "[]"]
    ), ".json"


def _json_lines(draw, good):
    lines = [json.dumps(row) for row in rows_of(good)]
    for _ in range(draw.choice([0, 1, 5])):
        lines.insert(
            draw.randrange(len(lines)),
            draw.choice(["", "{", "[]", "null", "1", '{"loss": 3}', '{"flops": {}}', "\x00", "//"]),
        )
    return draw.choice(["\n", "\r\n", "\n\n"]).join(lines), ".jsonl"


def _header(draw, good):
    names = [draw.choice([*good, *NASTY, "N", "D", "budget", "compute"]) for _ in range(draw.randrange(8))]
    return draw.choice([",", ";", "\t"]).join(names) + draw.choice(["", "\n", "\r\n\r\n", "\n1,2,3,4\n"]), ".csv"


def _huge(draw, good):
    edge = draw.choice([20, 99, 120, 300])
    return csv_text({name: [10 ** draw.uniform(-edge, edge) for _ in values] for name, values in good.items()}), ".csv"


def _losses(draw, good):
    edge = draw.choice([0.01, 1, 5, 90, 300])
    good["loss"] = [10 ** draw.uniform(-edge, edge) for _ in good["loss"]]
    return csv_text(good), ".csv"


def _alike(draw, good):
    """Sizes that differ by a few units in the last place."""
    name = draw.choice([name for name in good if name not in ("loss", "flops")])
    first = good[name][0]
    step = struct.unpack("<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", first))[0] + 1))[0] - first
    good[name] = [first + draw.randrange(draw.choice([3, 10, 1000])) * step for _ in good[name]]
    return csv_text(good), ".csv"


def _dialect(draw, good):
    text = csv_text(good, separator=draw.choice([";", "\t", ", ", "|", " "]))
    text = draw.choice(["\ufeff", "# note\n", "\n\n", "", "\u200b"]) + text
    text = text.replace("\n", draw.choice(["\r\n", "\r", "\n\n", "\u2028", "\n,,,\n", '\n"\n', "\n"]))
    return text.encode(draw.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]), "replace"), ".csv"


def _columns(draw, good):
    names = list(good)
    for _ in range(draw.choice([1, 2])):
        names[draw.randrange(len(names))] = draw.choice(
            [*good, "", "FLOPS", "Flops ", "n", "loss", "budget", "параметры", "a" * 5000]
        )
    rows = zip(*good.values(), strict=True)
    lines = [names, *([repr(cell) for cell in row][: draw.randrange(1, 9)] for row in rows)]
    return "\n".join(",".join(line) for line in lines), ".csv"


def _parquet(draw, good):
    return b"PAR1" + draw.randbytes(draw.choice([0, 8, 100])) + draw.choice(
        [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1"]
    ), ".parquet"
