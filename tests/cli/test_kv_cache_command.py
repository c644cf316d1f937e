"""`hunyuan kv-cache`: its document, its tables, its pictures, and what it refuses."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.main import run
from model.config import HunyuanConfig
from model.config.presets import COMPARED

ROOT = Path(__file__).parents[2]
LLAMA = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def document(capsys, *arguments):
    assert run(["kv-cache", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_document_of_one_context_is_the_contract(capsys):
    found = document(capsys)
    assert {key: found[key] for key in ("model", "context", "batch", "dtype")} == {
        "model": "hunyuan-large", "context": 262_144, "batch": 1, "dtype": "bf16",
    }  # fmt: skip
    rows = {row["variant"]: row for row in found["rows"]}
    table_2 = {"MHA": 1_638_400, "GQA": 163_840, "MQA": 20_480, "CLA": 819_200, "GQA+CLA": 81_920}
    assert {name: row["bytes_per_token"] for name, row in rows.items()} == table_2
    assert (rows["MHA"]["bytes"], rows["GQA+CLA"]["bytes"]) == (400 * 2**30, 20 * 2**30)
    assert [row["fraction_of_mha"] for row in rows.values()] == [1, 0.1, 0.0125, 0.5, 0.05]
    assert [name for name, row in rows.items() if row["own"]] == ["GQA+CLA"]


def test_grids_and_what_fits(capsys):
    found = document(
        capsys, "--context", "8K,32K", "--batch", "1,8", "--dtype", "bf16,fp8", "--gpu", "h200", "--devices", "8"
    )
    assert (found["context"], found["batch"], found["dtype"]) == ([8192, 32768], [1, 8], ["bf16", "fp8"])
    assert len(found["rows"]) == 5 * 2 * 2 * 2
    assert len(found["largest_batch"]) == len(found["longest_context"]) == 5 * 2 * 2
    assert len(found["decoding"]) == 5 * 2 * 2 * 2
    for row in found["largest_batch"] + found["longest_context"]:
        assert row["limited_by"] == "cache" and row["free_bytes"] >= 0
        parts = ("reserve_bytes", "weights_bytes", "activations_bytes", "cache_bytes", "free_bytes")
        assert sum(row[part] for part in parts) == 141 * 10**9
    assert any("MQA: the cache has 1 head for 8 devices" in note for note in found["notes"])


def test_the_table_marks_the_models_own_and_says_once_what_is_always_the_same(capsys):
    assert run(["kv-cache", "--memory", "141GB", "--devices", "8"]) == 0
    out = capsys.readouterr().out
    assert "GQA+CLA *" in out and "* the model's own" in out and "note: hunyuan-large MQA" in out
    assert out.count("hunyuan-large") < 8


def test_csv_is_one_table_and_names_the_others(capsys):
    arguments = ["kv-cache", "--format", "csv", "--gpu", "h200", "--devices", "16"]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [int(row["bytes_per_token"]) for row in rows] == [1_638_400, 163_840, 20_480, 819_200, 81_920]
    assert "--table largest_batch or longest_context or decoding gives another" in err
    assert run([*arguments, "--table", "decoding"]) == 0
    out, err = capsys.readouterr()
    assert [row["variant"] for row in csv.DictReader(io.StringIO(out)) if row["tokens_per_second"]] == [
        "MHA", "GQA", "MQA", "CLA", "GQA+CLA",
    ]  # fmt: skip
    assert "--table" not in err


def test_weights_are_of_the_format_that_the_config_says(capsys, tmp_path):
    """DeepSeek-V3's own config.json says fp8, with which 8 H200 hold 17 sequences of 32K; bf16 fits not even once."""
    values = COMPARED["deepseek-v3"] | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    machine = ["--model", str(tmp_path), "--variant", "MLA", "--context", "32K", "--gpu", "H200", "--devices", "8"]
    found = document(capsys, *machine)
    assert [row["largest_batch"] for row in found["largest_batch"]] == [17]
    assert found["weights"][0]["format"] == "fp8" and "method fp8" in found["weights"][0]["reason"]
    assert any("weights are counted as fp8: its quantization_config" in note for note in found["notes"])
    assert document(capsys, *machine, "--weights", "bf16")["largest_batch"][0]["largest_batch"] == 0
    (tmp_path / "config.json").write_text(json.dumps(values | {"quantization_config": {"quant_method": "quip"}}))
    found = document(capsys, *machine)
    assert found["largest_batch"][0]["largest_batch"] == 0
    assert any("method 'quip', whose bits are not known" in note for note in found["notes"])


def test_several_devices_are_compared_in_one_table(capsys):
    found = document(capsys, "--model", "llama-3.1-8b", "--variant", "GQA", "--gpu", "H100,4090", "--gpu", "h200")
    assert found["gpu"] == ["h100", "rtx-4090", "h200"]
    assert [row["gpu"] for row in found["decoding"]] == ["h100", "rtx-4090", "h200"]
    speeds = [row["tokens_per_second"] for row in found["decoding"]]
    assert [speed / speeds[0] for speed in speeds] == pytest.approx([1, 1_008 / 3_350, 4_800 / 3_350])
    assert found["largest_batch"][1]["largest_batch"] == 0 < found["largest_batch"][2]["largest_batch"]


def test_windows_that_cap_the_cache_are_said(capsys):
    arguments = ["--model", "llama-3.1-70b", "--variant", "GQA+SWA:1024*5/GQA", "--context", "1M"]
    row = document(capsys, *arguments)["rows"][0]
    token, context = 2 * 8 * 128 * 2, 2**20  # bytes of one layer
    assert row["bytes_per_token"] == 80 * token and row["capped_layers"] == 67
    assert row["bytes"] == token * (67 * 1024 + 13 * context)
    assert row["bytes_per_token_at_context"] == row["bytes"] / context
    assert run(["kv-cache", *arguments]) == 0
    out = capsys.readouterr().out
    assert "of 80 cached layers 67 keep at most 1,024 tokens" in out and "capped layers" in out
    assert run(["kv-cache"]) == 0
    assert "capped" not in capsys.readouterr().out


def test_a_name_with_underscores_stays(capsys, tmp_path):
    (tmp_path / "my_model_v2").mkdir()
    (tmp_path / "my_model_v2" / "config.json").write_text(json.dumps(LLAMA))
    for command in ("kv-cache", "params"):
        assert run([command, "--model", str(tmp_path / "my_model_v2")]) == 0
        assert "my_model_v2" in capsys.readouterr().out


def test_models_side_by_side_changed_and_from_files(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(HunyuanConfig.from_name("toy").to_dict()))
    (tmp_path / "llama.json").write_text(json.dumps(LLAMA))
    names = [str(tmp_path / "run"), str(tmp_path / "llama.json"), "deepseek-v2"]
    found = document(capsys, *(part for name in names for part in ("--model", name)), "--context", "1K")
    assert found["model"] == names
    assert [(row["variant"], row["bytes_per_token"]) for row in found["rows"]] == [
        ("GQA+CLA", 512), ("GQA", 3 * 2 * 2 * 6 * 2), ("MLA", 69_120),
    ]  # fmt: skip
    changed = document(capsys, "--model", "toy", "--set", "model.num_hidden_layers=8")
    assert changed["rows"][0]["bytes_per_token"] == 2 * 2048


SIDE_BY_SIDE = ("hunyuan-large", "llama-3.1-405b", "llama-3.1-70b", "mixtral-8x22b", "deepseek-v2", "deepseek-v2.5")


@pytest.mark.parametrize("arguments", [[], ["--context", "128K", *(f"--model={name}" for name in SIDE_BY_SIDE)]])
def test_the_readme_and_the_results_show_what_is_printed(arguments, capsys):
    assert run(["kv-cache", *arguments]) == 0
    page = ROOT / ("examples/RESULTS.md" if arguments else "README.md")
    assert capsys.readouterr().out in page.read_text(encoding="utf-8")


def test_the_figures_of_what_fits_in_the_results(capsys):
    """28 against 1 sequences of 256K, 521 against 79 tokens a second; 57, 10 and 72 sequences of 128K."""
    machine = ["--gpu", "h200", "--devices", "8", "--weights", "fp8"]
    found = document(capsys, *machine, "--variant", "MHA")
    assert [row["largest_batch"] for row in found["largest_batch"]] == [1, 28]
    assert [round(row["tokens_per_second"]) for row in found["decoding"]] == [79, 521]
    machine += ["--context", "128K", "--model", "deepseek-v2"]
    found = document(capsys, *machine, "--model", "hunyuan-large")
    assert [row["largest_batch"] for row in found["largest_batch"]] == [10, 57]
    found = document(capsys, *machine, "--variant", "MLA", "--dp-attention")
    assert [row["largest_batch"] for row in found["largest_batch"]] == [72]


def test_files_are_written(tmp_path, capsys):
    assert run(["kv-cache", "--plot", str(tmp_path / "a.svg"), "--output", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["model"] == "hunyuan-large"
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert capsys.readouterr().out == ""


def test_measured_to_the_byte(capsys):
    found = document(
        capsys, "--model", "small", "--context", "300", "--batch", "3", "--measure", "--dtype", "bf16,fp32"
    )
    assert len(found["measured"]) == 10 and all(row["equal"] for row in found["measured"])
    assert all(row["measured_bytes"] == row["closed_form_bytes"] > 0 for row in found["measured"])


@pytest.mark.parametrize("command", ["kv-cache", "params"])
def test_neither_torch_nor_pandas_is_loaded(command):
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'scipy'}"
    code = f"import sys; from hunyuan_cli.main import run; run(['{command}']); "
    code += f"print(*({heavy} & set(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr.strip()) == (0, ""), result.stderr
    assert "hunyuan-large" in result.stdout


BAD = [
    ["--context", "0"],
    ["--context", "-1"],
    ["--context", "12GX"],
    ["--context", "8K,,32K"],
    ["--context", "1.5"],
    ["--context", "1e400"],
    ["--context", ""],
    ["--batch", "0"],
    ["--batch", "two"],
    ["--dtype", "bf17"],
    ["--dtype", ""],
    ["--group-size", "0"],
    ["--gpu", "h2000"],
    ["--memory", "12GX"],
    ["--memory", "0"],
    ["--memory", "80"],
    ["--bandwidth", "3350"],
    ["--gpu", "a100"],
    ["--gpu", "h100,"],
    ["--table", "decoding"],
    ["--table", "rows", "--format", "json"],
    ["--as", "deepseek_v3"],
    ["--as", "nothing"],
    ["--bandwidth", "fast"],
    ["--memory", "80GB", "--reserve", "100%"],
    ["--memory", "80GB", "--reserve", "abc"],
    ["--memory", "80GB", "--devices", "8", "--tensor-parallel", "3"],
    ["--memory", "80GB", "--weights", "fp5"],
    ["--devices", "0"],
    ["--variant", "GQB"],
    ["--variant", "GQA:7"],
    ["--variant", "CLA:999"],
    ["--variant", "MHA+GQA"],
    ["--variant", "MHA*0"],
    ["--model", "hunyuan-larg"],
    ["--model", "no/such/folder"],
    ["--set", "num_experts=3"],
    ["--set", "model.num_expert=3"],
    ["--set", "training.steps=3"],
    ["--model", "llama-3.1-8b", "--set", "model.no_such_key=3"],
    ["--model", "toy", "--measure", "--dtype", "int4"],
    ["--model", "deepseek-v2", "--measure"],
    ["--plot", "figure.gif"],
    ["--prefill-chunk", "none"],
]


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_a_mistake_is_one_sentence(arguments, capsys):
    status = run(["kv-cache", *arguments])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("allocating")]
    assert status in (1, 2) and out == ""
    assert len(lines) == 1 and "bug in hunyuan" not in err and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (json.dumps(LLAMA | {"num_key_value_heads": 3}), "num_key_value_heads is 3"),
        (json.dumps(LLAMA | {"num_attention_heads": 5}), "num_attention_heads is 5"),
        (json.dumps(LLAMA | {"model_type": "gpt_neo"}), "known are hunyuan"),
        (json.dumps(LLAMA | {"hidden_size": "24"}), "hidden_size is '24'"),
        ("[1]", "not an object"),
        ("{", "not a JSON document"),
    ],
)
def test_a_config_that_lies_is_refused_by_name(content, shown, tmp_path, capsys):
    (tmp_path / "config.json").write_text(content)
    assert run(["kv-cache", "--model", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert shown in err and len(err.splitlines()) == 1
