"""`hunyuan compare --seeds`: differences by seed as a table, JSON, CSV and a figure, and what it refuses."""

import csv
import io
import json

import pytest
from test_compare import write_run

from hunyuan_cli.main import run


@pytest.fixture
def study(tmp_path):
    for arm, lr, losses in (("wide", 0.001, (2.0, 2.5, 3.0)), ("narrow", 0.002, (2.25, 2.5))):
        for seed, loss in enumerate(losses):
            folder = tmp_path / "runs" / f"{arm}-s{seed}"
            write_run(folder, seed, loss, lr)
            (folder / "summary.json").write_text('{"status": "finished"}')
    return tmp_path / "runs"


def test_the_table_has_differences_with_intervals_and_says_which_pair_is_missing(study, capsys):
    assert run(["compare", str(study), "--seeds", "--baseline", "wide", "--confidence", "0.5"]) == 0
    out = capsys.readouterr().out
    arms = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith((" narrow", " wide"))}
    assert arms["wide"][:4] == ["3", "2.5000", "±", "0.5000"]
    settings = out.split("settings")[1]
    assert "lr = 0.002" in settings
    assert "val_loss: differences from wide, seed by seed, with 50% intervals" in out
    assert "narrow lacks seed 2 of wide: those are not in its difference" in out
    (row,) = [line for line in out.splitlines() if line.startswith(" narrow") and "±" in line]
    assert (row.split()[-4], *row.split()[-2:]) == (
        "0.125",
        "0.25",
        "2",
    )  # half of the confidence ends at the pairs, 0 and 0.25


def test_json_is_one_document_with_the_notes(study, capsys):
    assert run(["compare", str(study), "--seeds", "--baseline", "wide", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["baseline"], document["measure"], document["confidence"]) == ("wide", "val_loss", 0.95)
    narrow, wide = document["arms"]
    assert (narrow["variant"], narrow["n"], narrow["pairs"], narrow["difference"]) == ("narrow", 2, 2, 0.125)
    assert narrow["low"] == pytest.approx(0.125 - 12.7062 * 0.125, rel=1e-5)  # t at 97.5% for one degree of freedom
    assert (wide["mean"], wide["sd"], wide["difference"]) == (2.5, 0.5, None)
    assert len(document["notes"]) == 1


def test_csv_has_a_row_an_arm(study, capsys):
    assert run(["compare", str(study), "--seeds", "--baseline", "wide", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["variant"], row["mean"], row["difference"]) for row in rows] == [
        ("narrow", "2.375", "0.125"), ("wide", "2.5", ""),
    ]  # fmt: skip


def test_the_figure_is_the_same_bytes_twice(study, tmp_path, capsys):
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path in paths:
        assert run(["compare", str(study), "--seeds", "--plot", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes() and len(paths[0].read_bytes()) > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--seeds", "--baseline", "broad"], 1, "there is no arm 'broad': the arms are narrow, wide"),
        (["--seeds", "--measure", "val_accuracy"], 1, "no run has a 'val_accuracy': there are tokens"),
        (["--baseline", "wide"], 2, "add --seeds"),
        (["--confidence", "0.9"], 2, "add --seeds"),
        (["--seeds", "--plot-experts", "e.png"], 2, "leave --seeds out"),
    ],
)
def test_mistakes_are_one_sentence(study, capsys, arguments, status, says):
    assert run(["compare", str(study), *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
