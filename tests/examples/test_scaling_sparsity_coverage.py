"""The script of the coverage of the law of sparsity: it runs, and its truths are the law's."""

import dataclasses
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from analyses.scaling.options import Options
from analyses.scaling.sparsity.study import sparsity_study

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = EXAMPLES / "scaling" / "sparsity_coverage.json"
script = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "scaling_sparsity_coverage.py")))


def test_it_writes_coverage_and_its_truths_are_found_without_noise(tmp_path):
    script.main(["--sets", "3", "--cells", "1", "--output", str(tmp_path / "out.json")])
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert set(row["coverage"]) == set(script.QUANTITIES) and all(0 <= share <= 1 for share in row["coverage"].values())

    cell = dataclasses.replace(script.CELLS[0], noise=0.0)
    memory = 3 * script.Surface(script.E, script.A, script.B, script.ALPHA, script.BETA).laws()[0](1e22)
    table = script.simulated(cell, np.random.default_rng(0))
    document = sparsity_study(table, Options(method="sparsity", predict=(1e22,), memory=memory, resamples=100)).document
    for name in ("params", "tokens", "loss"):
        assert document["predictions"][0][f"{name}_opt"] == pytest.approx(row["truth"][name], rel=1e-5)
    assert document["n_opt"]["exponent"] == pytest.approx(row["truth"]["n_opt"], abs=1e-6)


def test_the_data_in_the_repository_are_of_every_cell():
    rows = json.loads(DATA.read_text())["rows"]
    assert len(rows) == len(script.CELLS) and min(row["sets"] for row in rows) >= 40
    assert min(share for row in rows for share in row["coverage"].values()) > 0.8
