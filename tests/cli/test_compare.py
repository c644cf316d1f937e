"""`hunyuan compare`: what it prints, draws and refuses."""

import csv
import io
import json
import xml.etree.ElementTree

import pytest

from hunyuan_cli.main import run

ROW = {"tokens": 0, "flops": 0.0, "seconds": 0.0, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 50.0}


def write_run(folder, seed, loss, lr=0.001):
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(f"[training]\nseed = {seed}\nlr = {lr}\n")
    rows = [
        ROW
        | {"step": s, "tokens": 100 * s, "flops": 6e5 * s, "seconds": s / 2, "loss": loss, "val_loss": loss}
        | {"tokens_per_expert": [[3, 1]]}
        for s in (1, 2)
    ]
    rows[-1]["val_bits_per_byte"] = float("nan")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs" / "wide-seed0", 0, 2.0)
    write_run(tmp_path / "runs" / "wide-seed1", 1, 2.5)
    write_run(tmp_path / "runs" / "narrow", 0, 3.0, lr=0.002)
    return tmp_path / "runs"


def test_table_shows_one_row_a_configuration_and_only_the_differences(runs, capsys):
    assert run(["compare", str(runs)]) == 0
    out = capsys.readouterr().out
    table, differences = out.split("differences\n")
    assert "wide-seed0" not in out
    assert "2.2500 ± 0.3536" in table  # of 2.0 and 2.5
    assert "3.0000" in table and "±" not in table.split("3.0000")[0].split("2.2500")[0]
    assert "training.lr" in differences and "seed" not in differences


def test_json_is_one_document_with_null_for_what_is_not_a_number(runs, capsys):
    assert run(["compare", str(runs), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [row["name"] for row in document["runs"]] == ["narrow", "wide-seed0", "wide-seed1"]
    assert [(row["name"], row["seeds"]) for row in document["groups"]] == [("narrow", 1), ("wide", 2)]
    assert document["runs"][0]["val_bits_per_byte"] is None
    assert document["runs"][0]["tokens"] == 200 and isinstance(document["runs"][0]["tokens"], int)
    assert {row["setting"] for row in document["differences"]} == {"training.seed", "training.lr"}


def test_csv_is_one_table(runs, capsys):
    assert run(["compare", str(runs / "narrow"), str(runs / "wide-seed0"), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["name"], float(row["val_loss"])) for row in rows] == [("narrow", 3.0), ("wide-seed0", 2.0)]


def test_output_goes_to_the_file_in_the_format_of_its_name(runs, tmp_path, capsys):
    target = tmp_path / "new" / "runs.json"
    assert run(["compare", str(runs), "--output", str(target)]) == 0
    assert len(json.loads(target.read_text())["runs"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and str(target) in captured.err
    assert [path.name for path in target.parent.iterdir()] == ["runs.json"]  # nothing partial is left


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figure_is_the_same_bytes_twice(runs, tmp_path, suffix, start):
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    for path in (first, second):
        assert run(["compare", str(runs), "--plot", str(path), "--output", str(tmp_path / "table.txt")]) == 0
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()
    if suffix == "svg":
        xml.etree.ElementTree.fromstring(first.read_bytes())


def test_one_run_is_drawn_in_detail_with_its_experts(runs, tmp_path, capsys):
    options = ["--plot", str(tmp_path / "run.svg"), "--plot-experts", str(tmp_path / "experts.png")]
    assert run(["compare", str(runs / "narrow"), *options]) == 0
    assert "differences" not in capsys.readouterr().out
    assert (tmp_path / "experts.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["{}/absent"], 1, "there is no folder"),
        (["{}", "--plot", "figure.jpg"], 2, "must end in .png, .svg or .pdf"),
        (["{}", "--format", "xml"], 2, "'table', 'json', 'csv'"),
        (["{}", "--plot-experts", "e.png"], 2, "one run"),
        ([], 2, "RUN"),
    ],
)
def test_mistakes_are_one_sentence(runs, capsys, arguments, status, says):
    assert run(["compare", *(argument.format(runs) for argument in arguments)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
