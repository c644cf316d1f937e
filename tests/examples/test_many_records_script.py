"""examples/synthesis/many_records.py: that it measures, and what it measured."""

import json
import runpy
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "synthesis"


def test_every_planted_repetition_is_found(tmp_path):
    row = runpy.run_path(str(FOLDER / "many_records.py"))["measure"](61, tmp_path)
    assert row["planted"] == row["found"] == 6 and row["records"] == 61


def test_memory_grows_by_less_than_two_hundred_bytes_a_record():
    small, large = json.loads((FOLDER / "many_records.json").read_text())["rows"]
    grown = (large["peak_memory_mb"]["end"] - small["peak_memory_mb"]["end"]) * 2**20
    assert large["records"] == 1_000_000 and grown / (large["records"] - small["records"]) < 200
    assert all(row["found"] == row["planted"] for row in (small, large))
