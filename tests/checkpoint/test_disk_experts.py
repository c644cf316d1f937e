"""Experts that stay on disk: the logits of the loaded model, and a cache that is least-recently-used to the letter."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import Hunyuan, HunyuanConfig
from model.checkpoint.convert import convert
from model.checkpoint.disk_experts import ExpertCache
from model.errors import ConfigError
from model.layers.kv_cache import KVCache
from tests.oracles.released import CASES

CONFIG = HunyuanConfig.from_name("toy", num_hidden_layers=3, num_experts=5, hidden_size=4, intermediate_size=2)
EXPERT = 3 * 2 * 4 * 4  # bytes of one of CONFIG's in float32
INPUT_IDS = torch.randint(61, (3, 14), generator=torch.Generator().manual_seed(0))
MIXTURES = ["large", "large-top2", "large-topk-list", "large-no-shared", "a13b", "a13b-alpha", "a13b-bias-tied"]


@pytest.fixture
def folder_of(released_folder, tmp_path):
    """folder_of("large", "native") -> a folder of that kind."""

    def folder(case, kind):
        released = released_folder(case)
        if kind == "released":
            return released
        convert(released, tmp_path / "run", to="native")
        return tmp_path / "run" if kind == "native" else tmp_path / "run" / "checkpoints" / "step-00000000"

    return folder


@torch.no_grad()
def decoded(net):
    """Logits of a prefill of 5 tokens, one of 3, and six decode steps, of three sequences."""
    cache = KVCache(net.config, batch=3, max_tokens=14, dtype=net.embed_tokens.weight.dtype)
    return torch.cat(
        [net(chunk, cache=cache).logits for chunk in INPUT_IDS.split([5, 3, 1, 1, 1, 1, 1, 1], dim=1)], dim=1
    )


def of_experts(net, slots):
    """Bytes for so many experts of a model."""
    expert = 3 * net.config.hidden_size * net.config.intermediate_size
    return slots * expert * net.embed_tokens.weight.element_size()


@pytest.mark.parametrize("case", MIXTURES)
@pytest.mark.parametrize("kind", ["released", "native", "checkpoint"])
@pytest.mark.parametrize("slots", [1, 5, 99])
def test_the_logits_are_those_of_the_loaded_model(folder_of, case, kind, slots):
    folder = folder_of(case, kind)
    loaded = Hunyuan.from_checkpoint(folder)
    net = Hunyuan.from_checkpoint(folder, expert_cache_bytes=of_experts(loaded, slots))
    assert not net.training
    assert torch.equal(decoded(net), decoded(loaded))
    with torch.no_grad():  # without a key-value cache the loaded experts take one grouped product
        torch.testing.assert_close(net(INPUT_IDS).logits, loaded(INPUT_IDS).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["released", "native"])
def test_another_precision(folder_of, kind):
    folder = folder_of("large-top2", kind)
    loaded = Hunyuan.from_checkpoint(folder, dtype=torch.bfloat16)
    net = Hunyuan.from_checkpoint(folder, dtype=torch.bfloat16, expert_cache_bytes=of_experts(loaded, 2))
    assert net.layers[0].mlp.experts.cache.dtype == torch.bfloat16
    assert torch.equal(decoded(net), decoded(loaded))


@pytest.mark.parametrize("kind", ["released", "native"])
def test_all_but_the_experts_is_in_memory_and_experts_are_read_once_when_all_fit(folder_of, kind):
    folder = folder_of("large-top2", kind)
    loaded = Hunyuan.from_checkpoint(folder)
    net = Hunyuan.from_checkpoint(folder, expert_cache_bytes=10**9)
    names = {name for name, _ in loaded.named_parameters() if ".mlp.experts." not in name}
    assert {name for name, p in net.named_parameters() if p.device.type == "cpu"} == names
    cache = net.layers[0].mlp.experts.cache
    assert all(layer.mlp.experts.cache is cache for layer in net.layers)
    decoded(net)
    first = cache.stats.to_dict()
    assert first["misses"] <= 3 * 4 < first["hits"]
    assert cache.held_bytes == first["bytes_read"] == of_experts(net, first["misses"])
    decoded(net)
    assert cache.stats.misses == first["misses"]


@pytest.mark.parametrize("kind", ["released", "native"])
def test_a_capacity_below_one_expert_and_a_dense_model_are_refused(folder_of, kind):
    folder = folder_of("large-top2", kind)
    size = 3 * 24 * 20 * 4
    for capacity in (size - 1, 0, -1):
        with pytest.raises(
            ConfigError, match=rf"a cache of {capacity:,} bytes holds no expert: give it at least 5,760"
        ):
            Hunyuan.from_checkpoint(folder, expert_cache_bytes=capacity)
    Hunyuan.from_checkpoint(folder, expert_cache_bytes=size)


@pytest.mark.parametrize("kind", ["released", "native"])
def test_a_dense_model_is_refused(folder_of, kind):
    with pytest.raises(ConfigError, match="is a dense model: it has no routed experts that could stay on disk"):
        Hunyuan.from_checkpoint(folder_of("dense", kind), expert_cache_bytes=10**9)


def test_the_mixtures_are_all_kinds():
    assert {CASES[case]["model_type"] for case in MIXTURES} == {"hunyuan", "hunyuan_v1_moe"}


# --- the cache -------------------------------------------------------------------------------------------------------


def value(layer, expert):
    return 100.0 * layer + expert


def cache_of(capacity, log=None, dtype=torch.float32):
    def read(layer, expert, slot):
        if log is not None:
            log.append((layer, expert))
        for part, tensor in enumerate(slot):
            tensor.fill_(value(layer, expert) + part / 2)

    return ExpertCache(CONFIG, read, capacity, dtype=dtype)


uses = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(uses, st.integers(EXPERT, 18 * EXPERT))
def test_the_least_recently_used_gives_way(uses, capacity):
    log, expected_log, held, hits, slots = [], [], OrderedDict(), 0, set()
    cache = cache_of(capacity, log)
    for layer, expert in uses:
        gate_up, down = cache.get(layer, expert)
        assert (gate_up.shape, down.shape) == ((4, 4), (4, 2))
        assert gate_up.eq(value(layer, expert)).all()
        assert down.eq(value(layer, expert) + 0.5).all()
        slots.add((gate_up.data_ptr(), down.data_ptr()))
        if (layer, expert) in held:
            held.move_to_end((layer, expert))
            hits += 1
        else:
            expected_log.append((layer, expert))
            held[layer, expert] = None
            if len(held) * EXPERT > capacity:
                held.popitem(last=False)
        assert len(slots) * EXPERT <= capacity
        assert cache.held_bytes == len(held) * EXPERT
    assert log == expected_log
    assert cache.stats.to_dict() == {
        "hits": hits,
        "misses": len(log),
        "bytes_read": len(log) * EXPERT,
        "hit_rate": hits / len(uses) if uses else None,
    }


def test_a_read_that_fails_leaves_no_wrong_expert_behind():
    log = []
    cache = cache_of(2 * EXPERT, log)
    good = cache._read

    def torn(layer, expert, slot):
        slot[0].fill_(-1.0)
        raise OSError("the disk is gone")

    cache.get(0, 0), cache.get(0, 1)
    cache._read = torn
    with pytest.raises(OSError, match="gone"):
        cache.get(0, 2)
    cache._read = good
    for expert in (1, 2, 0):
        assert cache.get(0, expert)[0].eq(value(0, expert)).all()
    assert cache.held_bytes == 2 * EXPERT
    assert log == [(0, 0), (0, 1), (0, 2), (0, 0)]


def test_slots_are_in_the_models_precision_and_allocated_when_needed():
    cache = cache_of(7 * EXPERT, dtype=torch.bfloat16)
    assert (cache.slots, cache.held_bytes) == (14, 0)
    assert cache.get(2, 4)[0].dtype == torch.bfloat16
    assert cache.held_bytes == EXPERT // 2
    assert cache_of(10**12).slots == 3 * 5  # never more than there are
