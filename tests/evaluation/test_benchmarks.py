"""Tables 3 and 4 of the report: 25 benchmarks, 19 of which are tasks of lm-eval's; and the reader of Chinese answers."""

from fractions import Fraction

import pytest

from analyses.paper.scores import reported_scores
from model.evaluation.benchmarks import BENCHMARKS, FOLDERS
from model.evaluation.chinese import number
from model.evaluation.evaluate import OWN


def test_every_benchmark_of_the_tables_is_measured_by_somebody():
    assert {benchmark.name for benchmark in BENCHMARKS} == {name for table, name in reported_scores() if table in "34"}
    theirs = [benchmark for benchmark in BENCHMARKS if benchmark.folders]
    assert (len(BENCHMARKS), len(theirs)) == (25, 19)
    assert {benchmark.task for benchmark in BENCHMARKS if not benchmark.folders} <= set(OWN)


def test_lm_evals_tasks_stand_in_the_folders_that_are_named():
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    from model.evaluation.harness.tasks import TASKS, _names

    for name, folders in FOLDERS.items():
        files = [path for folder in folders for path in (TASKS / folder).glob("*.yaml")]
        assert any(name in _names(path.read_bytes())[0] for path in files), name


@pytest.mark.parametrize(("text", "value"), [
    ("答案是１２。", 12), ("3 + 4 = 7", 7), ("1,250元", 1250), ("约2.50", Fraction(5, 2)), ("3/4", Fraction(3, 4)),
    ("25%", Fraction(1, 4)), ("-8", -8), ("没有", None), ("1/0", None),
])  # fmt: skip
def test_the_last_number_of_an_answer(text, value):
    assert number(text) == value
