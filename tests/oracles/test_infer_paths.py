"""What answers, with a cache and where nothing is kept for a backward pass, against what trains, for every switch."""

import copy
import subprocess
import sys

import pytest
import torch

from model.layers.kv_cache import KVCache
from model.transformer import Hunyuan
from tests.oracles.small_models import VARIANTS, build, random_ids

every_variant = pytest.mark.parametrize("name", VARIANTS)
EXACT = {"rtol": 1e-5, "atol": 2e-5}  # of logits up to 6


def cache_for(net, batch=2, tokens=16, dtype=None):
    return KVCache(net.config, batch=batch, max_tokens=tokens, dtype=dtype or net.embed_tokens.weight.dtype)


def answer(net, ids, *pieces):
    """Logits of the ids, a pass for each piece of them."""
    cache = cache_for(net, len(ids))
    return torch.cat([net(part, cache=cache).logits for part in ids.split(pieces or (ids.shape[1],), dim=1)], dim=1)


def trained(net, ids):
    """Logits without a cache, by the products that have derivatives."""
    with torch.enable_grad():
        logits = net(ids).logits
    assert logits.requires_grad
    return logits.detach()


@every_variant
@torch.no_grad()
def test_an_answer_is_what_training_computes(name):
    """In one pass, in chunks and single tokens, and without a cache; the last position alone is the last of all."""
    net, ids = build(name), random_ids(2, 11)
    expected = trained(net, ids)
    torch.testing.assert_close(net(ids).logits, expected, **EXACT)
    assert expected.std() > 0.5
    torch.testing.assert_close(answer(net, ids), expected, **EXACT)
    torch.testing.assert_close(answer(net, ids, 4, 1, 1, 3, 2), expected, **EXACT)
    last = net(ids, cache=cache_for(net), last_only=True).logits
    torch.testing.assert_close(last, expected[:, -1:], **EXACT)


@every_variant
@torch.no_grad()
def test_in_bfloat16_an_answer_is_as_near_to_float32_as_training_is(name):
    ids = random_ids(8, 12)
    exact, net = build(name)(ids).logits, build(name).bfloat16()
    found = answer(net, ids, 9, 1, 2)
    # The median: where rounding moves a token to another expert, its logits are others.
    errors = [(logits.float() - exact).abs().median() for logits in (found, trained(net, ids))]
    assert found.dtype == torch.bfloat16
    assert 0 < errors[0] < 1.3 * errors[1] < 0.03 * exact.std()


def other_weights(net: Hunyuan) -> dict[str, torch.Tensor]:
    return build("many", seed=9).state_dict()


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
    "in place": scale("q_proj", "k_proj", "v_proj"),
    "load_state_dict, assigned": lambda net: net.load_state_dict(other_weights(net), assign=True),
    "bfloat16 and back": lambda net: net.bfloat16().float(),
    "a step of training": train_a_step,
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_model_that_has_answered_answers_with_its_new_weights(change):
    net, ids = build("many"), random_ids(2, 11)
    before = answer(net, ids, 6, 1, 4)
    CHANGES[change](net)
    after = answer(net, ids, 6, 1, 4)
    torch.testing.assert_close(after, trained(net, ids), **EXACT)
    assert (after - before).abs().max() > 1e-3


def test_answers_load_no_compiler():
    """torch._dynamo takes 2 seconds to import, and only --compile needs it."""
    code = """if True:
        import sys, torch
        from model import Hunyuan, HunyuanConfig
        from model.generation.generate import generate_batch
        from model.generation.request import Request
        from model.generation.sampling import Sampling

        net = Hunyuan(HunyuanConfig.from_name("toy")).eval()
        with torch.no_grad():
            net(torch.tensor([[1, 2, 3]]))
        answers = list(generate_batch(net, [Request([1, 2], 3), Request([3], 2)], sampling=Sampling()))
        assert len(answers) == 5
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


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
        ([2], 2, [2, 3], [[1, 1, 1, 0], [1, 1, 1, 1]]),
        ([2, 0, 4], 1, [[2], [0], [4]], [[[[1, 1, 1, 0, 0]]], [[[1, 0, 0, 0, 0]]], [[[1, 1, 1, 1, 1]]]]),
    ],
)
def test_a_pass_begins_after_the_filled_tokens(lengths, tokens, positions, sees):
    cache = cache_for(build(), batch=len(lengths), tokens=5)
    cache.lengths = lengths
    found = cache.begin(tokens)
    assert found.positions.tolist() == positions
    assert (None if found.mask is None else found.mask.int().tolist()) == sees
    assert all(tensor.shape[2] == max(lengths) + tokens for slot in found.slots.values() for tensor in slot)
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
        cache.begin(tokens)
