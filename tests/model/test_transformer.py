"""The whole model: its output, its start, recomputation, precision, and what training and evaluation change."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import transformer
from model.config import HunyuanConfig
from model.device import matmul_dtype, residual_dtype
from model.kernels import onednn
from model.layers.kv_cache import KVCache
from model.layers.mlp import SwiGLU
from model.layers.norm import RMSNorm
from model.layers.rope import rope_table
from model.moe.place_keys import place_keys, routing_key
from model.training.config import TrainingConfig
from model.training.prepare import prepare
from model.transformer import DecoderLayer, Hunyuan

SMALL = HunyuanConfig.from_name(
    "toy", vocab_size=61, hidden_size=32, intermediate_size=24, head_dim=8, num_experts=4,
    moe_routing="recycle", capacity_factor=1.0, initializer_range=0.2,
)  # fmt: skip
IDS, LABELS = torch.randint(61, (2, 2, 9), generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(seed: int = 0, **changes) -> Hunyuan:
    return Hunyuan(SMALL.replace(**changes), seeded(seed))


def test_logits_loss_and_what_is_left_out():
    net = build()
    output = net(IDS, routing_key=routing_key(0))
    assert output.logits.shape == (2, 9, 61) and output.loss is None
    last = net(IDS, routing_key=routing_key(0), last_only=True).logits
    torch.testing.assert_close(last, output.logits[:, -1:])
    trained = net(IDS, LABELS, routing_key=routing_key(0))
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, F.cross_entropy(output.logits.flatten(0, 1), LABELS.flatten()))
    torch.testing.assert_close(trained.aux_loss, output.aux_loss)


def test_labels_with_a_cache_are_refused_and_negative_ones_left_out():
    net = build(moe_routing="dropless").eval()
    with pytest.raises(ValueError, match="leave out the cache or the labels"):
        net(IDS, LABELS, cache=KVCache(net.config, batch=2, max_tokens=16))
    masked = LABELS.clone()
    masked[0, :4] = torch.tensor([-1, -100, -7, -100])
    logits = net(IDS).logits.flatten(0, 1)
    expected = F.cross_entropy(logits[4:], LABELS.flatten()[4:])
    torch.testing.assert_close(net(IDS, masked).loss, expected)


def test_stats_are_stacked_and_the_auxiliary_losses_summed_over_layers():
    net = build(router_aux_loss_coef=0.25)
    output = net(IDS, routing_key=routing_key(0))
    assert output.stats.choices_per_expert.sum(-1).tolist() == [IDS.numel()] * 4
    assert (output.stats.dropped == 0).all() and (output.stats.recycled > 0).any()
    torch.testing.assert_close(output.aux_loss, 0.25 * output.stats.balance_loss.sum())


def test_a_single_expert_is_a_dense_model():
    net = build(num_experts=1)
    output = net(IDS)  # no key: nothing is random
    assert output.stats is None and output.aux_loss == 0
    assert all(isinstance(layer.mlp, SwiGLU) for layer in net.layers)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_the_embedding_when_tied(tied):
    net = build(tie_word_embeddings=tied).eval()
    before = net(IDS).logits
    with torch.no_grad():
        net.head_weight[7] += 1.0
    changed = (net(IDS).logits != before).any(dim=(0, 1))
    assert (net.lm_head is None) == (net.head_weight is net.embed_tokens.weight) == tied
    assert changed[7] and (tied or changed.sum() == 1)


def test_a_block_is_pre_norm_with_two_residuals():
    """Norm weights and branches in the order of the released model, from the layer's own parts."""
    layer = build(num_experts=1).layers[0]
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        torch.nn.init.normal_(norm.weight)
    hidden, rope = torch.randn(2, 9, 32), rope_table(SMALL, torch.arange(9))
    middle = hidden + layer.self_attn(layer.input_layernorm(hidden), rope, None)[0]
    expected = middle + layer.mlp(layer.post_attention_layernorm(middle))
    torch.testing.assert_close(layer(hidden, rope, None, None)[0], expected)


def test_the_future_is_not_seen():
    net = build().eval()
    other = IDS.clone()
    other[:, 6:] = 1 - other[:, 6:].clamp(max=1)
    torch.testing.assert_close(net(IDS).logits[:, :6], net(other).logits[:, :6])
    assert not torch.allclose(net(IDS).logits[:, 6:], net(other).logits[:, 6:])


def test_one_seed_one_model():
    one, same, other = (build(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embed_tokens.weight"], other["embed_tokens.weight"])


def test_initial_weights():
    """Normal of initializer_range; what adds to the residual stream shrinks with 1/sqrt(2L), here L = 4."""
    net = Hunyuan(HunyuanConfig.from_name("toy", attention_bias=True, initializer_range=0.02), seeded())
    for name, parameter in net.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name
        else:
            shrinks = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down"))
            assert parameter.std().item() == pytest.approx(0.02 / 8**0.5 if shrinks else 0.02, rel=0.05), name


def test_recycle_routing_needs_a_key_and_follows_it():
    net = build()
    with pytest.raises(ValueError, match="routing_key"):
        net(IDS)
    one, same, other = (net(IDS, routing_key=routing_key(seed)).logits for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    keys = []
    for layer in net.layers:
        layer.register_forward_pre_hook(lambda _, inputs: keys.append(inputs[3].tolist()))
    net(IDS, routing_key=routing_key(0))
    assert len(set(map(tuple, keys))) == 4  # an order of its own for every layer


@torch.no_grad()
def test_evaluation_ignores_capacity():
    net = build(moe_routing="drop", capacity_factor=0.25)
    dropped = net(IDS)
    assert dropped.stats.dropped.sum() > 0
    evaluated, free = net.eval()(IDS), build(moe_routing="dropless")(IDS)
    assert evaluated.stats.dropped.sum() == 0
    assert torch.equal(evaluated.logits, free.logits) and not torch.equal(evaluated.logits, dropped.logits)


@pytest.mark.parametrize("routing", ["drop", "recycle"])
def test_each_layer_has_the_capacity_of_its_own_top_k(routing):
    """One expert is everybody's first choice: it is full in every layer. 18 tokens, 4 experts, top-1, 2, 3 and 1."""
    net = build(moe_routing=routing, moe_topk=(1, 2, 3, 1))
    for layer in net.layers:
        layer.mlp.router.weight.data.zero_()  # ties: the first experts are chosen
    stats = net(IDS, routing_key=routing_key(0)).stats
    assert stats.tokens_per_expert.max(dim=-1).values.tolist() == [5, 9, 14, 5]  # ceil(18 k / 4)
    assert stats.choices_per_expert.max(dim=-1).values.tolist() == [18] * 4


@pytest.mark.parametrize("routing", ["dropless", "drop", "recycle"])
def test_recomputation_changes_no_gradient(routing):
    """A recomputed layer must place its overflow where it was: the keys are drawn before any layer runs."""
    gradients, passes = [], []
    for recompute in (False, True):
        net, calls = build(moe_routing=routing), []
        net.layers[1].self_attn.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        prepare(net, TrainingConfig(recompute=recompute), torch.device("cpu"))
        output = net(IDS, LABELS, routing_key=routing_key(5))
        (output.loss + output.aux_loss).backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
        passes.append(len(calls))
    assert passes == [1, 2]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("routing", ["dropless", "recycle"])
@pytest.mark.parametrize("experts", [1, 4])
def test_a_block_in_training_is_one_graph(routing, experts):
    """In bfloat16, see test_routing.py."""
    torch.compiler.reset()
    config = SMALL.replace(moe_routing=routing, num_experts=experts)
    layer = build(moe_routing=routing, num_experts=experts).layers[0]
    assert isinstance(layer, DecoderLayer)
    hidden, rope = torch.randn(2, 9, 32), rope_table(config, torch.arange(9))
    keys = place_keys(routing_key(0), 1, experts * config.capacity(18))[0]
    with torch.autocast("cpu", torch.bfloat16):
        expected, *_ = layer(hidden, rope, None, keys)
        found, *_ = torch.compile(layer, fullgraph=True, backend="aot_eager")(hidden, rope, None, keys)
    assert (found - expected).norm() < 1e-2 * expected.norm()


class NoWaiting(TorchDispatchMode):
    """Refuses the operations that bring a value to the host, or make a shape of one."""

    refused = "_local_scalar_dense is_nonzero nonzero equal masked_select _unique2 unique_dim repeat_interleave".split()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.refused, f"{func} waits for the device"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("routing", ["dropless", "drop", "recycle"])
def test_a_training_pass_waits_for_no_value(routing, monkeypatch):
    """As on a GPU: through oneDNN a processor, where there is nothing to wait for, reads the ends of its experts."""
    monkeypatch.setattr(onednn, "ROUNDS", False)
    net = build(moe_routing=routing, router_z_loss_coef=0.1, expert_bias_update_rate=0.1)
    monkeypatch.setattr(torch.Tensor, "tolist", None)  # reads a processor's memory without an operation
    with NoWaiting():
        with torch.autocast("cpu", torch.bfloat16):
            output = net(IDS, LABELS, routing_key=routing_key(0))
        (output.loss + output.aux_loss).backward()
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        output.loss.item()


@pytest.mark.parametrize("scale", [1.0, 1e-4, 300.0])
def test_rms_norm_is_float32_inside(scale):
    """bfloat16 in and out, and between them no more than the one rounding at the end; eps is inside the root."""
    norm, hidden = RMSNorm(64, eps=1e-5), (torch.randn(5, 64) * scale).bfloat16()
    torch.nn.init.normal_(norm.weight)
    exact = hidden.double()
    exact = norm.weight.double() * exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert norm(hidden).dtype == torch.bfloat16
    torch.testing.assert_close(norm(hidden).double(), exact, rtol=2**-8, atol=1e-7)  # half a unit in the last of 8 bits
    torch.testing.assert_close(norm(hidden.float()).double(), exact, rtol=1e-5, atol=1e-7)


def test_bfloat16_autocast_stays_near_float32(monkeypatch):
    monkeypatch.setattr(onednn, "WORK", 0), monkeypatch.setattr(onednn, "ROWS", 1)  # so that these products are rounded
    net = build(moe_routing="dropless").eval()
    exact = net(IDS, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(IDS, LABELS)
    assert output.loss.dtype == output.aux_loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=2e-2) and output.loss != exact.loss


def test_a_stream_in_the_precision_of_products_stays_near_float32(monkeypatch):
    """As on a GPU: what a block reads is bfloat16, the router's logits and the losses are float32, gradients have their own."""
    net = build(moe_routing="dropless")
    exact, seen, logits = net(IDS, LABELS), [], []
    monkeypatch.setattr(transformer, "residual_dtype", matmul_dtype)
    for layer in net.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0].dtype, output[0].dtype)))
        layer.mlp.router.register_forward_hook(lambda _, __, output: logits.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        output = net(IDS, LABELS)
    (output.loss + output.aux_loss).backward()
    assert set(seen) == {torch.bfloat16} and set(logits) == {torch.float32}
    assert output.loss.dtype == output.aux_loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=2e-2)
    assert all(parameter.grad.dtype == torch.float32 for parameter in net.parameters())


def test_a_processor_keeps_the_stream_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        assert residual_dtype(torch.zeros(1)) == torch.float32


def test_output_names_are_the_public_ones():
    assert Hunyuan(SMALL).eval()(input_ids=IDS)._fields == ("logits", "loss", "aux_loss", "stats", "measures")
    assert dataclasses.asdict(build().config)["hidden_size"] == 32
