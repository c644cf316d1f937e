"""`hunyuan bench report`: runs of several kinds in one table."""

import json

import pytest

from analyses.bench.report import report_table
from hunyuan_cli.main import run
from model.errors import HunyuanError

TRAIN = {
    "device": "cuda",
    "card": "a card",
    "shape": "large",
    "contenders": [
        {"contender": "matmul ceiling", "flops_per_second": 7e14, "of_ceiling": None},
        {"contender": "hunyuan dropless", "of_ceiling": 0.5, "of_peer": None, "peak_memory_bytes": 4e10, "least": 1.0},
    ],
}
LAYER = {"device": "cpu", "contenders": [{"contender": "dense SwiGLU", "layer": "256/512", "milliseconds": 12.5}]}


def test_each_contender_is_a_row_with_what_its_run_says_of_it():
    frame = report_table({"train": TRAIN, "layer": LAYER})
    expected = "run card shape layer contender milliseconds of_ceiling peak_memory_bytes"
    assert list(frame) == expected.split()
    ours, dense = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert (ours["run"], ours["card"], ours["shape"], ours["of_ceiling"]) == ("train", "a card", "large", 0.5)
    assert (dense["card"], dense["shape"], dense["milliseconds"]) == ("cpu", None, 12.5)


def test_what_is_no_run_is_refused():
    with pytest.raises(HunyuanError, match="startup has no contenders: give files that hunyuan bench wrote"):
        report_table({"startup": {"rounds": 5, "commands": []}})


def test_files_are_read_and_named_by_their_stem(tmp_path, capsys):
    (tmp_path / "train_large.json").write_text(json.dumps(TRAIN))
    assert run(["bench", "report", str(tmp_path / "train_large.json"), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["run"], row["contender"], row["of_ceiling"]) == ("train_large", "hunyuan dropless", 0.5)


def test_a_file_that_is_no_json_is_one_sentence(tmp_path, capsys):
    (tmp_path / "notes.json").write_text("{")
    assert run(["bench", "report", str(tmp_path / "notes.json")]) == 1
    assert "notes.json is not JSON: give files that hunyuan bench wrote with --format json" in capsys.readouterr().err
