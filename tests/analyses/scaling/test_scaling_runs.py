"""Tables of runs read from every format, their columns found, rows checked, merged and put into budgets."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isoflop_data import codes, fit_of, result_of, runs_of, shuffled, study, table, write_csv

from analyses.scaling.cost import own_cost, parse_cost
from analyses.scaling.parabola import CMin
from analyses.scaling.runs import clean_runs
from analyses.scaling.tables import read_table
from model.errors import DataError, HunyuanError

SMALL = {
    "flops": [6e18, 6e18, 6e19],
    "params": [1e9, 2e9, 3e9],
    "tokens": [1e9, 5e8, 6e19 / 18e9],
    "loss": [3.0, 2.9, 2.7],
}
LOUD = {"over": "raise", "divide": "raise", "invalid": "raise"}
ARRAYS = ("flops", "params", "tokens", "loss", "row", "budget")


def same(found, expected):
    return all(np.array_equal(getattr(found, name), getattr(expected, name)) for name in ARRAYS)


def test_short_rows_lack_their_last_cells(tmp_path):
    path = write_csv(tmp_path / "a.csv", SMALL)
    path.write_text(path.read_text() + "6e18,1e9\n")
    runs, findings = clean_runs(read_table(path))
    assert len(runs) == 3 and [(one.code, one.row) for one in findings] == [("nonfinite_loss", 4)]
    assert "its loss is empty" in findings[0].reason


def test_decimals_are_numbers():
    assert len(runs_of({**SMALL, "loss": [Decimal("3.0"), Decimal("2.9"), Decimal("2.7")]})) == 3


@pytest.mark.parametrize("missing", [("loss",), ("flops", "params"), ("flops", "tokens"), ("params", "tokens")])
def test_too_few_columns_are_refused_with_what_is_missing(missing):
    with pytest.raises(DataError, match="is needed: rename a column or name it with") as caught:
        runs_of({name: values for name, values in SMALL.items() if name not in missing})
    assert all(name in str(caught.value) for name in missing)


@pytest.mark.parametrize("missing", ["flops", "params", "tokens"])
@pytest.mark.parametrize(("cost", "k1", "k2"), [(None, 6, 0), ("6nd", 6, 0), ("paper", 9.59, 2.3e8), ("7,1e9", 7, 1e9)])
def test_a_missing_third_follows_from_the_cost(missing, cost, k1, k2):
    params, tokens = np.array([1e8, 3e9, 52e9]), np.array([1e10, 2e10, 3e11])
    whole = {
        "flops": (k1 * params + k2) * tokens,
        "params": params,
        "tokens": tokens,
        "loss": np.array([3.0, 2.5, 2.0]),
    }
    columns = {name: values.tolist() for name, values in whole.items() if name != missing}
    runs = runs_of(columns, cost=parse_cost(cost) if cost else None)
    assert getattr(runs, missing) == pytest.approx(whole[missing], rel=1e-12)
    assert (runs.cost.k1, runs.cost.k2) == (k1, k2)


def test_too_few_flops_for_the_cost_rule_leave_no_size():
    columns = {"flops": [1e17, 1e19], "tokens": [1e9, 1e9], "loss": [3.0, 2.0]}  # k2 D alone is 2.3e17
    runs, findings = clean_runs(table(columns), cost=parse_cost("paper"))
    assert len(runs) == 1 and [(one.code, one.row) for one in findings] == [("bad_value", 1)]
    assert "its params is impossible by the cost rule" in findings[0].reason


@pytest.mark.parametrize("text", ["", "6", "x", "6nd,1", "0,1", "-1,0", "1,-1", "nan,1", "inf,0", "1,2,3", "1e400,0"])
def test_a_cost_that_is_no_rule_is_refused(text):
    with pytest.raises(HunyuanError, match="write 6nd, paper, or K1,K2"):
        parse_cost(text)


@pytest.mark.parametrize(("k1", "k2"), [(6.0, 0.0), (9.59, 2.3e8), (6.7, 1e9)])
def test_the_tables_own_cost_is_found(k1, k2):
    params = np.logspace(8, 10, 20)
    rule = own_cost(params, k1 * params + k2)
    assert (rule.k1, rule.k2) == (
        pytest.approx(k1, rel=1e-9),
        pytest.approx(k2, rel=1e-9),
    ) and rule.worst_fraction < 1e-12
    wrong = own_cost(params, (k1 * params + k2) * np.where(np.arange(20) == 3, 1.1, 1.0))
    assert 0.05 < wrong.worst_fraction < 0.15


def test_a_cost_that_is_not_the_tables_is_told():
    _, findings = clean_runs(table(SMALL), cost=parse_cost("12,0"))
    assert [one.code for one in findings] == ["cost_mismatch"] and "cost 0.5 times" in findings[0].reason
    assert clean_runs(table(SMALL), cost=parse_cost("6nd"))[1] == []


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cell", "code", "shown"),
    [
        ("loss", "nan", "nonfinite_loss", "nan"),
        ("loss", "inf", "nonfinite_loss", "inf"),
        ("loss", "-Infinity", "nonfinite_loss", "-Infinity"),
        ("loss", "", "nonfinite_loss", "empty"),
        ("loss", None, "nonfinite_loss", "empty"),
        ("loss", "diverged at\nstep 3", "nonfinite_loss", "diverged at step 3"),
        ("loss", True, "nonfinite_loss", "True"),
        ("loss", [2.0], "nonfinite_loss", "[2.0]"),
        ("loss", 0, "bad_loss", "0"),
        ("loss", "-2.5", "bad_loss", "-2.5"),
        ("flops", "x" * 99, "bad_value", "x" * 37 + "..."),
        ("flops", -1, "bad_value", "-1"),
        ("params", 0.0, "bad_value", "0.0"),
        ("params", 10**400, "bad_value", "1" + "0" * 36 + "..."),
        ("tokens", math.nan, "bad_value", "nan"),
        ("tokens", 1e200, "bad_value", "1e+200"),
        ("tokens", 1e-200, "bad_value", "1e-200"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_and_named(column, cell, code, shown):
    columns = {name: list(values) for name, values in SMALL.items()}
    columns[column][1] = cell
    runs, findings = clean_runs(table(columns))
    assert [(one.code, one.row, one.excludes) for one in findings] == [(code, 2, True)]
    limit = ", and a loss lies between 0 and 1e+09 nats" if code == "bad_loss" else ""
    assert findings[0].reason == f"row 2 was dropped: its {column} is {shown}{limit}"
    assert runs.row.tolist() == [1, 3] and runs.counts == {"read": 3, "dropped": 1, "merged": 0, "used": 2}


def test_many_rows_of_one_fault_are_one_sentence():
    columns = {name: list(values) for name, values in study().items()}
    columns["loss"][3:12] = ["nan"] * 9
    columns["params"][20] = "many"
    runs, findings = clean_runs(table(columns))
    assert [one.code for one in findings] == ["nonfinite_loss", "bad_value"] and len(runs) == 25
    assert findings[0].reason == "9 rows were dropped for their loss, such as this: row 4 was dropped: its loss is nan"
    assert findings[0].document()["rows"] == list(range(4, 13)) and "row" not in findings[0].document()


def test_a_column_without_any_number_is_refused():
    columns = {**study(), "params": ["small"] * 35}
    with pytest.raises(
        DataError, match=r"column 'params' has no numbers, but cells such as small: write numbers such as"
    ):
        clean_runs(table(columns))


def test_a_budget_that_is_no_number_is_shown():
    columns = {**SMALL, "budget": ["small", 6e18, 6e19]}
    del columns["flops"]
    (finding,) = clean_runs(table(columns))[1]
    assert finding.reason.endswith("is small")


@pytest.mark.parametrize("loss", [1e308, 1e200])
def test_a_loss_too_large_to_square_is_dropped(loss):
    columns = study(noise=1e-3)
    columns["loss"][4] = loss
    with np.errstate(**LOUD):
        assert codes(result_of(columns)) == ["bad_loss"]


@pytest.mark.parametrize("batch", [0.0, -1e6])
def test_a_batch_of_no_tokens_is_not_taken(batch):
    columns = {**study(), "batch_tokens": [1e6] * 34 + [batch]}
    with np.errstate(**LOUD):
        assert result_of(columns).status in (0, 3)  # nobody asked for the batch
        try:
            assert 35 in [finding.row for finding in result_of(columns, c_min=CMin()).findings]
        except HunyuanError as error:
            assert "batch" in str(error)


def test_a_cost_per_token_out_of_all_bounds_is_no_error():
    columns = {**study(), "flops": [1e99] * 35, "tokens": [1e-99] * 35}
    with np.errstate(**LOUD):
        assert result_of(columns).status == 1


@given(st.lists(st.integers(0, 34), max_size=12), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_rows_written_again_are_merged_and_change_nothing(again, seed):
    columns = study(noise=1e-3)
    more = shuffled({name: values + [values[row] for row in again] for name, values in columns.items()}, seed)
    runs, findings = clean_runs(table(more))
    told = ["duplicate"] * len(again) if len(again) <= 5 else ["duplicate"]
    assert [one.code for one in findings] == told and runs.counts["merged"] == len(again)
    assert all(one.excludes for one in findings) and len(runs) == 35
    merged = result_of(more).document
    assert merged["n_opt"] == result_of(columns).document["n_opt"]


def test_a_duplicate_names_both_rows():
    (finding,) = clean_runs(table({name: [*values, values[1]] for name, values in SMALL.items()}))[1]
    assert finding.document() == {
        "code": "duplicate", "reason": "row 4 repeats row 2 and was merged with it", "budget": 6e18, "row": 4,
    }  # fmt: skip


def test_other_losses_of_the_same_size_are_other_seeds():
    columns = study(noise=1e-3, replicates=3, sizes=4)
    runs, findings = clean_runs(table(columns))
    assert [(one.code, one.excludes, one.suspect) for one in findings] == [("repeated_sizes", False, False)]
    assert len(runs) == 60
    budget = fit_of(columns).usable[0]
    assert (budget.sizes, len(budget.runs)) == (4, 12)
    assert fit_of(columns).params_law.degrees == 5 * 9
