"""What `hunyuan infer` need not do before the first token: load a compiler, or read a file twice for its checksum."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from hunyuan_cli import main
from model.checkpoint import run as runs
from model.files import sha256
from tests.cli.speaking import write_run

HEAVY = (
    "torch._dynamo torch._inductor sympy pandas transformers matplotlib rich.progress triton safetensors.numpy".split()
)
PROGRAM = """
import sys
from hunyuan_cli import main
status = main.run(sys.argv[2:])
print([name for name in sys.argv[1].split(",") if name in sys.modules], status)
"""


@pytest.mark.parametrize("folder", ["run", "released"])
@pytest.mark.parametrize("options", [[], ["--chat", "--stats"], ["--format", "json", "--temperature", "1"]])
def test_no_compiler_and_no_other_heavy_package_is_loaded(request, folder, options):
    folder = request.getfixturevalue(folder)
    command = ["infer", "the router", "--checkpoint", str(folder), "--tokens", "3", *options]
    done = subprocess.run([sys.executable, "-c", PROGRAM, ",".join(HEAVY), *command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


@pytest.fixture
def trained(tmp_path):
    """A run with the state of its optimizer, in two checkpoints."""
    run = write_run(tmp_path / "run")
    first = run / "checkpoints" / "step-00000000"
    for step in (0, 7):
        folder = run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(exist_ok=True)
        for name in ("model.safetensors", "state.json"):
            (folder / name).write_bytes((first / name).read_bytes())
        (folder / "optimizer.safetensors").write_bytes(b"moments")
        names = ("model.safetensors", "optimizer.safetensors", "state.json")
        (folder / "manifest.json").write_text(json.dumps({name: sha256(folder / name) for name in names}))
    return run


@pytest.fixture
def hashed(monkeypatch):
    """How often each file was read for its checksum, by step and name."""
    seen = Counter()

    def counted(path, *, original=runs.sha256):
        seen[path.parent.name, path.name] += 1
        return original(path)

    monkeypatch.setattr(runs, "sha256", counted)
    return seen


NEWEST = {("step-00000007", "model.safetensors"): 1, ("step-00000007", "state.json"): 1}


@pytest.mark.parametrize("place", ["", "checkpoints/step-00000007"])
@pytest.mark.parametrize("options", [["infer", "hi", "--tokens", "2"], ["infer", "hi", "--experts", "disk"], ["chat"]])
def test_weights_are_checked_once_and_an_optimizer_never(trained, hashed, monkeypatch, place, options):
    monkeypatch.setattr("sys.stdin.readline", lambda: "", raising=False)
    assert main.run([*options, "--checkpoint", str(trained / place)]) == 0
    assert hashed == NEWEST


def test_convert_checks_weights_once(trained, hashed, tmp_path):
    assert main.run(["convert", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert hashed == NEWEST


def test_a_damaged_optimizer_is_no_reason_to_take_older_weights(trained, infer, hashed):
    (trained / "checkpoints" / "step-00000007" / "optimizer.safetensors").write_bytes(b"x")
    assert infer("hi", "--checkpoint", trained, "--tokens", 2)[::2] == (0, "")
    assert hashed == NEWEST
    (trained / "checkpoints" / "step-00000007" / "model.safetensors").write_bytes(b"x")
    status, _, err = infer("hi", "--checkpoint", trained, "--tokens", 2)
    assert (status, err.count("\n")) == (0, 1) and "step-00000007 is damaged (model.safetensors does not match" in err
