"""Dropout: which values go is a function of the key alone, how many is the share, and what is computed is written out here."""

import math

import pytest
import torch

from model.errors import ConfigError
from model.layers.dropout import Dropout, drop, dropout_keys
from model.layers.rope import rope_table
from model.moe.place_keys import place_keys, routing_key
from model.training.config import TrainingConfig
from model.training.prepare import prepare
from model.transformer import Hunyuan, Rows
from tests.oracles.small_models import build, random_ids

IDS, LABELS = random_ids(2, 9, seed=1), random_ids(2, 9, seed=2)
KEY = routing_key(3)
CPU = torch.device("cpu")


def with_dropout(attention: float, hidden: float, name: str = "GQA", **changes) -> Hunyuan:
    net = build(name, **changes).train()
    prepare(net, TrainingConfig(attention_dropout=attention, hidden_dropout=hidden), CPU)
    return net


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share):
    values = torch.ones(400, 250)
    found = drop(values, share, KEY)
    gone = (found == 0).float()
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])
    deviation = math.sqrt(share * (1 - share) / values.numel())
    assert abs(gone.mean().item() - share) < 4 * deviation
    for dim, count in ((0, 400), (1, 250)):  # no row and no column has more of it than chance
        spread = gone.mean(dim=dim).std().item()
        assert spread == pytest.approx(math.sqrt(share * (1 - share) / count), rel=0.25)
    kept, beside = gone[:, :-1].flatten(), gone[:, 1:].flatten()  # nor do neighbours agree
    assert abs(torch.corrcoef(torch.stack((kept, beside)))[0, 1].item()) < 4 / math.sqrt(len(kept))


def test_a_share_of_zero_is_no_operation():
    values = torch.randn(3, 4)
    assert drop(values, 0.0, KEY) is values


def test_every_place_of_every_layer_has_a_key_of_its_own():
    keys = torch.stack([dropout_keys(routing_key(seed, step), 5) for seed in range(3) for step in range(3)])
    assert keys.shape == (9, 5, 3) and len(keys.unique()) == keys.numel()
    assert torch.equal(keys[0], dropout_keys(routing_key(0, 0), 7)[:5])  # whatever number of layers follows
    routing = place_keys(routing_key(0), 5, 6)
    assert not torch.isin(keys[0] & 0xFFFFFFFF, routing).any()


def test_a_step_follows_its_key():
    net = with_dropout(0.1, 0.2)
    one, same, other = (net(IDS, LABELS, routing_key=routing_key(0, step)).loss for step in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_an_answer_knows_nothing_of_it():
    net = with_dropout(0.1, 0.2).eval()
    assert torch.equal(net(IDS).logits, build("GQA")(IDS).logits)


def test_without_a_share_training_is_what_it_was():
    expected = build("many").train()(IDS, LABELS).loss
    assert torch.equal(with_dropout(0.0, 0.0, "many")(IDS, LABELS).loss, expected)
    assert torch.equal(with_dropout(0.0, 0.0, "many")(IDS, LABELS, routing_key=KEY).loss, expected)


def test_a_key_is_asked_for():
    with pytest.raises(ValueError, match="dropout is random: pass routing_key"):
        with_dropout(0.0, 0.1)(IDS)


@pytest.mark.parametrize("name", ["GQA", "dense", "CLA 2"])
def test_attention_without_its_dropout_is_the_kernels(name):
    """A share of one in a billion drops nothing here: the path that is written out against the one in use."""
    documents = torch.tensor([[0] * 4 + [1] * 5] * 2)
    for given in ({}, {"document_ids": documents}):
        found = with_dropout(1e-9, 0.0, name)(IDS, routing_key=KEY, **given).logits
        torch.testing.assert_close(found, build(name).train()(IDS, **given).logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("experts", [1, 4])
def test_what_a_block_computes(experts):
    """The branches, and the attention after its softmax, lose values; the residual stream loses none."""
    net = build("GQA", num_experts=experts, num_shared_expert=0 if experts == 1 else 1).train()
    layer, config = net.layers[0], net.config
    hidden = torch.randn(2, 9, config.hidden_size, generator=torch.Generator().manual_seed(0))
    rope, dropout = rope_table(config, torch.arange(9)), Dropout(0.3, 0.4, dropout_keys(KEY, 1)[0])
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    queries, own = attention._queries_keys_values(normed, rope, None)
    attended = torch.zeros(2, 9, config.num_attention_heads, config.head_dim)
    each = config.num_attention_heads // config.num_key_value_heads
    shares = torch.zeros(2, config.num_attention_heads, 9, 9)
    for b in range(2):
        for head in range(config.num_attention_heads):
            scores = queries[b, :, head] @ own.keys[b, head // each].t() / math.sqrt(config.head_dim)
            shares[b, head] = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(dim=-1)
    shares = drop(shares, 0.3, dropout.keys[0])
    for b in range(2):
        for head in range(config.num_attention_heads):
            attended[b, :, head] = shares[b, head] @ own.values[b, head // each]
    middle = hidden + drop(attention.o_proj(attended.flatten(2)), 0.4, dropout.keys[1])
    rows = layer.post_attention_layernorm(middle).flatten(0, 1)
    output = layer.mlp(rows) if experts == 1 else layer.mlp(rows)[0]
    expected = middle + drop(output.view_as(middle), 0.4, dropout.keys[2])
    found = layer(hidden, rope, None, None, None, Rows(dropout=dropout))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("routing", ["dropless", "recycle"])
def test_recomputation_drops_the_same(routing):
    gradients = []
    for recompute in (False, True):
        net = build("GQA", moe_routing=routing, capacity_factor=1.0).train()
        config = TrainingConfig(attention_dropout=0.1, hidden_dropout=0.2, recompute=recompute)
        prepare(net, config, CPU)
        within = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
        documents = torch.tensor([[0] * 4 + [1] * 5] * 2)
        output = net(IDS, LABELS, routing_key=KEY, document_ids=documents, token_mask=within)
        (output.loss + output.aux_loss).backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("name", ["GQA", "dense"])
def test_a_block_with_all_of_it_is_one_graph(name):
    """Documents, padding and dropout together; in bfloat16, see test_routing.py."""
    torch.compiler.reset()
    net = build(name).train()
    layer = net.layers[0]
    hidden, rope = torch.randn(2, 9, 24), rope_table(net.config, torch.arange(18).view(2, 9))
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    dropout = Dropout(0.1, 0.2, dropout_keys(KEY, 1)[0])
    rows = Rows(mask, torch.tensor([0, 1, 2, 5, 9, 11, 17]), True, dropout)
    with torch.autocast("cpu", torch.bfloat16):
        expected, *_ = layer(hidden, rope, None, None, None, rows)
        found, *_ = torch.compile(layer, fullgraph=True, backend="aot_eager")(hidden, rope, None, None, None, rows)
    assert (found - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("share", [-0.1, 1.0])
@pytest.mark.parametrize("name", ["attention_dropout", "hidden_dropout"])
def test_shares_lie_below_one(name, share):
    with pytest.raises(ConfigError, match=rf"training.{name} is {share}: it must lie in \[0, 1\)"):
        TrainingConfig(**{name: share})
