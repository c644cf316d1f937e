"""examples/evaluation/speed.py at a small size: its documents, and both engines where transformers' can be had."""

import runpy
from pathlib import Path

import pytest

from model.evaluation.asking import Model
from model.generation.engine import Engine
from tests.cli.speaking import write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script():
    """The names of the script."""
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    return runpy.run_path(str(ROOT / "examples" / "evaluation" / "speed.py"))


def test_one_of_four_choices_is_what_the_text_goes_on_with(script):
    rows = script["documents"](5)
    assert rows == script["documents"](5)
    assert all(len(row["choices"]) == 4 and row["choices"][row["label"]].startswith("\n") for row in rows)
    assert all(2 <= len(row["context"].split("\n")) <= 6 for row in rows)


def test_documents_are_timed_and_scored(script, tmp_path):
    script["write_task"](tmp_path, 3)
    model = Model(Engine.from_folder(write_run(tmp_path / "run", max_position_embeddings=1024)))
    row = script["timed"](script["HarnessModel"](model), tmp_path, "next_line_fixed", 1, 2)
    assert row["documents"] == len(row["chosen"]) == 2 and row["cpu_seconds"] > 0 and 0 <= row["acc"] <= 1
