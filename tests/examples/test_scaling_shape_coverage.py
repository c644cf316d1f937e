"""The committed coverage of the shared shape, and that its script goes on where it was stopped."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_intervals_cover_what_they_claim():
    """Of every cell and figure: the interval that its sets leave for the coverage meets 92 to 98%."""
    rows = json.loads((EXAMPLES / "scaling" / "shape_coverage.json").read_text())["rows"]
    assert Counter(row["group"] for row in rows) == {"quadratic": 144, "c-min": 48, "surface": 24}
    for row in rows:
        assert (
            row["sets"] >= (50 if row["group"] == "surface" else 250)
            and row["told"]["shape_misfit"] < 0.05
            and len(row["default"]) == 7
        )
        for name, found in row["default"].items():
            low, high = found["interval"]
            assert low <= 0.98 and high >= 0.92, (row, name)
    for group in ("quadratic", "c-min", "surface"):
        shares = [found["coverage"] for row in rows if row["group"] == group for found in row["default"].values()]
        assert 0.94 < sum(shares) / len(shares) < 0.97
    plain = [found["coverage"] for row in rows if row["group"] == "quadratic" for found in row["parabola"].values()]
    assert min(plain) < 0.1


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(EXAMPLES / "scaling_shape_coverage.py"), run_name="script")


@pytest.mark.parametrize("group", ["quadratic", "c-min", "surface"])
def test_without_noise_every_interval_holds_the_truth(script, group):
    """That the truth is the right one: of the law in C_min, of tokens, and of the losses of each budget."""
    first = next(cell for cell in script["CELLS"] if cell.group == group)
    quiet = script["Cell"](first.group, first.surface, 9, "through them", 1e-7)
    table, truth = quiet.table(script["np"].random.default_rng(0)), quiet.truth()
    document = script["scale_fit"](table, quiet.options()).document
    found = {"exponent": document["n_opt"]["exponent"]}
    for factor, row in zip(script["BEYOND"], document["predictions"], strict=True):
        found |= {f"{name}_{factor}": row[f"{name}_opt"] for name in ("params", "tokens", "loss")}
    assert found == pytest.approx(truth, rel=1e-3) and found.keys() == set(script["QUANTITIES"])


def test_a_study_goes_on_where_it_was_stopped(script, tmp_path, capsys):
    script["main"].__globals__["BLOCK"] = 2
    line = ["--out", str(tmp_path), "--sets", "4", "--every", "200", "--processes", "1"]
    script["main"]([*line, "--groups", "quadratic", "--minutes", "0"])
    log = tmp_path / "blocks.jsonl"
    first = log.read_text()
    assert len(first.splitlines()) == 1 and "quadratic" in capsys.readouterr().out
    log.write_text(first + '{"cell": 0, "bl')  # killed while it wrote
    script["main"]([*line, "--groups", "quadratic", "--summary", str(tmp_path / "summary.json")])
    assert log.read_text().startswith(first) and len(log.read_text().splitlines()) == 2
    (row,) = json.loads((tmp_path / "summary.json").read_text())["rows"]
    found = row["default"]["loss_100"]
    assert row["sets"] == found["sets"] == 4 and found["interval"][0] <= found["coverage"] <= found["interval"][1]
    assert "loss_10" not in row["parabola"] and row["parabola"].keys() < row["default"].keys()
