"""`hunyuan paper`'s rows against the report's numbers and hand-worked results, as literals."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from analyses.paper import scores
from analyses.paper.report import paper_report
from analyses.paper.row import Row
from analyses.paper.scaling_laws import ladder_costs, plain_fit, relative_fit
from analyses.scaling.cost import own_cost

ROOT = Path(__file__).parents[2]
REPORT = paper_report()
ROWS = {row["key"]: row for row in REPORT["rows"]}

EXPECTED = [  # key, published, recomputed to the digits of the literal, verdict
    ("params.total", 389e9, 388_701_405_440, "agrees"),
    ("params.activated", 52e9, 51_322_077_440, "rounds differently"),
    ("params.activated_tied_twice", 52e9, 52_147_831_040, "agrees"),
    ("params.activated_share", None, 13.20, "agrees"),
    ("params.share.routed", None, 92.58, "agrees"),
    ("params.share.shared", None, 5.786, "agrees"),
    ("kv_cache.MHA", 1_638_400, 1_638_400, "agrees"),
    ("kv_cache.GQA", 163_840, 163_840, "agrees"),
    ("kv_cache.MQA", 20_480, 20_480, "agrees"),
    ("kv_cache.CLA", 819_200, 819_200, "agrees"),
    ("kv_cache.GQA+CLA", 81_920, 81_920, "agrees"),
    ("kv_cache.saving.GQA+CLA", 95, 95.0, "agrees"),
    ("kv_cache.saving.GQA", None, 90.0, "agrees"),
    ("kv_cache.saving.CLA", None, 50.0, "agrees"),
    ("kv_cache.256k.GQA+CLA", None, 20 * 2**30, "agrees"),
    ("kv_cache.256k.MHA", None, 400 * 2**30, "agrees"),
    ("scaling.c_min.params", 3.1e24, 3.109e24, "agrees"),
    ("scaling.c_min.tokens", 3.1e24, 3.063e24, "agrees"),
    ("scaling.c_min.cost", 3.1e24, 3.121e24, "agrees"),
    ("scaling.n_opt", 58.1e9, 58.01e9, "rounds differently"),
    ("scaling.d_opt", 5.6e12, 5.634e12, "agrees"),
    ("scaling.exponents", 0.5305, 0.50, "differs"),
    ("scaling.chosen", 3.1e24, 3.492e24, "not derivable"),
    ("scaling.cost.per_param.plain", 9.59, 9.58, "not derivable"),
    ("scaling.cost.fixed.plain", 2.3e8, 2.574e8, "not derivable"),
    ("scaling.cost.per_param.relative", 9.59, 10.80, "not derivable"),
    ("scaling.cost.fixed.relative", 2.3e8, 1.238e8, "not derivable"),
    ("expert_rate", 0.31, 0.310, "agrees"),
    ("expert_rate.limit", None, 0.25, "agrees"),
    ("schedule.final_rate", 0.1, 0.1, "agrees"),
    ("tokens.synthetic_share", None, 21.43, "agrees"),
    ("tokens.annealing_share", 5, 5.0, "agrees"),
    ("tokens.annealing", None, 350e9, "agrees"),
    ("tokens.long.32k", None, 2.5e9, "agrees"),
    ("tokens.long.256k", None, 2.5e9, "agrees"),
    ("tokenizer.compression", None, 12.59, "agrees"),
    ("tokenizer.ids", 128e3, 128_166, "agrees"),
    ("tokenizer.rows", 128e3, 129_024, "differs"),
    ("rope.base", 1e9, 1.194e7, "differs"),
    ("rope.alpha", 1000, 74_989.0, "differs"),
    ("figure_2.token_d", 4, 4, "agrees"),
    ("figure_2.dropped", 1, 1, "agrees"),
    ("figure_2.recycle_dropped.1", 0, 0.0, "agrees"),
    ("margin.table_3.MMLU", 3.2, 3.2, "agrees"),
    ("margin.table_4.MMLU", 2.6, 2.6, "agrees"),
    ("margin.table_4.MATH", 3.6, 3.6, "agrees"),
    ("wins.table_3", None, 15, "agrees"),
    ("wins.table_4", None, 10, "agrees"),
    ("wins.table_5", None, 4, "agrees"),
    ("wins.table_6", None, 5, "agrees"),
    ("penguinscrolls.Hunyuan-Large-Instruct", 85.23, 85.235, "rounds differently"),
    ("penguinscrolls.Llama3.1-70B-Instruct", 69.37, 69.375, "rounds differently"),
    ("penguinscrolls.by_items", 85.23, 85.55, "differs"),
]


@pytest.mark.parametrize(("key", "published", "value", "verdict"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_a_row(key, published, value, verdict):
    row = ROWS[key]
    assert (row["published"], row["verdict"]) == (published, verdict)
    assert (
        row["value"] == pytest.approx(value, rel=5e-4, abs=1e-12) if isinstance(value, float) else row["value"] == value
    )
    assert row["formula"] and row["where"]


def test_every_row_is_checked_or_of_a_checked_kind():
    kinds = ("params.share.", "params.activated_share.", "figure_2.recycle_dropped.")
    left = ROWS.keys() - {row[0] for row in EXPECTED}
    assert not [key for key in left if not key.startswith(kinds)]
    assert len(ROWS) == len(REPORT["rows"])  # no key twice


@pytest.mark.parametrize("kind", ["params.share.", "params.activated_share."])
def test_shares_sum_to_the_whole(kind):
    assert sum(row["value"] for key, row in ROWS.items() if key.startswith(kind)) == pytest.approx(100)


@pytest.mark.parametrize(
    ("published", "value", "verdict"),
    [
        ("389e9", 388.5e9, "agrees"),
        ("389e9", 388.4e9, "rounds differently"),
        ("389e9", 387.9e9, "differs"),
        ("0.31", 0.3149, "agrees"),
        ("0.31", 0.316, "rounds differently"),
        ("85.23", 85.235, "rounds differently"),  # half of a unit is rounded up
        ("1000", 1001, "rounds differently"),
        (None, 7, "agrees"),
    ],
)
def test_the_verdict_goes_by_the_digits_that_are_printed(published, value, verdict):
    row = Row(key="k", quantity="q", value=value, formula="f", where="w", published=published)
    assert row.verdict == verdict


def test_the_fits_recover_a_known_cost():
    sizes = [(n, 9.59 * n + 2.3e8) for n in (1e7, 1e8, 5e8, 1e9)]
    assert plain_fit(sizes) == pytest.approx((9.59, 2.3e8)) and relative_fit(sizes) == pytest.approx((9.59, 2.3e8))


def test_the_relative_fit_is_that_of_scale_fit():
    params, flops = (np.array(column, float) for column in zip(*ladder_costs(), strict=True))
    rule = own_cost(params, flops)
    assert relative_fit(ladder_costs()) == pytest.approx((rule.k1, rule.k2), rel=1e-9)
    assert params.min() > 10e6 and params.max() < 1e9 and len(params) == 9


def test_the_scores_are_those_of_tables_3_to_6():
    found = scores.reported_scores()
    assert [sum(table == key[0] for key in found) for table in "3456"] == [19, 13, 7, 5]
    assert (
        found["3", "MMLU"]["Hunyuan-Large"] == 88.4 and found["5", "RULER 64K-128K"]["Hunyuan-Large-Instruct"] == 89.53
    )
    assert "DeepSeek-V2" not in found["3", "MMLU-Pro"]  # the report has none


def test_ruler_is_read_at_both_ends_of_a_range():
    last = REPORT["ruler"][-1]
    assert (last["report"], last["nvidia"], last["nvidia_upper"]) == (86.48, 88.4, 66.6)
    assert [round(row["report"] - row["nvidia"], 2) for row in REPORT["ruler"][:3]] == [0.09, -0.01, -0.08]


def test_the_second_table_names_what_differs():
    said = {row["what"]: row for row in REPORT["differences"]}
    assert len(said) == 6 and all(row["report"] and row["release"] and row["ours"] for row in said.values())
    cache = said["the cache of two layers (CLA)"]
    assert "81,920" in cache["report"] and "163,840" in cache["release"] and "81,920" in cache["ours"]
    assert "1.19e+07" in said["RoPE base"]["release"] and "0.83B" in said["embedding and head"]["release"]


def test_the_tables_are_installed_with_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "analyses.paper"
    ]
    tables = [path.name for path in (ROOT / "analyses" / "paper").iterdir() if path.suffix not in (".py", "")]
    assert len(tables) == 3 and all(any(fnmatch(name, pattern) for pattern in patterns) for name in tables)


def test_the_sweep_of_figure_3_is_that_of_the_examples():
    ours, theirs = ROOT / "analyses/paper/sweep_runs.csv", ROOT / "examples/scaling/h200_runs.csv"
    assert ours.read_bytes() == theirs.read_bytes()
