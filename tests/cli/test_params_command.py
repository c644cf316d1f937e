"""`hunyuan params`: its document, its tables, and what it refuses."""

import csv
import io
import json

import pytest

from hunyuan_cli.main import run
from model.config.presets import COMPARED


def test_the_document_of_one_model_is_the_contract(capsys):
    assert run(["params", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["total"], found["activated"]) == ("hunyuan-large", 388_701_405_440, 51_322_077_440)
    assert found["components"]["routed"]["total"] == 16 * found["components"]["routed"]["activated"]
    assert {"exact", "six_n", "paper"} <= found["flops_per_token"].keys()


def test_several_models_are_a_list(capsys):
    arguments = ["params", "--model", "mixtral-8x22b", "--model", "deepseek-v3"]
    assert run([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    assert [model["total"] for model in found] == [140_620_634_112, 671_026_419_200]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "141B" in out and "671B" in out


def test_the_table_has_every_digit_and_every_rule(capsys):
    assert run(["params", "--context", "8K", "--devices", "512", "--expert-parallel", "16"]) == 0
    out = capsys.readouterr().out
    for shown in (
        "388,701,405,440",
        "51,322,077,440",
        "389B parameters",
        "at a context of 8,192 tokens",
        "9.59 N + 2.3e8",
    ):
        assert shown in out
    assert "(batch 1, bfloat16, devices 512, expert parallel 16)" in out and "3 * D * F * E per layer" in out


def test_csv_is_the_components(capsys):
    assert run(["params", "--model", "toy", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["component"] for row in rows][-1] == "sum"
    assert sum(int(row["total"]) for row in rows[:-1]) == int(rows[-1]["total"]) == 7_120_256


def test_a_changed_model(capsys):
    assert run(["params", "--model", "toy", "--set", "model.num_experts=32", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["components"]["routed"]["total"] == 2 * 6_291_456


def test_what_was_counted_instead_is_said(capsys, tmp_path):
    values = COMPARED["deepseek-v3"] | {"model_type": "kimi_k2"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    arguments = ["params", "--model", str(tmp_path), "--as", "deepseek_v3"]
    assert run([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"] == 671_026_419_200 and "counted as deepseek_v3" in found["notes"][0]
    assert run(arguments) == 0
    assert "note: " in capsys.readouterr().out
    assert run([*arguments, "--format", "csv"]) == 0
    assert "counted as deepseek_v3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--context", "0"],
        ["--context", "4KB"],
        ["--batch", "0"],
        ["--precision", "fp8"],
        ["--devices", "-1"],
        ["--devices", "6", "--expert-parallel", "4"],
        ["--devices", "5", "--expert-parallel", "5"],
        ["--model", "llama-3.1-8b", "--devices", "4", "--expert-parallel", "2"],
        ["--model", "gpt-5"],
        ["--model", "/"],
        ["--set", "model.hidden_size=-1"],
        ["--set", "hidden_size"],
        ["--format", "xml"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence(arguments, capsys):
    status = run(["params", *arguments])
    out, err = capsys.readouterr()
    assert status in (1, 2) and out == ""
    assert len(err.splitlines()) == 1 and "bug in hunyuan" not in err, err
