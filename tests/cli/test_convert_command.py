"""`hunyuan convert`: the library's conversion on the command line; facts on standard output, stages on standard error."""

import json
import sys

import pytest
import torch

from hunyuan_cli import main
from model import Hunyuan
from model.tokenizer.bpe import train_tokenizer
from tests.oracles.released import CASES, random_tensors, write_folder

INPUT_IDS = torch.arange(12).view(1, 12)


@pytest.fixture
def convert(capfd, tmp_path, monkeypatch):
    """convert(...) -> (status, stdout, stderr), among the folders moe, large and dense."""
    files = {"tokenizer.json": train_tokenizer(["a tokenizer"], 257).to_json()}
    for name, case in {"moe": "a13b-top2", "large": "large", "dense": "dense"}.items():
        write_folder(tmp_path / name, CASES[case] | {"eos_token_id": 5}, random_tensors(CASES[case], 1), 2, files)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["convert", *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


@torch.no_grad()
def logits(folder):
    return Hunyuan.from_checkpoint(folder)(INPUT_IDS).logits


def test_there_and_back_by_default(convert, tmp_path):
    status, out, err = convert("large", "--out", "runs/large")
    assert (status, err) == (0, "reading large ...\nwriting runs/large ...\n")
    facts = dict(
        line.rsplit(maxsplit=1) for line in out.splitlines() if line.startswith((" layout", " dtype", " out "))
    )
    assert {name.strip(): value for name, value in facts.items()} == {
        "layout": "native", "dtype": "float32", "out": "runs/large"}  # fmt: skip
    assert (tmp_path / "runs" / "large" / "checkpoints" / "step-00000000").is_dir()
    status, out, err = convert("runs/large", "--out", "back", "--max-shard-size", "30kB", "--format", "json")
    document = json.loads(out)
    assert (status, document["layout"], document["shards"]) == (0, "hunyuan", 4)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) == 4
    assert torch.equal(logits("back"), logits("large"))


def test_json_is_one_document_with_all_facts(convert):
    status, out, err = convert("large", "--out", "runs/large", "--format", "json")
    parameters = sum(tensor.numel() for tensor in random_tensors(CASES["large"], 1).values())
    assert (status, json.loads(out)) == (
        0,
        {
            "source": "large", "out": "runs/large", "layout": "native", "dtype": "float32", "parameters": parameters,
            "tensors": 39, "shards": 1, "bytes": 4 * parameters, "largest_difference": None,
            "tokenizer_files": ["generation_config.json", "tokenizer.json"], "left_out": [], "notes": [],
        },
    )  # fmt: skip
    assert "reading" in err


def test_the_export_to_transformers_is_checked(convert, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    status, out, err = convert("moe", "--out", "a", "--to", "transformers", "--dtype", "bfloat16", "--format", "json")
    document = json.loads(out)
    assert (status, err) == (0, "reading moe ...\nwriting a ...\ncomparing with transformers ...\n")
    assert (document["layout"], document["dtype"]) == ("transformers", "bfloat16")
    assert 0 < document["largest_difference"] < 1e-4
    status, out, err = convert("moe", "--out", "b", "--to", "transformers", "--no-check", "--format", "json")
    assert (status, err) == (0, "reading moe ...\nwriting b ...\n")
    assert json.loads(out)["largest_difference"] is None
    monkeypatch.setattr("model.checkpoint.export_check.TOLERANCE", 0.0)
    status, out, err = convert("moe", "--out", "c", "--to", "transformers")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: transformers ")
    assert not (tmp_path / "c").exists()


def test_without_transformers_it_is_written_and_said_that_nobody_checked(convert, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    status, _, err = convert("dense", "--out", "out", "--to", "transformers")
    assert status == 0
    assert err.splitlines()[-1] == (
        "the check was skipped: the comparison with transformers needs the package 'transformers': "
        "install it with pip install 'hunyuan[hf]'"
    )
    assert torch.equal(logits("out"), logits("dense"))


def test_a_source_without_a_tokenizer_is_converted_and_that_is_said(convert, tmp_path):
    (tmp_path / "large" / "tokenizer.json").unlink()
    status, _, err = convert("large", "--out", "out")
    assert status == 0
    assert err.splitlines()[-1] == "large has no tokenizer: copy the one that the model was trained with into out"


@pytest.mark.parametrize(
    ("status", "arguments", "says"),
    [
        (
            1,
            "absent --out out",
            "absent does not exist: give the folder of a run, the one that hunyuan train --out named",
        ),
        (1, ". --out out", ". has no checkpoint: give the folder of a run"),
        (1, "large --out moe", "moe is already there: name another folder, or remove it first"),
        (1, "large --out large", "large is already there"),
        (1, "large --out large/config.json/x", "large/config.json/x cannot be made, for "),
        (1, "large --out out --to transformers", "(CLA); the weight of its top-1 expert is the softmax probability"),
        (1, "large --out out --to transformers", ": write the released layout, --to hunyuan"),
        (1, "gguf --out out", "gguf/config.json has the model type 'gguf': this project runs hunyuan, "),
        (1, "broken --out out", "broken/config.json is not a JSON document"),
        (1, "pickled --out out", "a pickle, which can run code and is never loaded"),
        (2, "large", "Missing option '--out'"),
        (2, "--out out", "Missing argument 'source'"),
        (2, "large --out out --to gguf", "'gguf' is not one of 'native', 'hunyuan', 'transformers'"),
        (2, "large --out out --dtype float8", "'float8' is not one of 'float32', 'bfloat16', 'float16'"),
        (2, "large --out out --max-shard-size 0", "'0' is not a size in bytes"),
        (2, "large --out out --max-shard-size big", "'big' is not a size in bytes: write 141GB"),
        (2, "large --out out --format csv", "'csv' is not one of 'table', 'json'"),
        (2, "large --out pickled/pytorch_model.bin", "'--out': dir 'pickled/pytorch_model.bin' is a file"),
    ],
)
def test_a_mistake_is_one_sentence(convert, tmp_path, status, arguments, says):
    for name, content in {
        "gguf": '{"model_type": "gguf"}',
        "broken": "{",
        "pickled": json.dumps(CASES["large"]),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    before = sorted(tmp_path.rglob("*"))
    found, out, err = convert(*arguments.split())
    *stages, last = err.splitlines()
    assert (found, out) == (status, ""), err
    assert all(stage.endswith(" ...") for stage in stages)
    assert last.startswith("error: ")
    assert says in last
    assert "this is a bug" not in last
    assert sorted(tmp_path.rglob("*")) == before


def test_it_is_among_the_commands_with_an_example(capfd):
    assert main.run(["--help"]) == 0
    assert "convert" in capfd.readouterr().out
    assert main.run(["convert", "--help"]) == 0
    assert "hunyuan convert downloads/Hunyuan-A13B-Instruct --out runs/a13b" in " ".join(capfd.readouterr().out.split())
