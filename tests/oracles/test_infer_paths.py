"""The path that answers (`infer`, with a cache) against the one that trains (`forward`, in evaluation), for every switch."""

import copy

import pytest
import torch

from model.layers import attention
from model.layers.kv_cache import KVCache
from model.transformer import Hunyuan
from tests.oracles.small_models import VARIANTS, build, random_ids

every_variant = pytest.mark.parametrize("name", VARIANTS)
EXACT = {"rtol": 1e-5, "atol": 2e-5}  # of logits up to 6


def cache_for(net, batch=2, tokens=16, dtype=None):
    return KVCache(net.config, batch=batch, max_tokens=tokens, dtype=dtype or net.embed_tokens.weight.dtype)


def infer(net, ids, *pieces):
    """Logits of the ids, a pass for each piece of them."""
    cache = cache_for(net, len(ids))
    return torch.cat([net(part, cache=cache).logits for part in ids.split(pieces or (ids.shape[1],), dim=1)], dim=1)


@every_variant
@torch.no_grad()
def test_infer_equals_forward(name):
    """In one pass, and in chunks and single tokens; the last position alone is the last of all."""
    net, ids = build(name), random_ids(2, 11)
    expected = net(ids).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(infer(net, ids), expected, **EXACT)
    torch.testing.assert_close(infer(net, ids, 4, 1, 1, 3, 2), expected, **EXACT)
    last = net(ids, cache=cache_for(net), last_only=True).logits
    torch.testing.assert_close(last, expected[:, -1:], **EXACT)


@every_variant
@torch.no_grad()
def test_in_bfloat16_infer_is_as_near_to_float32_as_forward_is(name):
    ids = random_ids(8, 12)
    exact, net = build(name)(ids).logits, build(name).bfloat16()
    found, trained = infer(net, ids, 9, 1, 2), net(ids).logits
    # The median: where rounding moves a token to another expert, its logits are others.
    errors = [(logits.float() - exact).abs().median() for logits in (found, trained)]
    assert found.dtype == torch.bfloat16
    assert 0 < errors[0] < 1.3 * errors[1] < 0.03 * exact.std()


@pytest.mark.parametrize("pieces", [(11,), (5, 1, 1, 4)])
@every_variant
@torch.no_grad()
def test_fused_equals_unfused(name, pieces, monkeypatch):
    net, ids = build(name), random_ids(2, 11)
    separate = infer(net, ids, *pieces)
    net.fuse()
    calls = []
    monkeypatch.setattr(attention, "project", lambda *given, call=attention.project: calls.append(1) or call(*given))
    torch.testing.assert_close(infer(net, ids, *pieces), separate, **EXACT)
    assert len(calls) == 2 * net.config.num_hidden_layers * len(pieces)  # q, k and v at once, and the output's


# --- a fused model is still the model that its weights say -----------------------------------------------------------


def other_weights(net: Hunyuan) -> dict[str, torch.Tensor]:
    return build("many", seed=9).to(net.embed_tokens.weight.dtype).state_dict()


def scale(*names):
    def change(net):
        for name in names:
            getattr(net.layers[0].self_attn, name).weight.mul_(1.5)

    return change


def train_a_step(net):
    with torch.enable_grad():
        ids = random_ids(2, 9, seed=3)
        net(ids[:, :-1], ids[:, 1:]).loss.backward()
        torch.optim.SGD(net.parameters(), lr=0.3).step()


CHANGES = {
    "queries in place": scale("q_proj"),
    "keys and values in place": scale("k_proj", "v_proj"),
    "a bias in place": lambda net: net.layers[0].self_attn.k_proj.bias.add_(1.0),
    "load_state_dict": lambda net: net.load_state_dict(other_weights(net)),
    "load_state_dict, assigned": lambda net: net.load_state_dict(other_weights(net), assign=True),
    "bfloat16 and back": lambda net: net.bfloat16().float(),
    "fused again": lambda net: scale("q_proj", "v_proj")(net) or net.fuse(),
    "a step of training": train_a_step,
    "reset": lambda net: net.reset_parameters(torch.Generator().manual_seed(4)),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_fused_model_that_changes_computes_with_its_new_weights(change):
    net, ids = build("many"), random_ids(2, 11)
    net.fuse()
    before = infer(net, ids, 6, 1, 4)
    CHANGES[change](net)
    after = infer(net, ids, 6, 1, 4)
    torch.testing.assert_close(after, net(ids).logits, **EXACT)  # forward never reads what is fused
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_fused_model_in_another_precision_is_the_model_in_that_precision(dtype):
    (net, plain), ids = (build("many"), build("many")), random_ids(2, 11)
    net.fuse()
    assert infer(net.to(dtype), ids, 6, 1, 4).equal(infer(plain.to(dtype), ids, 6, 1, 4))
    net.fuse()
    torch.testing.assert_close(infer(net, ids, 6, 1, 4), infer(plain, ids, 6, 1, 4), rtol=0.05, atol=0.05)


@torch.no_grad()
def test_copies_of_a_fused_model_go_their_own_ways():
    net, ids = build("many"), random_ids(2, 11)
    net.fuse()
    expected, twin = infer(net, ids), copy.deepcopy(net)
    scale("q_proj", "k_proj")(net)
    torch.testing.assert_close(infer(twin, ids), expected, **EXACT)
    torch.testing.assert_close(infer(net, ids), net(ids).logits, **EXACT)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GQA", "MQA and CLA", "bias, plain, CLA 2", "many", "dense, untied"])
@torch.no_grad()
def test_sequences_of_unequal_lengths_go_on_together(name):
    """Each prefilled through rows of its own, then a token each: what each would compute alone."""
    net, lengths, cache = build(name), [7, 2, 1, 5], KVCache(build(name).config, batch=4, max_tokens=12)
    ids = random_ids(4, 12)
    for tensors in cache.slots.values():  # what is not filled may hold anything
        for tensor in tensors:
            tensor.fill_(1e4)
    for row, length in enumerate(lengths):
        rows = cache.rows(row, row + 1)
        net(ids[row : row + 1, :length], cache=rows)
        assert rows.lengths == [length]
        cache.lengths[row] = rows.lengths[0]
    for step in range(5):
        tokens = torch.stack([ids[row, length + step] for row, length in enumerate(lengths)])
        logits = net(tokens[:, None], cache=cache, last_only=True).logits
        for row, length in enumerate(lengths):
            alone = net(ids[row : row + 1, : length + step + 1]).logits[0, -1]
            torch.testing.assert_close(logits[row, 0], alone, **EXACT)
    assert (cache.lengths, cache.length) == ([12, 7, 6, 10], 12)


@torch.no_grad()
def test_a_moved_sequence_goes_on_where_it_was():
    net, ids = build("many"), random_ids(3, 10)
    cache = cache_for(net, 3, 10)
    net(ids[:, :6], cache=cache)
    cache.lengths = [6, 2, 6]  # the second was freed
    cache.move(2, 1)
    assert cache.lengths == [6, 6, 6]
    logits = net(ids[[0, 2], 6:7], cache=cache.rows(0, 2)).logits
    torch.testing.assert_close(logits, net(ids[[0, 2], :7]).logits[:, -1:], **EXACT)


def test_a_move_copies_what_is_filled_and_nothing_else():
    cache = cache_for(build("CLA 2"), batch=3, tokens=5)
    for keys, values in cache.slots.values():
        keys.copy_(torch.randn_like(keys))
        values.copy_(torch.randn_like(values))
    before = copy.deepcopy(cache.slots)
    cache.lengths = [4, 5, 3]
    cache.move(2, 0)
    for layer, pair in cache.slots.items():
        for tensor, old in zip(pair, before[layer], strict=True):
            assert torch.equal(tensor[0, :, :3], old[2, :, :3]) and torch.equal(tensor[0, :, 3:], old[0, :, 3:])
            assert torch.equal(tensor[1:], old[1:])
    assert cache.lengths == [3, 5, 3]


def test_rows_share_memory_and_not_lengths():
    cache = cache_for(build(), batch=4, tokens=5)
    cache.lengths = [1, 2, 3, 4]
    rows = cache.rows(1, 3)
    assert (rows.lengths, rows.max_tokens, rows.length, list(rows.slots)) == ([2, 3], 5, 3, list(cache.slots))
    assert rows.bytes * 2 == cache.bytes
    rows.advance(2)
    assert (rows.lengths, cache.lengths) == ([4, 5], [1, 2, 3, 4])
    rows.slots[0][0].fill_(7.0)
    assert [float(sequence.mean()) for sequence in cache.slots[0][0]] == [0.0, 7.0, 7.0, 0.0]
    assert cache.rows(0, 0).length == 0


@pytest.mark.parametrize(
    ("lengths", "tokens", "positions", "sees"),
    [
        ([0, 0], 3, [0, 1, 2], None),
        ([4, 4], 1, [4], None),
        ([2], 2, [2, 3], None),
        ([2, 0, 4], 1, [[2], [0], [4]], [3, 1, 5]),
    ],
)
def test_a_pass_begins_after_the_filled_tokens(lengths, tokens, positions, sees):
    cache = cache_for(build(), batch=len(lengths), tokens=5)
    cache.lengths = lengths
    assert cache.begin(tokens, torch.device("cpu")).tolist() == positions
    if sees is None:
        assert cache.mask is None
    else:
        assert cache.mask.shape == (len(lengths), 1, 1, 5)
        assert [row.tolist() for row in cache.mask[:, 0, 0]] == [[True] * n + [False] * (5 - n) for n in sees]
    assert cache.lengths == lengths  # until it moves on


@pytest.mark.parametrize(
    ("lengths", "tokens", "sentence"),
    [
        ([5, 5], 1, "the cache holds 5 tokens, 6 were to be stored"),
        ([1, 4], 2, "the cache holds 5 tokens, 6 were to be stored"),
        ([1, 2], 2, "sequences of unequal lengths go on by one token at a time"),
    ],
)
def test_passes_that_the_cache_cannot_take(lengths, tokens, sentence):
    cache = cache_for(build(), batch=2, tokens=5)
    cache.lengths = lengths
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        cache.begin(tokens, torch.device("cpu"))
