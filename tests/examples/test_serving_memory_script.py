"""examples/serving_memory.py without a GPU: the variants it would measure, and the sentence that it stops with."""

import json
import runpy
from pathlib import Path

import pytest

from model.config import HunyuanConfig
from model.config.shape import shape_of
from model.config.variants import STANDARD, own_variant

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "examples" / "serving_memory.py"))


@pytest.mark.parametrize("name", STANDARD)
def test_a_variant_is_what_its_name_says(script, name):
    config = script["with_variant"](HunyuanConfig.from_name("base"), name)
    assert own_variant(shape_of(config)) == name


def test_without_a_gpu_it_says_so(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    script["main"](["--output", str(tmp_path / "rows.json")])
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "rows.json").exists()


@pytest.mark.parametrize(("name", "least", "most"), [("training_memory", 0.98, 1.03), ("serving_memory", 0.94, 1.0)])
def test_what_was_measured_is_near_the_closed_form(name, least, most):
    """The data that the sentence in RESULTS.md comes from."""
    rows = json.loads((ROOT / "examples" / "memory" / f"{name}.json").read_text())
    ratios = [row["ratio"] for row in (rows["rows"] if isinstance(rows, dict) else rows)]
    assert len(ratios) >= 12 and least < min(ratios) and max(ratios) < most
