"""Released folders of all three families, loaded and run: the same logits as the released code written out, to 1e-4.

Each case is read from one file and from three, with the release's keys in config.json and with those of transformers 5.
"""

import functools

import pytest
import torch

from model import Hunyuan
from model.layers.kv_cache import KVCache
from tests.oracles import released
from tests.oracles.released import CASES, logits, random_tensors, transformers5_keys, write_folder

INPUT_IDS = torch.randint(61, (4, 13), generator=torch.Generator().manual_seed(0))
PREFILL = 5
TOLERANCE = 1e-4
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def tensors_of(name):
    return random_tensors(CASES[name], seed=11)


@functools.cache
def reference(name):
    """The logits (B, S, V), and the names of the MLPs that had a token."""
    visited, mlp = set(), released.mlp
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released, "mlp", lambda weights, at, x: visited.add(at) or mlp(weights, at, x))
        return torch.stack([logits(CASES[name], tensors_of(name), row.tolist()) for row in INPUT_IDS]), visited


def assert_equal_logits(name, found):
    expected, _ = reference(name)
    torch.testing.assert_close(found.double(), expected[: len(found)], rtol=0, atol=TOLERANCE)


@every_case
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("spelling", [dict, transformers5_keys], ids=["released", "transformers5"])
@torch.no_grad()
def test_logits_equal_the_released_code(name, shards, spelling, tmp_path):
    folder = write_folder(tmp_path, spelling(CASES[name]), tensors_of(name), shards)
    net = Hunyuan.from_checkpoint(folder)
    assert not net.training
    assert_equal_logits(name, net(INPUT_IDS).logits)

    cache = KVCache(net.config, batch=1, max_tokens=INPUT_IDS.shape[1])
    chunks = INPUT_IDS[:1].split([PREFILL] + [1] * (INPUT_IDS.shape[1] - PREFILL), dim=1)
    assert_equal_logits(name, torch.cat([net(chunk, cache=cache).logits for chunk in chunks], dim=1))


@every_case
def test_module_holds_what_the_folder_does(name, tmp_path):
    net = Hunyuan.from_checkpoint(write_folder(tmp_path, CASES[name], tensors_of(name)))
    assert sum(p.numel() for p in net.parameters()) == sum(tensor.numel() for tensor in tensors_of(name).values())


@every_case
def test_no_expert_is_left_out(name):
    """An expert that none of these tokens chooses could be any other."""
    _, visited = reference(name)
    assert {f"{at}.gate_proj.weight" for at in visited} == {key for key in tensors_of(name) if "gate_proj" in key}
