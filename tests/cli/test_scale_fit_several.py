"""Several tables in one call of `hunyuan scale-fit`, and of compare_laws: their laws side by side."""

import json
import sys
from pathlib import Path

import pytest

from analyses.scaling import compare_laws, fit_laws
from hunyuan_cli.main import run

sys.path.append(str(Path(__file__).parents[1] / "analyses" / "scaling"))
from isoflop_data import study, write_csv

FAST = ("--resamples", "100")


@pytest.fixture
def two(tmp_path):
    first = write_csv(tmp_path / "first.csv", study(exponent=0.5, noise=1e-3))
    return first, write_csv(tmp_path / "second.csv", study(exponent=0.55, coefficient=0.01, noise=1e-3, seed=1))


def test_laws_side_by_side_are_those_of_each_table(two, capsys):
    assert (
        run(["scale-fit", *map(str, two), *FAST, "--predict", "1e22,1e23", "--law", "paper", "--format", "json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [(row["table"], row["of"]) for row in found["laws"]] == [
        (str(path), of) for of in ("n_opt", "d_opt") for path in two
    ]
    for path, one in zip(two, found["tables"], strict=True):
        assert run(["scale-fit", str(path), *FAST, "--predict", "1e22,1e23", "--format", "json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert {name: value for name, value in one.items() if name != "table"} == alone
    assert [row["flops"] for row in found["predictions"]] == [1e22, 1e23, 1e22, 1e23]
    assert found["other_laws"][0]["name"] == "paper"


def test_for_eyes_as_a_figure_and_what_is_refused(two, tmp_path, capsys):
    figure = tmp_path / "laws.png"
    assert run(["scale-fit", *map(str, two), *FAST, "--predict", "1e22", "--law", "paper", "--plot", str(figure)]) == 0
    out, _ = capsys.readouterr()
    assert "laws side by side" in out and out.count("first.csv") == 3 and "paper" in out
    assert figure.stat().st_size > 20_000
    assert run(["scale-fit", str(two[0]), str(two[0])]) == 2 and "each table once" in capsys.readouterr().err
    assert run(["scale-fit", *map(str, two), "--term"]) == 2 and "--term draws one" in capsys.readouterr().err
    short = write_csv(tmp_path / "short.csv", {name: values[:7] for name, values in study().items()})
    assert run(["scale-fit", str(two[0]), str(short), *FAST]) == 1
    assert f"{short}: error [too_few_budgets]" in capsys.readouterr().err


def test_in_a_notebook():
    frames = {"a": study(noise=1e-3), "b": study(exponent=0.6, coefficient=1e-3, noise=1e-3)}
    laws = compare_laws(frames, predict="1e22,1e23", resamples=100)
    assert laws["a"]["n_opt"] == fit_laws(frames["a"], resamples=100)["n_opt"]
    assert list(laws.laws["table"]) == ["a", "b", "a", "b"] and list(laws.predictions["flops"]) == [1e22, 1e23] * 2
    assert laws.laws["exponent_low"][1] < 0.6 < laws.laws["exponent_high"][1]
    assert len(laws.figure().axes) == 2
