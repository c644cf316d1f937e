"""`hunyuan scale-fit --method sparsity`: its document, its table and figure, its options, and a law that is planned with."""

import csv
import json
import sys
from pathlib import Path

import pytest

from analyses.scaling.laws import Surface
from hunyuan_cli.main import run

sys.path.append(str(Path(__file__).parents[1] / "analyses" / "scaling"))
from mixture_data import LAW, mixtures

FAST = ("--resamples", "100")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mixtures.csv"
    columns = mixtures(noise=2e-3, seed=1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def document(capsys, *arguments, status=0):
    assert run(["scale-fit", *map(str, arguments), *FAST, "--format", "json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_document_has_the_keys_of_every_fit_and_its_own(table, capsys):
    found = document(capsys, table, "--method", "sparsity", "--predict", "1e21,1e22", "--memory", "40GB")
    assert {"method", "budgets", "n_opt", "d_opt", "predictions", "warnings", "sparsity"} <= found.keys()
    assert found["method"] == "sparsity" and len(found["budgets"]) == 4
    assert {"flops", "params_opt", "tokens_opt", "loss_opt", "n_runs", "interior"} <= found["budgets"][0].keys()
    assert found["n_opt"].keys() >= {"coefficient", "exponent", "exponent_interval"}
    assert found["memory_params"] == 20e9
    assert [row["flops"] for row in found["predictions"]] == [1e21, 1e22]
    assert all(row["total_params_opt"] <= 20e9 * (1 + 1e-9) for row in found["predictions"])
    law = found["sparsity"]
    assert law["intervals"]["gamma"][0] < law["gamma"] < law["intervals"]["gamma"][1]
    assert [row["ratio"] for row in law["worth"]] == [1, 4, 16] and law["worth"][0]["params_factor"] == 1


@pytest.mark.parametrize(("memory", "params"), [("40GB", 20e9), ("40GiB", 20 * 2**30), ("20B", 20e9), ("2e10", 20e9)])
def test_a_memory_is_bytes_or_parameters(memory, params, table, capsys):
    assert document(capsys, table, "--method", "sparsity", "--memory", memory)["memory_params"] == params


def test_for_eyes_and_as_a_figure(table, tmp_path, capsys):
    arguments = ["--method", "sparsity", "--predict", "1e22", "--served-tokens", "2T", "--memory", "20B"]
    figure = tmp_path / "law.png"
    assert run(["scale-fit", str(table), *arguments, *FAST, "--plot", str(figure), "--law", "paper"]) == 0
    out, _ = capsys.readouterr()
    for shown in ("what sparsity buys", "total params", "bound", "N_opt, sparsity", "2T served tokens", "of R"):
        assert shown in out, shown
    assert figure.stat().st_size > 20_000


def test_the_law_is_planned_with(table, tmp_path, capsys):
    path = tmp_path / "law.json"
    assert run(["scale-fit", str(table), "--method", "sparsity", *FAST, "--output", str(path)]) == 0
    capsys.readouterr()
    assert run(["scale-plan", "--flops", "1e20", "--law", str(path), "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plans"][0]
    surface = Surface(LAW["E"], LAW["A"] / 16 ** LAW["gamma"], LAW["B"], LAW["alpha"], LAW["beta"])
    assert plan["params_opt"] == pytest.approx(surface.laws()[0](1e20), rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--memory", "40GB"], 2, "--memory needs --method sparsity"),
        (["--served-tokens", "1T"], 2, "--served-tokens needs --method parametric or both or sparsity"),
        (["--method", "sparsity", "--unique-tokens", "1T"], 2, "--unique-tokens needs --method parametric or both"),
        (["--interaction"], 2, "--interaction needs --method sparsity"),
        (["--method", "sparsity", "--term"], 2, "use --plot"),
        (["--method", "sparsity", "--memory", "much"], 2, "not a positive number"),
        (["--method", "sparsity", "--predict-params", "1e9"], 1, "leave predict_params out"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, status, words, table, capsys):
    assert run(["scale-fit", str(table), *arguments]) == status
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and words in err
