"""`hunyuan scale-fit`: tables as people have them, from the file to the answer and the exit status."""

import gzip
import io
import json

import numpy as np
import pytest

from hunyuan_cli.main import run
from tests.analyses.scaling.isoflop_data import csv_text, rows_of, surface_study, write_csv
from tests.cli.scale_fit_runs import FAST, fit

STUDY = surface_study(budgets=6, sizes=7, decades=0.7, noise=0.004, seed=11)
ANSWER = ("--predict", "1e21")


def best(found):
    return found["predictions"][0]["params_opt"]


@pytest.fixture
def expected(tmp_path, capsys):
    """N_opt at 1e21 FLOPs of the table in plain numbers, which is that of the surface behind it but for noise."""
    found, err = fit(capsys, write_csv(tmp_path / "plain.csv", STUDY), *ANSWER)
    size = best(found)
    scale = (0.3478 * 482.01 / (0.3658 * 2085.43)) ** (1 / (0.3478 + 0.3658))
    assert err == [] and size == pytest.approx(scale * (1e21 / 6) ** (0.3658 / (0.3478 + 0.3658)), rel=0.1)
    return size


def test_millions_and_billions_are_suspected_and_converted(expected, tmp_path, capsys):
    cells = {"params": [f"{n / 1e6!r}" for n in STUDY["params"]], "tokens": [f"{d / 1e9!r}" for d in STUDY["tokens"]],
             "loss": STUDY["loss"]}  # fmt: skip
    path = write_csv(tmp_path / "a.csv", cells)
    found, err = fit(capsys, path, *ANSWER, status=3)
    assert err[0] == (
        "warning [units]: params look like millions and tokens look like billions: --params-unit 1e6 --tokens-unit 1e9, or "
        "name the units that they have"
    )
    for units in (("1e6", "1e9"), ("million", "billion"), ("M", "B")):
        found, err = fit(capsys, path, *ANSWER, "--params-unit", units[0], "--tokens-unit", units[1])
        assert best(found) == pytest.approx(expected, rel=1e-9) and err == []
        assert found["units"] == {"params": 1e6, "tokens": 1e9}
    assert run(["scale-fit", str(path), "--params-unit", "M", "--tokens-unit", "B", *FAST]) == 0
    assert "columns: params = 'params' x 1e+06, tokens = 'tokens' x 1e+09" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["suffix", "groups", "decimal comma", "gflops", "packed", "columns.json", "perplexity"]
)
def test_a_table_as_people_have_it_gives_the_same_answer(name, expected, tmp_path, capsys):
    flops, params, loss = STUDY["flops"], STUDY["params"], STUDY["loss"]
    columns, separator, file = {"C": flops, "n_params": params, "val_loss": loss}, ",", "a.csv"
    if name == "suffix":
        columns["n_params"] = [f"{n / 1e6!r}M" for n in params]
    elif name == "groups":
        columns["n_params"] = [f'"{n:,.4f}"' for n in params]
    elif name == "decimal comma":
        columns, separator = {key: [repr(v).replace(".", ",") for v in values] for key, values in columns.items()}, ";"
    elif name == "gflops":
        columns = {"total_gflops": [c / 1e9 for c in flops], "Model Size": params, "eval/loss": loss}
    elif name == "perplexity":
        columns = {"C": flops, "N": params, "ppl": np.exp(loss).tolist()}
    content = csv_text(columns, separator).encode()
    if name == "packed":
        content, file = gzip.compress(content), "a.csv.gz"
    elif name == "columns.json":
        rows = {key: {str(row): value for row, value in enumerate(values)} for key, values in columns.items()}
        content, file = json.dumps(rows).encode(), "a.json"
    (tmp_path / file).write_bytes(content)
    found, err = fit(capsys, tmp_path / file, *ANSWER)
    assert best(found) == pytest.approx(expected, rel=1e-9)
    assert [line.split("]")[0] for line in err] == (["warning [perplexity"] if name == "perplexity" else [])


def test_standard_input(expected, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(csv_text(STUDY).encode())))
    assert best(fit(capsys, "-", *ANSWER)[0]) == expected


def test_one_sentence_for_a_column_that_cannot_be_read(tmp_path, capsys):
    path = write_csv(tmp_path / "a.csv", {**STUDY, "params": ["large"] * 42})
    assert run(["scale-fit", str(path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: a.csv: the column 'params' has no numbers, but cells such as large: write numbers such as 53.3M or 5.33e7, or "
        "name another column"
    ]


def test_data_sets_and_learning_rates(expected, tmp_path, capsys):
    rows = [{**row, "dataset": "c4", "lr": rate, "loss": row["loss"] + worse} for row in rows_of(STUDY)
            for rate, worse in ((1e-3, 0.2), (3e-3, 0.0), (1e-2, 0.1))]  # fmt: skip
    rows += [{**row, "dataset": "pile", "params": row["params"] * 2} for row in rows]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    path = str(tmp_path / "a.json")
    assert run(["scale-fit", path]) == 1
    assert (
        "several studies, by its column 'dataset' (c4, pile): choose with --where 'dataset=c4'"
        in capsys.readouterr().err
    )
    _, err = fit(capsys, path, "--where", "dataset=c4", status=3)
    assert err[0].startswith("warning [several_rates]") and err[0].endswith("add --best-of")
    found, err = fit(capsys, path, "--where", "dataset=c4", "--best-of", *ANSWER)
    assert best(found) == expected
    assert found["runs"] == {
        "read": 252, "dropped": 0, "merged": 0, "used": 42, "not_selected": 126, "not_best": 84, "outliers": 0,
    }  # fmt: skip
    assert run(["scale-fit", path, "--where", "dataset"]) == 1
    assert "write column=value" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--params-unit", "x"), ("--flops-unit", "0"), ("--tokens-unit", "-1")])
def test_a_unit_that_is_none_is_a_mistake(arguments, tmp_path, capsys):
    assert run(["scale-fit", str(write_csv(tmp_path / "a.csv", STUDY)), *arguments]) == 1
    assert f"{arguments[0]} '{arguments[1]}' is no unit" in capsys.readouterr().err


def test_a_unit_of_a_column_that_is_not_there_is_a_mistake(tmp_path, capsys):
    path = write_csv(tmp_path / "a.csv", {name: STUDY[name] for name in ("flops", "params", "loss")})
    assert run(["scale-fit", str(path), "--tokens-unit", "B"]) == 1
    assert "has no tokens for --tokens-unit to be the unit of" in capsys.readouterr().err


@pytest.mark.parametrize("spread", [1e-12, 1e-9, 1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("method", ["quadratic", "parametric", "both"])
def test_sizes_that_hardly_differ_are_refused_whatever_is_asked(spread, method, tmp_path, capsys):
    """All of one size, but for the last digits: neither parabolas nor a surface."""
    columns = {name: list(values) for name, values in STUDY.items()}
    columns["params"] = [1e9 * (1 + spread * (row % 7)) for row in range(42)]
    columns["tokens"] = [flops / 6 / size for flops, size in zip(columns["flops"], columns["params"], strict=True)]
    found, err = fit(capsys, write_csv(tmp_path / "a.csv", columns), "--method", method, *ANSWER,
                     "--predict-params", "1e10", "--predict-loss", "2.5", status=1)  # fmt: skip
    assert (found["n_opt"], found["d_opt"], found["predictions"]) == (None, None, [])
    codes = {warning["code"] for warning in found["warnings"]}
    assert codes & ({"no_surface"} if method == "parametric" else {"too_few_budgets"})
    assert any(line.startswith("error [") for line in err)
