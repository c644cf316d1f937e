"""examples/synthesis/endpoint_rate.py: that it measures, and what it measured."""

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "synthesis"


@pytest.mark.slow
def test_a_case_is_measured_where_requests_arrive():
    script = runpy.run_path(str(FOLDER / "endpoint_rate.py"))
    row = script["measure"]({"requests_per_minute": 1200, "concurrency": 16}, 1.0)
    assert row["requests"] > 5 and row["retries"] == 0 and row["measured_requests_per_minute"] > 0


def test_the_measured_rates_are_within_five_percent_of_the_allowed_ones_and_never_above():
    rows = json.loads((FOLDER / "endpoint_rate.json").read_text())["rows"]
    shares = []
    for row in rows[:-1]:  # the last has no limit; where there are two, tokens are the narrower one
        name = "tokens_per_minute" if "tokens_per_minute" in row else "requests_per_minute"
        shares.append(row[f"share_of_allowed_{name}"])
    assert len(shares) == 5 and all(0.95 < share <= 1 for share in shares)
    assert all(row["busiest_minute_requests"] <= row.get("requests_per_minute", 1e9) for row in rows)
    free = rows[-1]
    assert 0.95 < free["measured_requests_per_minute"] / free["most_possible_requests_per_minute"] < 1.05
