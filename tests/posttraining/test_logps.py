"""Log-probabilities against log_softmax of all logits: values, gradients, masks, documents, precision."""

import pytest
import torch

from model.kernels import cross_entropy
from model.moe.place_keys import routing_key
from model.posttraining.logps import token_logps, tokens_that_matter
from tests.oracles.small_models import build, random_ids

IDS = random_ids(3, 12, seed=5)
MASK = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) < 0.6
MASK[:, -1] = True


def oracle(net, ids, mask):
    """From the logits of all tokens."""
    logits = net(ids, dropless=True).logits[:, :-1].float()
    return logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0].masked_fill(~mask[:, 1:], 0.0)


def gradients(net, value):
    net.zero_grad()
    value.backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("name", ["GQA", "many", "dense", "recycle", "untied"])
def test_values_and_gradients_are_those_of_the_logits(name, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_VALUES", 5 * 61)
    net = build(name).train()
    weights = torch.randn(3, 11, generator=torch.Generator().manual_seed(2))  # each token counts in its own way
    found, expected = token_logps(net, IDS, MASK).logps, oracle(net, IDS, MASK)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found[~MASK[:, 1:]] == 0).all() and found.dtype == torch.float32
    ours, theirs = (gradients(net, (weights * value).sum()) for value in (found, oracle(net, IDS, MASK)))
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=2e-5)


def test_the_logits_are_never_held_at_once(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_VALUES", 3 * 61)
    net, sizes, mm = build("GQA"), [], torch.mm

    def watched(rows, weight, **options):
        if "out" in options:
            sizes.append(options["out"].shape)
        return mm(rows, weight, **options)

    monkeypatch.setattr(torch, "mm", watched)
    with torch.no_grad():
        token_logps(net, IDS, MASK)
    assert set(sizes) == {(3, 61)} and len(sizes) == 12


@pytest.mark.parametrize("name", ["GQA", "many", "dense"])
def test_with_and_without_gradients_they_are_the_same_to_the_bit(name):
    """Else a policy that is its reference would not cost exactly log 2."""
    net = build(name).train()
    with torch.no_grad():
        reference = token_logps(net, IDS, MASK).logps
    assert torch.equal(token_logps(net, IDS, MASK).logps, reference)


def test_a_masked_token_without_a_gradient_is_zero_not_small():
    net = build("GQA").train()
    found = token_logps(net, IDS, torch.zeros_like(MASK))
    assert not found.logps.any()
    assert not any(gradient.any() for gradient in gradients(net, found.logps.sum()).values())


def test_bfloat16_weights_give_float32():
    net = build("GQA").bfloat16()
    found = token_logps(net, IDS, MASK).logps
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, oracle(net, IDS, MASK), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["GQA", "many", "CLA 2"])
def test_packed_is_padded(name):
    """Three answers of 12, 7 and 4 tokens, in rows of their own and in one; the routing losses are the same as well."""
    net = build(name, router_z_loss_coef=0.01).train()
    lengths = (12, 7, 4)
    padded, mask = IDS.clone(), torch.arange(12)[None] >= 2
    mask = mask & (torch.arange(12)[None] < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        padded[row, length:] = 60 - row
    packed_ids = torch.cat([IDS[row, :length] for row, length in enumerate(lengths)])[None]
    packed_mask = torch.cat([mask[row, :length] for row, length in enumerate(lengths)])[None]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    alone, together = token_logps(net, padded, mask), token_logps(net, packed_ids, packed_mask, document_ids=documents)
    torch.testing.assert_close(together.logps[packed_mask[:, 1:]], alone.logps[mask[:, 1:]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.aux_loss, alone.aux_loss)
    ours, theirs = (gradients(net, found.logps.sum() + found.aux_loss) for found in (together, alone))
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=5e-5)


def test_the_first_token_of_a_document_follows_nothing():
    documents = torch.tensor([[0] * 5 + [1] * 7] * 3)
    found = token_logps(build("GQA"), IDS, torch.ones_like(MASK), document_ids=documents).logps
    assert (found == 0).nonzero().tolist() == [[row, 4] for row in range(3)]


def test_tokens_that_nothing_learned_follows_do_not_matter():
    mask = torch.tensor([[0, 0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0]])
    assert tokens_that_matter(mask).int().tolist() == [[1, 1, 1, 1, 1, 0, 0], [0] * 7, [1, 1, 1, 1, 1, 1, 0]]
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0] * 7, [0, 0, 0, 4, 4, 4, 4]])
    assert tokens_that_matter(mask, documents).int().tolist() == [[1, 1, 1, 0, 1, 0, 0], [0] * 7, [1, 1, 0, 1, 1, 1, 0]]


def test_routing_is_dropless_unless_the_models_own_is_asked_for():
    net = build("GQA", moe_routing="recycle", capacity_factor=0.5).train()
    free = token_logps(net, IDS, MASK).logps
    torch.testing.assert_close(free, token_logps(build("GQA").train(), IDS, MASK).logps)
    assert not torch.allclose(token_logps(net, IDS, MASK, routing_key=routing_key(0), dropless=False).logps, free)
