"""The plan and the commands of the study on one H100."""

import csv
import itertools
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from model.sweep.plan import SweepPlan, read_plan

FOLDER = Path(__file__).parents[2] / "examples/scaling"


def test_the_plan_spans_a_factor_of_100_with_seven_sizes_or_more_on_one_ladder():
    cells = SweepPlan.from_sections(read_plan(FOLDER / "h100.toml")).cells()
    sizes = Counter(cell.budget for cell in cells)
    assert len(sizes) == 5
    assert max(sizes) == 100 * min(sizes)
    assert min(sizes.values()) >= 7
    shapes = {cell.settings.model.num_hidden_layers for cell in cells}
    assert shapes == {4}
    for budget in sizes:  # neighbours of a budget are less than 1.6 apart, and its cells fill it to a step
        activated = [cell.activated for cell in cells if cell.budget == budget]
        assert all(b < 1.6 * a for a, b in itertools.pairwise(activated))
        assert all(cell.flops == pytest.approx(budget, rel=2e-3) for cell in cells if cell.budget == budget)


def test_the_manifest_names_the_packages_of_the_list():
    """A wheel is named by its package and version; the last line is the whole text."""
    listed = set((FOLDER / "corpus.txt").read_text().split())
    with (FOLDER / "corpus.csv").open(newline="") as file:
        *wheels, whole = csv.DictReader(file)
    named = {"{}=={}".format(*row["place"].split("-")[:2]).lower().replace("_", "-") for row in wheels}
    assert named == listed
    assert int(whole["bytes"]) == sum(int(row["bytes"]) for row in wheels) > 400e6


@pytest.mark.parametrize("script", ["h100.sh", "h100_law.sh"])
def test_the_scripts_are_bash(script):
    subprocess.run(["bash", "-n", FOLDER / script], check=True)
