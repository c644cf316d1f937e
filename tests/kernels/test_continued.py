"""Parts of a prompt through the kernel that needs no mask, against the product with one, and who is given to it."""

import pytest
import torch
from torch.nn import functional as F

from model.kernels import continued
from model.layers import attention, kv_cache
from model.layers.attention import causal_attention
from model.layers.kv_cache import KVCache, visible
from tests.oracles.small_models import VARIANTS, build, random_ids


def exactly(queries, keys, values):
    """The product with the mask, in float64."""
    new, places = queries.shape[2], keys.shape[2]
    each = queries.shape[1] // keys.shape[1]
    keys, values = (part.double().repeat_interleave(each, dim=1) for part in (keys, values))
    mask = visible(torch.arange(places - new, places, device=queries.device), places)
    return F.scaled_dot_product_attention(queries.double(), keys, values, attn_mask=mask)


def drawn(device, dtype, new, places, heads=4, groups=2, size=16):
    generator = torch.Generator().manual_seed(new)
    shapes = (2, heads, new, size), (2, groups, places, size), (2, groups, places, size)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("new", "places"), [(2, 3), (7, 64), (130, 131), (65, 1000), (256, 4096)])
@pytest.mark.parametrize(("groups", "size"), [(4, 16), (2, 64), (1, 128)])
def test_the_kernel_is_the_product_with_a_mask(new, places, groups, size):
    queries, keys, values = drawn("cuda", torch.bfloat16, new, places, groups=groups, size=size)
    room = torch.full((2, groups, places + 9, size), float("nan"), device="cuda", dtype=torch.bfloat16)
    room[:, :, :places] = keys  # a cache is longer than what is filled
    assert continued.continues(keys)
    found = continued.attend_at_the_end(queries, room[:, :, :places], values)
    exact = exactly(queries, keys, values)
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize(("new", "places"), [(2, 3), (5, 64), (7, 7)])
def test_without_a_mask_the_last_query_sees_all(new, places):
    queries, keys, values = drawn("cpu", torch.float64, new, places)
    torch.testing.assert_close(causal_attention(queries, keys, values), exactly(queries, keys, values))


@torch.inference_mode()
@pytest.mark.parametrize("name", VARIANTS)
def test_a_prompt_in_parts_needs_no_mask_where_the_kernel_serves(name, monkeypatch):
    """With the oracle in the kernel's place: masks are left out for all parts, and what they said is not lost."""
    calls = []

    def attend(queries, keys, values):
        calls.append((queries.shape[2], keys.shape[2]))
        return exactly(queries, keys, values).to(queries.dtype)

    net, ids = build(name), random_ids(2, 20)
    expected = net(ids).logits[:, -1]
    for module in (attention, kv_cache):
        monkeypatch.setattr(module, "continues", lambda keys: True)
    monkeypatch.setattr(attention, "attend_at_the_end", attend)
    cache = KVCache(net.config, batch=2, max_tokens=24)
    for part in ids.split(8, dim=1):
        assert cache.begin(part.shape[1]).mask is None
        logits = net(part, cache=cache, last_only=True).logits
    assert calls == [(8, 16)] * len(net.layers) + [(4, 20)] * len(net.layers)
    torch.testing.assert_close(logits[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_processor_has_the_mask():
    assert not continued.continues(torch.zeros(1, 1, 4, 16, dtype=torch.bfloat16))
    cache = KVCache(build().config, batch=1, max_tokens=12)
    cache.advance(4)
    mask = cache.begin(3).mask
    assert mask is not None and mask.tolist() == [[place <= 4 + row for place in range(7)] for row in range(3)]
