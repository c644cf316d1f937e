"""--where, data sets in one table, learning rates and seeds of one size: which rows are one study, and what is said."""

import numpy as np
import pytest
from isoflop_data import result_of, rows_of, runs_of, study, table
from test_scaling_runs import same

from analyses.scaling.replicates import cells_of
from analyses.scaling.runs import clean_runs
from analyses.scaling.selection import parse_where
from model.errors import DataError, HunyuanError

C4, PILE = study(noise=1e-3, seed=1), study(noise=1e-3, seed=2, coefficient=0.05)


def both(name="dataset", labels=("c4", "pile")):
    columns = {key: C4[key] + PILE[key] for key in C4}
    return {**columns, name: [labels[0]] * 35 + [labels[1]] * 35}


def said(columns, **options):
    return [(one.code, one.suspect) for one in clean_runs(table(columns), **options)[1]]


# --- where -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dataset", "Data Set", "corpus", "source", "arch", "model_family"])
def test_several_data_sets_are_refused_and_where_takes_one(name):
    with pytest.raises(
        DataError, match=rf"holds several studies, by its column '{name}' \(c4, pile\): choose with --where"
    ) as told:
        runs_of(both(name))
    assert f"'{name}=c4'" in str(told.value)
    assert same_but_rows(runs_of(both(name), where={name: ["c4"]}), runs_of(C4))
    assert same_but_rows(runs_of(both(name), where={name: ["pile"]}), runs_of(PILE))
    assert len(runs_of(both(name), where={name: ["c4", "pile"]})) == 70  # all, as the user wants it


def same_but_rows(found, expected):
    return all(
        np.array_equal(getattr(found, name), getattr(expected, name)) for name in ("flops", "params", "tokens", "loss")
    )


def test_a_text_column_that_alone_tells_runs_of_a_size_apart_is_a_data_set():
    """Whatever it is called; seeds that vary explain repeated sizes as well, and a run's own name parts nothing."""
    sizes = {key: values * 2 for key, values in C4.items()}
    sizes["loss"] = C4["loss"] + [loss + 0.2 for loss in C4["loss"]]
    with pytest.raises(DataError, match=r"by its column 'recipe' \(a, b\)"):
        runs_of({**sizes, "recipe": ["a"] * 35 + ["b"] * 35})
    assert len(runs_of({**sizes, "host": ["a"] * 35 + ["b"] * 35, "seed": [0] * 35 + [1] * 35})) == 70
    assert len(runs_of({**sizes, "name": [f"run {row}" for row in range(70)]})) == 70
    assert len(runs_of({**C4, "recipe": ["a", "b"] * 17 + ["a"]})) == 35  # no size is repeated


def test_rows_keep_their_numbers():
    runs = runs_of(both(), where={"dataset": ["pile"]})
    assert sorted(runs.row.tolist()) == list(range(36, 71))
    assert runs.counts == {"read": 70, "dropped": 0, "merged": 0, "used": 35, "not_selected": 35}


def test_columns_that_name_runs_or_never_vary_part_nothing():
    columns = {
        **C4,
        "name": [f"run {row}" for row in range(35)],
        "dataset": ["c4"] * 35,
        "source": [1.0, 2.0] * 17 + [1.0],
    }
    assert same(runs_of(columns), runs_of(C4))
    dropped = {**C4, "dataset": ["c4"] * 34 + [""], "loss": [*C4["loss"][:34], "nan"]}
    assert len(runs_of(dropped)) == 34  # a row that cannot be used does not part the others


def test_several_columns_must_all_hold_and_numbers_are_numbers():
    columns = {**both(), "depth": [12, 24.0] * 35}
    runs = runs_of(columns, where=parse_where(["dataset=c4", "depth=12.0"]))
    assert len(runs) == 18 and set(runs.row % 2) == {1}
    assert parse_where(["a=1", "a = 2", "b=c=d"]) == {"a": ["1", "2"], "b": ["c=d"]}


@pytest.mark.parametrize("text", ["dataset", "=c4", "", " =x"])
def test_where_without_a_column_and_a_value_is_refused(text):
    with pytest.raises(HunyuanError, match="write column=value, such as dataset=c4"):
        parse_where([text])


def test_where_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="no column 'data' for --where: it has flops, params"):
        runs_of(both(), where={"data": ["c4"]})
    with pytest.raises(DataError, match=r"--where dataset=c5 leaves no row of runs.csv: it has c4, pile"):
        runs_of(both(), where={"dataset": ["c5"]})
    with pytest.raises(DataError, match=r"no row of runs.csv is left by all of --where"):
        runs_of({**both(), "half": [1] * 35 + [2] * 35}, where={"dataset": ["c4"], "half": ["2"]})


# --- learning rates and seeds ----------------------------------------------------------------------------------------


def rates(offsets, name="lr", base=C4):
    """Every run at several learning rates, whose losses lie so far above; the best rate is not always the same one."""
    columns = {key: [] for key in (*base, name)}
    for index, row in enumerate(rows_of(base)):
        for place, offset in enumerate(offsets):
            for key, value in row.items():
                columns[key].append(value + offset if key == "loss" else value)
            columns[name].append(10.0 ** -(1 + (place + index) % len(offsets)))
    return columns


@pytest.mark.parametrize("name", ["lr", "learning_rate", "Peak LR", "max_lr"])
def test_the_best_rate_of_each_size_gives_the_study_of_the_best_rates(name):
    columns = rates([0.0, 0.05, 0.3], name)
    assert said(columns) == [("several_rates", True)]
    assert said(columns, best_of=True) == [("best_of", False)]
    found = runs_of(columns, best_of=True)
    assert same_but_rows(found, runs_of(C4)) and found.counts["not_best"] == 70
    assert result_of(columns, best_of=True).document["n_opt"] == result_of(C4).document["n_opt"]
    assert (result_of(columns).status, result_of(columns, best_of=True).status) == (3, 0)


def test_the_best_rate_is_best_in_the_mean_over_its_seeds():
    """The least single loss belongs to the worse rate."""
    columns = {"flops": [6e18] * 4, "params": [1e9] * 4, "loss": [3.0, 3.2, 2.9, 3.5], "lr": [1e-3, 1e-3, 3e-3, 3e-3],
               "seed": [0, 1, 0, 1]}  # fmt: skip
    assert runs_of(columns, best_of=True).loss.tolist() == [3.0, 3.2]
    del columns["seed"], columns["lr"]
    assert runs_of(columns, best_of=True).loss.tolist() == [2.9]


def test_rates_are_compared_as_numbers():
    columns = {
        "flops": [6e18] * 2,
        "params": [1e9] * 2,
        "loss": [3.0, 3.2],
        "lr": ["1e-3", "0.001"],
        "seed": ["a", "b"],
    }
    assert said(columns) == [("seeds", False)]


def test_seeds_are_a_mean_with_its_spread():
    columns = {key: values * 3 for key, values in C4.items()}
    columns["seed"] = [0] * 35 + [1] * 35 + [2] * 35
    columns["loss"] = [loss + 0.01 * (seed - 1) for loss, seed in zip(columns["loss"], columns["seed"], strict=True)]
    found = result_of(columns)
    assert [one.code for one in found.findings] == ["seeds"] and found.status == 0
    assert "up to 3 runs of one size and budget have several seeds" in found.findings[0].reason
    assert "spreads about it by 0.01 nats" in found.findings[0].reason  # sqrt((1 + 0 + 1) / 2) of 0.01
    assert found.document["n_opt"]["exponent"] == pytest.approx(result_of(C4).document["n_opt"]["exponent"], rel=1e-9)


def test_the_least_of_several_seeds_is_luck():
    columns = {key: values * 2 for key, values in C4.items()}
    columns["seed"] = [0] * 35 + [1] * 35
    columns["loss"] = C4["loss"] + [loss + 0.01 for loss in C4["loss"]]
    assert said(columns, best_of=True) == [("best_of", True)]
    assert same_but_rows(runs_of(columns, best_of=True), runs_of(C4))


def test_a_rate_that_follows_the_size_is_no_search():
    columns = {**C4, "lr": [1 / size for size in C4["params"]], "seed": [3] * 35}
    assert said(columns) == said(columns, best_of=True) == []


def test_cells_are_sizes_of_a_budget():
    budget = np.array([0, 0, 0, 1, 1])
    params = np.array([1e8, 1e8 * (1 + 1e-9), 2e8, 2e8, 2e8])
    assert cells_of(budget, params).tolist() == [0, 0, 1, 2, 2]
