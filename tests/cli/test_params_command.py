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


LAYOUT = ["params", "--context", "8K", "--devices", "512"]


def test_a_layout_that_is_given_has_its_bytes(capsys):
    assert run([*LAYOUT, "--expert-parallel", "16", "--context-parallel", "2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    memory, layout = found["training_memory"], found["layout"]
    assert (memory["devices"], memory["expert_parallel"], memory["context_parallel"]) == (512, 16, 2)
    assert layout["memory_bytes"] == memory["per_device"]["total"]["bytes"] and layout["fits"] is None
    assert {row["collective"] for row in layout["sent"]} == {"all-gather", "reduce-scatter", "all-to-all", "all-reduce"}
    assert run([*LAYOUT, "--expert-parallel", "16"]) == 0
    out = capsys.readouterr().out
    assert "sent by a rank in a step" in out and "rows to experts and back" in out and "a plan, not a run" in out


def test_a_layout_is_chosen_for_a_gpu(capsys):
    assert run([*LAYOUT, "--gpu", "h100", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layout = found["layout"]
    assert layout["fits"] and layout["step_seconds"] > 0 and "a plan, not a run" in layout["note"]
    assert found["training_memory"]["per_device"]["total"]["recomputed_bytes"] == layout["memory_bytes"]


def test_layouts_side_by_side(capsys):
    arguments = ["params", "--context", "8K,256K", "--devices", "512", "--gpu", "h200,H100"]
    assert run([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["gpu"], row["context"]) for row in found["layouts"]] == [
        ("h200", 8192), ("h200", 262_144), ("h100", 8192), ("h100", 262_144)
    ]  # fmt: skip
    assert run([*arguments, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["memory_bytes"]) for row in rows] == [row["memory_bytes"] for row in found["layouts"]]
    assert run(arguments) == 0
    assert "a plan, not a run" in capsys.readouterr().out


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
        ["--devices", "512,1024"],
        ["--devices", "32", "--gpu", "h100", "--context", "8K"],
        ["--devices", "8", "--context-parallel", "8", "--context", "1000"],
        ["--gpu", "h1000"],
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
