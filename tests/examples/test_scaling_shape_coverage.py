"""The committed coverage of the shared shape, and that its script runs."""

import json
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_shared_shape_covers_what_it_claims():
    """Of 24 cells of 200 sets; three standard errors of a share of 0.95 are 4.6%."""
    document = json.loads((EXAMPLES / "scaling" / "shape_coverage.json").read_text())
    assert document["settings"]["sets"] == 200 and len(document["rows"]) == 24
    shares = [found["coverage"] for row in document["rows"] for found in row["shared"].values()]
    assert len(shares) == 24 * 7 and min(shares) >= 0.90 and 0.945 < sum(shares) / len(shares) < 0.96
    plain = [found["coverage"] for row in document["rows"] for found in row["parabola"].values()]
    assert min(plain) < 0.7


def test_the_script_runs():
    script = runpy.run_path(str(EXAMPLES / "scaling_shape_coverage.py"), run_name="script")
    found = script["simulate"]((0, 2))
    assert found["shared"].keys() == set(script["QUANTITIES"]) and "loss_10" not in found["parabola"]
