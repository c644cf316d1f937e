"""analyses/scaling/runs.py: which runs are one budget, and in which order they stand."""

import numpy as np
import pytest
from isoflop_data import runs_of, shuffled, study
from test_scaling_runs import ARRAYS, SMALL

from analyses.scaling.columns import COLUMNS
from analyses.scaling.tables import read_table
from model.errors import DataError

# --- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerance", "expected"), [(0.1, [0, 0, 0, 1, 2, 2]), (0.0, [0, 1, 2, 3, 4, 5]), (0.5, [0, 0, 0, 0, 1, 1])]
)
def test_budgets_reach_so_far_from_their_least(tolerance, expected):
    flops = [1e18, 1.05e18, 1.1e18, 1.15e18, 1e20, 1.01e20]
    columns = {"flops": flops, "params": [1e9] * 6, "loss": [3.0, 2.9, 2.8, 2.7, 2.6, 2.5]}
    assert runs_of(columns, tolerance=tolerance).budget.tolist() == expected
    assert runs_of(shuffled(columns, 1), tolerance=tolerance).budget.tolist() == expected


def test_a_budget_named_by_the_table_holds_runs_whatever_they_cost():
    columns = {**SMALL, "flops": [6e18, 7e18, 6e19], "budget": [6e18, 6e18, 6e19]}
    assert runs_of(columns).budget.tolist() == [0, 0, 1]
    del columns["budget"]
    assert runs_of(columns).budget.tolist() == [0, 1, 2]


def test_budgets_that_the_table_names_apart_stay_apart():
    columns = study(noise=1e-3, budgets=(1e18, 1.08e18, 1e19, 1e20))
    columns["budget"] = columns["flops"]
    assert sorted(set(runs_of(columns).budget.tolist())) == [0, 1, 2, 3]


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "twice.csv").write_text("flops,loss,N,loss\n1e18,3,1e8,2\n")
    with pytest.raises(DataError, match="two columns called 'loss'"):
        read_table(tmp_path / "twice.csv")


def test_the_order_is_canonical():
    columns = study(noise=1e-3, replicates=2)
    runs = runs_of(columns)
    for seed in range(5):
        other = runs_of(shuffled(columns, seed))
        assert all(np.array_equal(getattr(runs, name), getattr(other, name)) for name in ARRAYS if name != "row")
        assert runs.cost == other.cost
    keys = list(zip(runs.budget, runs.params, runs.tokens, runs.loss, strict=True))
    assert keys == sorted(keys)


def test_a_batch_comes_from_the_table_or_the_option():
    assert np.isnan(runs_of(SMALL).batch_tokens).all()
    assert runs_of(SMALL, batch_tokens=1e6).batch_tokens.tolist() == [1e6] * 3
    assert runs_of({**SMALL, "batch_tokens": [1, 2, 3]}, batch_tokens=1e6).batch_tokens.tolist() == [1, 2, 3]
    assert runs_of({**SMALL, "B": [1, 2, 3]}, columns={"batch_tokens": "B"}).batch_tokens.tolist() == [1, 2, 3]


def test_every_known_name_belongs_to_one_quantity():
    names = [name for groups in COLUMNS.values() for names in groups for name in names]
    assert len(names) == len(set(names))
