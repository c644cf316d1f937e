"""Memory of loading and converting, measured in a process of its own: the model and one shard, never two copies of a model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoint.convert import convert
from tests.oracles.released import A13B, layout, write_folder

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells it there")

MB = 10**6
SHARDS = 5
SIZES = {"vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 1024,
         "num_attention_heads": 8, "num_hidden_layers": 4, "num_experts": 7, "moe_topk": 2}  # fmt: skip
EXPERTS = 4 * 7 * 3 * 512 * 1024 * 4  # bytes of the routed ones
CACHE = 30 * MB
ALLOWANCE = 25 * MB  # of Python, of torch and oneDNN, and of the allocator

LOAD = "Hunyuan.from_checkpoint({source!r}, dtype=torch.{dtype})"
INFER = f"(net := Hunyuan.from_checkpoint({{source!r}}, expert_cache_bytes={CACHE}), net(ids))"
CONVERT = f"convert({{source!r}}, {{out!r}}, to={{to!r}}, max_shard_bytes={40 * MB})"
# Every kind of work is done once with a small model, for what the libraries take; then the peak begins anew each time.
SCRIPT = """
import json, sys
import torch
from model import Hunyuan
from model.checkpoint.convert import convert

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

torch.set_num_threads(1)
ids = torch.arange(64).view(2, 32) % 61
used = {}
for name, work in json.load(sys.stdin).items():
    open("/proc/self/clear_refs", "w").write("5")
    peak, anonymous = status("VmHWM"), status("RssAnon")
    made = eval(work)
    used[name] = {"peak": status("VmHWM") - peak, "anonymous": status("RssAnon") - anonymous}
    del made
    net = None
print(json.dumps(used))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """released, of 207 MB in 5 shards; run, the same model; and the same of a small one."""
    home, big, small = tmp_path_factory.mktemp("memory"), A13B | SIZES, A13B | {"moe_topk": 2}
    for name, config, shards in (("", big, SHARDS), ("small-", small, 1)):
        tensors = {name: torch.full(shape, 0.01) for name, shape in layout(config).items()}
        convert(write_folder(home / f"{name}released", config, tensors, shards), home / f"{name}run", to="native")
    return home


@pytest.fixture(scope="module")
def used(folders):
    """Bytes above what the process held before: of all that is resident, mapped files included, at the peak; and at the end."""
    works = {}
    for size in ("small-", ""):
        for kind in ("released", "run"):
            source = str(folders / f"{size}{kind}")
            for dtype in ("float32", "bfloat16"):
                works[f"{size}{kind} {dtype}"] = LOAD.format(source=source, dtype=dtype)
            works[f"{size}{kind} on disk"] = INFER.format(source=source)
        for to in ("native", "hunyuan"):
            out = str(folders / f"{size}to-{to}")
            works[f"{size}to {to}"] = CONVERT.format(source=str(folders / f"{size}released"), out=out, to=to)
    allocator = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": "0"}  # gives back what is freed
    command, work = [sys.executable, "-c", SCRIPT], json.dumps(works)
    done = subprocess.run(
        command, input=work, capture_output=True, text=True, check=True, timeout=300, env=os.environ | allocator
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def sizes(folders):
    """Bytes of the model in float32, and of its largest shard."""
    shards = [path.stat().st_size for path in (folders / "released").glob("*.safetensors")]
    assert len(shards) == SHARDS
    assert max(shards) < sum(shards) / 4
    return sum(shards), max(shards)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_are_streamed(used, sizes, dtype):
    size, shard = sizes
    model = size // (2 if dtype == "bfloat16" else 1)
    of_load = used[f"released {dtype}"]
    assert model < of_load["peak"] + MB < model + shard + ALLOWANCE
    assert of_load["anonymous"] < model + ALLOWANCE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_is_read_tensor_by_tensor(used, sizes, dtype):
    model = sizes[0] // (2 if dtype == "bfloat16" else 1)
    of_load = used[f"run {dtype}"]
    assert model < of_load["peak"] + MB < model + EXPERTS // 6 + ALLOWANCE  # of the largest tensor there are 4
    assert of_load["anonymous"] < model + ALLOWANCE


@pytest.mark.parametrize("to", ["native", "hunyuan"])
def test_a_conversion_takes_the_model_and_one_shard(used, sizes, to):
    size, shard = sizes
    assert size < used[f"to {to}"]["peak"] + MB < size + shard + ALLOWANCE


@pytest.mark.parametrize("kind", ["released", "run"])
def test_experts_on_disk_take_their_cache(used, sizes, kind):
    rest = sizes[0] - EXPERTS
    assert rest < used[f"{kind} on disk"]["anonymous"] + MB < rest + CACHE + ALLOWANCE
