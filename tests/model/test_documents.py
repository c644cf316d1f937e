"""Documents that share a row, and padding beside them: every token's output is that of its document alone."""

import pytest
import torch

from model.layers.documents import count_within, positions_within, visible_within
from model.layers.kv_cache import KVCache
from model.moe.place_keys import routing_key
from tests.oracles.small_models import VARIANTS, build, random_ids

IDS = random_ids(3, 12, seed=3)
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7, [9] * 9 + [-4] * 3, [2] + [1] * 10 + [7]])
KEY = routing_key(0)


def test_positions_and_what_is_seen():
    documents = torch.tensor([[5, 5, 2, 2, 2, 5]])  # which need not stand together
    assert positions_within(documents).tolist() == [[0, 1, 0, 1, 2, 2]]
    assert count_within(documents, torch.tensor([[1, 0, 1, 1, 0, 1]])).tolist() == [[1, 1, 1, 2, 2, 2]]
    seen = visible_within(documents)[0, 0]
    expected = [[j <= i and documents[0, i] == documents[0, j] for j in range(6)] for i in range(6)]
    assert seen.tolist() == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_a_document_has_the_logits_that_it_has_alone(name):
    net = build(name)
    together = net(IDS, document_ids=DOCUMENTS).logits
    for row, documents in enumerate(DOCUMENTS):
        for document in documents.unique():
            own = documents == document
            torch.testing.assert_close(together[row, own], net(IDS[row, own][None]).logits[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["GQA", "MHA", "CLA 2", "dense", "many"])
def test_gradients_are_those_of_the_documents_alone(name):
    """Of the cross-entropy; the routing losses are those of the batch, whose tokens are the same."""
    net = build(name).train()
    labels = random_ids(3, 12, seed=4)
    net(IDS, labels, document_ids=DOCUMENTS, reduction="none").loss.sum().backward()
    found = {key: parameter.grad.clone() for key, parameter in net.named_parameters()}
    net.zero_grad()
    for row, documents in enumerate(DOCUMENTS):
        for document in documents.unique():
            own = documents == document
            net(IDS[row, own][None], labels[row, own][None], reduction="none").loss.sum().backward()
    for key, parameter in net.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-4, atol=2e-5)


def test_documents_cut_a_row_for_attention_alone():
    """One document is the row as it is; two are not."""
    net = build()
    whole, one = net(IDS).logits, net(IDS, document_ids=torch.zeros_like(IDS)).logits
    torch.testing.assert_close(one, whole, rtol=1e-5, atol=2e-5)
    assert (net(IDS, document_ids=DOCUMENTS).logits - whole).abs().max() > 0.1


@pytest.mark.parametrize("routing", ["dropless", "drop", "recycle"])
@pytest.mark.parametrize("name", ["GQA", "top-2", "many"])
def test_padding_has_no_part_in_routing(name, routing):
    """In training: outputs, routing losses and counts are those of the tokens alone, as one row of documents."""
    net = build(name, moe_routing=routing, capacity_factor=1.0, router_z_loss_coef=0.01).train()
    lengths = torch.tensor([12, 5, 1])
    within = torch.arange(12) < lengths[:, None]
    padded = net(IDS.where(within, 17), routing_key=KEY, token_mask=within)
    rows = torch.arange(3)[:, None].expand_as(within)
    alone = net(IDS[within][None], routing_key=KEY, document_ids=rows[within][None])
    torch.testing.assert_close(padded.logits[within], alone.logits[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(padded.aux_loss, alone.aux_loss)
    for one, other in zip(padded.stats, alone.stats, strict=True):
        torch.testing.assert_close(one, other)
    assert (
        padded.stats.choices_per_expert.sum(dim=1) == 18 * torch.tensor([net.config.topk(i) for i in range(3)])
    ).all()


def test_a_mask_of_all_tokens_or_none_changes_nothing():
    net = build().train()
    expected = net(IDS).logits
    for mask in (torch.ones_like(IDS, dtype=torch.bool), torch.zeros_like(IDS, dtype=torch.bool)):
        assert torch.equal(net(IDS, token_mask=mask).logits, expected)


@pytest.mark.parametrize("routing", ["drop", "recycle"])
def test_experts_can_be_asked_to_take_every_token(routing):
    net = build("GQA", moe_routing=routing, capacity_factor=0.5).train()
    output = net(IDS, dropless=True)  # and recycle routing needs no key for it
    assert torch.equal(output.logits, build("GQA").train()(IDS).logits)
    assert not output.stats.dropped.any() and net(IDS, routing_key=KEY).stats.dropped.any()


def test_a_cache_goes_with_neither():
    net = build()
    for given in ({"document_ids": DOCUMENTS}, {"token_mask": torch.ones_like(IDS)}):
        with pytest.raises(ValueError, match="leave out document_ids, token_mask"):
            net(IDS, cache=KVCache(net.config, batch=3, max_tokens=12), **given)


def test_losses_of_each_token_are_those_of_the_mean():
    net, labels = build(), random_ids(3, 12, seed=4)
    labels[1, 5:] = -100
    each = net(IDS, labels, reduction="none").loss
    assert each.shape == labels.shape and (each[labels < 0] == 0).all()
    torch.testing.assert_close(each.sum() / (labels >= 0).sum(), net(IDS, labels).loss)
