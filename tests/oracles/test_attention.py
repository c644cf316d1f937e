"""Attention against the released form, written out; decoding against the full pass; the cache against its closed form.

The oracle follows the released code: every layer rotates its queries and its owner's keys and then applies RMSNorms of its
own to both. The module caches keys without a norm's weight and puts that weight on the queries; both must agree.
"""

import itertools
import math

import pytest
import torch

from model.config import HunyuanConfig
from model.config.storage import STORAGE
from model.counts import kv_cache_bytes
from model.layers import attention, linear
from model.layers.attention import Attention
from model.layers.kv_cache import KVCache
from model.layers.rope import rope_table, rotate
from model.transformer import Hunyuan

SMALL = HunyuanConfig.from_name(
    "toy", vocab_size=61, hidden_size=24, intermediate_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    num_experts=4, rope_theta=100.0,
)  # fmt: skip
VARIANTS = {
    "MHA": {"num_key_value_heads": 4, "cla_share_factor": 1},
    "GQA": {"num_key_value_heads": 2, "cla_share_factor": 1},
    "MQA": {"num_key_value_heads": 1, "cla_share_factor": 1},
    "CLA2": {"num_key_value_heads": 4, "cla_share_factor": 2},
    "CLA3": {"num_key_value_heads": 4, "cla_share_factor": 3},  # a last group of one layer
    "GQA+CLA": {"num_key_value_heads": 2, "cla_share_factor": 2},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
with_and_without_qk_norm = pytest.mark.parametrize("use_qk_norm", [True, False], ids=["qk-norm", "plain"])


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, norm weights and biases too, and large enough for attention to have an opinion."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.4)
    return module


def turn(head, position, theta):
    """One head (P,) turned by its position: pair (i, i + P/2) is a complex number."""
    half = len(head) // 2
    turns = torch.tensor([position * theta ** (-2 * i / len(head)) for i in range(half)], dtype=torch.float64)
    pairs = torch.complex(head[:half], head[half:]) * torch.polar(torch.ones_like(turns), turns)
    return torch.cat((pairs.real, pairs.imag))


def released_norm(head, weight, eps):
    return head if weight is None else weight.double() * head / (head.square().mean() + eps).sqrt()


def released_attention(layer, owner, hidden, owner_hidden, config):
    """hidden (S, D) of one sequence -> (S, D) in float64, one query and one head at a time."""

    def project(linear, x):
        bias = 0 if linear.bias is None else linear.bias.double()
        return x.double() @ linear.weight.double().t() + bias

    q = project(layer.q_proj, hidden).unflatten(-1, (-1, config.head_dim))
    k = project(owner.k_proj, owner_hidden).unflatten(-1, (-1, config.head_dim))
    v = project(owner.v_proj, owner_hidden).unflatten(-1, (-1, config.head_dim))
    repeats = config.num_attention_heads // config.num_key_value_heads
    rows = []
    for i in range(len(hidden)):
        heads = []
        for h in range(config.num_attention_heads):
            g = h // repeats
            query = released_norm(turn(q[i, h], i, config.rope_theta), layer.query_norm, config.rms_norm_eps)
            keys = [turn(k[j, g], j, config.rope_theta) for j in range(i + 1)]
            keys = torch.stack([released_norm(key, layer.key_norm, config.rms_norm_eps) for key in keys])
            shares = (keys @ query / math.sqrt(config.head_dim)).softmax(0)
            heads.append(shares @ v[: i + 1, g])
        rows.append(torch.cat(heads))
    return project(layer.o_proj, torch.stack(rows))


@pytest.mark.parametrize("share", [1, 2, 3])
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(
    "extra", [{}, {"use_qk_norm": False}, {"attention_bias": True}], ids=["qk-norm", "plain", "bias"]
)
@torch.no_grad()
def test_attention_equals_the_released_form(share, heads, extra):
    config = SMALL.replace(cla_share_factor=share, num_key_value_heads=heads, **extra)
    layers = [randomized(Attention(config, layer)) for layer in range(config.num_hidden_layers)]
    for layer in layers[1:]:  # seeds of their own: equal layers would hide whose weights were used
        layer.load_state_dict({name: torch.randn_like(value) / 2 for name, value in layer.state_dict().items()})
    hidden = torch.randn(len(layers), 2, 5, config.hidden_size)
    rope, shared = rope_table(config, torch.arange(5)), None
    for index, layer in enumerate(layers):
        owner = index - index % share
        assert layer.owns_cache == (index == owner) == hasattr(layer, "k_proj")
        output, shared = layer(hidden[index], rope, shared)
        for b in range(2):
            expected = released_attention(layer, layers[owner], hidden[index, b], hidden[owner, b], config)
            torch.testing.assert_close(output[b].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_repeated_heads_attend_as_groups_do(heads, monkeypatch):
    """What a GPU does in float32: the outputs and all gradients of the grouped product."""
    queries, *keys_values = (torch.randn(2, count, 7, 8, requires_grad=True) for count in (4, heads, heads))
    cotangent, results = torch.randn(2, 4, 7, 8), []
    for repeats in (False, True):
        monkeypatch.setattr(attention, "repeats_heads", lambda *_, repeats=repeats: repeats)
        output = attention.causal_attention(queries, *keys_values)
        results.append((output, *torch.autograd.grad(output, (queries, *keys_values), cotangent)))
    for grouped, repeated in zip(*results, strict=True):
        torch.testing.assert_close(repeated, grouped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@every_variant
def test_one_product_for_queries_keys_and_values_is_theirs(variant, bias, monkeypatch):
    """Outputs, keys and values, and the gradient of every parameter under its own name."""
    config = SMALL.replace(**VARIANTS[variant], attention_bias=bias)
    layer, hidden = randomized(Attention(config, 0)).double(), torch.randn(2, 7, config.hidden_size).double()
    results = []
    for together in (False, True):
        monkeypatch.setattr(linear, "stacks", lambda _, together=together: together)
        layer.zero_grad()
        output, shared = layer(hidden, rope_table(config, torch.arange(7)), None)
        (output.square().sum() + shared.values.sum()).backward()
        gradients = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
        results.append((output, *shared, gradients))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(("width", "together"), [(8, True), (7, False)])
def test_one_product_only_where_each_gradient_begins_at_16_bytes(width, together, monkeypatch):
    """Kernels of the optimizer read a gradient from an address of 16 bytes, and those of one product lie behind each other."""
    monkeypatch.setattr(linear, "stacks", lambda _: True)
    layers = [linear.Linear(24, size) for size in (16, width, 8)]
    outputs = linear.project_together(torch.randn(3, 24), layers)
    assert [output.shape for output in outputs] == [(3, 16), (3, width), (3, 8)]
    assert (len({output.untyped_storage().data_ptr() for output in outputs}) == 1) == together


@every_variant
@with_and_without_qk_norm
@torch.no_grad()
def test_decoding_in_chunks_equals_the_full_pass(variant, use_qk_norm):
    net = randomized(Hunyuan(SMALL.replace(use_qk_norm=use_qk_norm, **VARIANTS[variant]))).eval()
    chunks = [5, 1, 1, 4, 1]  # a prefill, single steps, a chunk after a prefix
    input_ids = torch.randint(SMALL.vocab_size, (2, sum(chunks)))
    cache = KVCache(net.config, batch=2, max_tokens=sum(chunks))
    steps = [net(chunk, cache=cache).logits for chunk in input_ids.split(chunks, dim=1)]
    assert cache.length == cache.max_tokens
    torch.testing.assert_close(torch.cat(steps, dim=1), net(input_ids).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="the cache holds 12 tokens, 13 were"):
        net(input_ids[:, :1], cache=cache)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_allocated_cache_equals_the_closed_form(variant, dtype):
    config = SMALL.replace(**VARIANTS[variant])
    cache = KVCache(config, batch=3, max_tokens=7, dtype=dtype)
    storages = (tensor.untyped_storage() for slot in cache.slots.values() for tensor in slot)
    expected = kv_cache_bytes(config, tokens=7, batch=3, storage=STORAGE["fp32" if dtype == torch.float32 else "bf16"])
    assert cache.bytes == sum({s.data_ptr(): s.nbytes() for s in storages}.values()) == expected
    assert len(cache.slots) == math.ceil(config.num_hidden_layers / config.cla_share_factor)


@pytest.mark.parametrize(
    ("scaling", "theta", "stretch"),
    [
        (None, 100.0, 1.0),
        ({"type": "linear", "factor": 4.0}, 100.0, 4.0),
        ({"type": "dynamic", "alpha": 50.0, "factor": 1.0}, 100.0 * 50.0 ** (8 / 6), 1.0),  # alpha^(d/(d-2)), d = 8
    ],
    ids=["base", "linear", "alpha"],
)
def test_rope_turns_complex_pairs(scaling, theta, stretch):
    config = SMALL.replace(rope_scaling=scaling)
    assert config.rope_base == pytest.approx(theta)
    positions, heads = torch.tensor([0, 1, 5, 200]), torch.randn(2, 4, 3, 8)
    turned = rotate(heads, *rope_table(config, positions))
    for b, s, h in itertools.product(*map(range, (2, 4, 3))):
        expected = turn(heads[b, s, h].double(), positions[s].item() / stretch, theta)
        torch.testing.assert_close(turned[b, s, h].double(), expected, rtol=1e-4, atol=1e-4)


def test_rope_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(i, j):
        table = [rope_table(SMALL, torch.tensor([position])) for position in (i, j)]
        return (rotate(q, *table[0]) * rotate(k, *table[1])).sum().item()

    assert score(9, 4) == pytest.approx(score(25, 20), rel=1e-4, abs=1e-5)
    assert score(9, 4) != pytest.approx(score(9, 5), rel=1e-2)
    assert rotate(q.bfloat16(), *rope_table(SMALL, torch.tensor([3]))).dtype == torch.float32
