"""Learning curves: the last checkpoint of every run, schedules that were not finished, and run folders as a table."""

import json
import re

import numpy as np
import pytest
from isoflop_data import study, table, write_csv

from analyses.scaling.checkpoints import last_checkpoints
from analyses.scaling.options import Options
from analyses.scaling.study import fit_study
from analyses.scaling.tables import read_table
from hunyuan_cli.main import run
from model.errors import DataError


def curves(points=5, final_rate=0.1, **more):
    """Every run of a study with checkpoints on its way, whose losses are higher and rates cosine-like; rows out of order."""
    columns = {name: [] for name in ("run", "step", "lr", *study())}
    for index, row in enumerate(zip(*study().values(), strict=True)):
        flops, params, tokens, loss = row
        for point in range(1, points + 1):
            share = point / points
            rate = 1e-3 * (1 - (1 - final_rate) * share)
            on_the_way = loss + 0.3 * (1 / share - 1)
            values = (f"run-{index}", 1000 * point, rate, flops * share, params, tokens * share, on_the_way)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    order = np.random.default_rng(0).permutation(len(columns["loss"]))
    return {name: [values[i] for i in order] for name, values in (columns | more).items()}


def ask(columns, **options):
    return fit_study(table(columns), Options(resamples=100, **options))


def said(result):
    return {finding.code: finding.reason for finding in result.findings}


def test_the_last_checkpoints_are_the_runs():
    result, plain = ask(curves(), last=True), ask(study())
    assert result.document["n_opt"]["exponent"] == pytest.approx(plain.document["n_opt"]["exponent"], abs=1e-9)
    assert result.document["runs"]["used"] == 35 and result.document["runs"]["not_selected"] == 140
    assert "35 of 175 rows" in said(result)["last"] and "unfinished" not in said(result) and result.status == 0


def test_rows_keep_their_numbers_and_where_still_selects():
    columns = curves()
    bad = next(i for i, (name, step) in enumerate(zip(columns["run"], columns["step"], strict=True))
               if name == "run-9" and step == 5000)  # fmt: skip
    columns["loss"][bad] = "nan"
    (finding,) = [one for one in ask(columns, last=True).findings if one.code == "nonfinite_loss"]
    assert finding.row == bad + 1
    columns = curves()
    columns["kind"] = ["a" if int(name[4:]) % 2 else "b" for name in columns["run"]]
    _, where, findings = last_checkpoints(table(columns), {"kind": ["a"]}, True)
    assert set(where) == {"kind", "last checkpoint"} and "17 of 85 rows" in findings[0].reason


def test_curves_without_last_are_a_doubt_and_seeds_of_a_name_are_none():
    result = ask(curves())
    assert "add --last" in said(result)["checkpoints"] and result.status == 3
    seeds = {name: values * 2 for name, values in study(noise=1e-3).items()}
    seeds["loss"] = [loss + 1e-4 * (i >= 35) for i, loss in enumerate(seeds["loss"])]
    seeds["run"] = [f"run-{i % 35}" for i in range(70)]
    assert "checkpoints" not in said(ask(seeds))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"final_rate": 0.8}, r"35 of 35 runs was not finished \(run-.*it ended at 83% of its highest 'lr'"),
        ({"max_steps": [6000] * 175}, "it ended at 83% of 'max_steps'"),
        ({"finished": ["False"] * 175}, "'finished' says false"),
        ({"status": ["interrupted"] * 175}, "'status' says interrupted"),
    ],
)
def test_a_schedule_that_was_not_finished_is_told(more, words):
    result = ask(curves(**more), last=True)
    (finding,) = [one for one in result.findings if one.code == "unfinished"]
    assert re.search(words, finding.reason) and result.status == 3 and len(finding.rows) == 35


def test_what_says_nothing_of_a_schedule_is_no_doubt():
    constant = curves()
    constant["lr"] = [1e-3] * 175  # the peak rate of each run
    constant["status"], constant["max_steps"] = ["finished"] * 175, [5000] * 175
    assert "unfinished" not in said(ask(constant, last=True))
    assert "unfinished" in said(ask(study() | {"finished": ["no"] * 35}))  # one row a run, without --last


@pytest.mark.parametrize("missing", ["run", "step"])
def test_without_the_columns_last_is_refused(missing):
    columns = {
        name: values
        for name, values in curves().items()
        if name not in (missing, "tokens" if missing == "step" else "")
    }
    with pytest.raises(DataError, match=f"no column called {missing}"):
        ask(columns, last=True)


def folders(root, count=3):
    for index in range(count):
        folder = root / "cells" / f"run-{index}"
        folder.mkdir(parents=True)
        summary = {"status": "finished" if index else "interrupted", "flops": 1e15 * (index + 1), "tokens": 10**8,
                   "activated_params": 10**6, "total_params": 10**7, "loss": 3.0, "val_loss": 3.5 - index / 10}  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.json").write_text(json.dumps({"num_experts": 16}))
        (folder / "run.toml").write_text("[training]\nlearning_rate = 1e-3\nglobal_batch_tokens = 4096\nseed = 7\n")
    return root


def test_run_folders_are_a_table(tmp_path):
    found = read_table(folders(tmp_path))
    assert found.columns["run"] == ["cells/run-0", "cells/run-1", "cells/run-2"]
    assert found.columns["loss"] == [3.5, 3.4, 3.3] and found.columns["learning_rate"] == [1e-3] * 3
    assert found.columns["batch_tokens"] == [4096] * 3 and found.columns["num_experts"] == [16] * 3
    assert "cells/run-0: 'status' says interrupted" in said(fit_study(found, Options(resamples=100)))["unfinished"]
    (tmp_path / "cells" / "run-1" / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"run-1.summary.json cannot be read"):
        read_table(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no run that has ended"):
        read_table(tmp_path / "none")


def test_the_command(tmp_path, capsys):
    path = write_csv(tmp_path / "curves.csv", curves())
    assert run(["scale-fit", str(path), "--last", "--resamples", "100"]) == 0
    assert "[last]: --last kept the last of up to 5 checkpoints" in capsys.readouterr().err
    assert run(["scale-fit", str(folders(tmp_path / "runs")), "--resamples", "100"]) == 1  # one budget each
    assert "too_few_budgets" in capsys.readouterr().err
