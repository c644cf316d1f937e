"""Weights as int8: the bound of their error, products and experts against float64, and a model of half the bytes."""

import copy

import pytest
import torch

from model.config import HunyuanConfig
from model.errors import ConfigError
from model.generation.generate import generate
from model.generation.sampling import Sampling
from model.int8_weights import check_int8, to_int8
from model.layers.int8 import FEW_ROWS, project_int8, quantize
from model.layers.linear import Linear
from model.moe.experts import Experts, grouped_experts, in_turn, loop_experts, of_one_token
from model.transformer import Hunyuan

CONFIG = HunyuanConfig(
    vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, num_experts=4, moe_topk=2, cla_share_factor=2, attention_bias=True,
)  # fmt: skip


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def restored(weight):
    values, scale = quantize(weight)
    return values.double() * scale.double()[..., None]


@pytest.fixture(scope="module")
def net():
    return Hunyuan(CONFIG, torch.Generator().manual_seed(3)).eval()


# --- a weight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 33), (3, 10, 16), (1, 1)])
def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most(dtype, shape):
    weight = drawn(*shape, dtype=dtype)
    weight *= 10.0 ** torch.arange(shape[-2])[:, None]  # every channel in a scale of its own
    values, scale = quantize(weight)
    assert (values.dtype, values.shape, scale.dtype, scale.shape) == (torch.int8, shape, torch.float32, shape[:-1])
    torch.testing.assert_close(scale, weight.float().abs().amax(-1) / 127)
    steps = scale.double()[..., None]
    assert ((restored(weight) - weight.double()).abs() <= 0.50001 * steps).all()
    assert (values.abs().amax(-1) == 127).all()


def test_the_negative_of_a_weight_has_the_negative_values():
    weight = drawn(5, 40)
    (values, scale), (negative, same) = quantize(weight), quantize(-weight)
    assert negative.equal(-values) and same.equal(scale)


def test_a_channel_of_zeros_stays_one_and_a_tiny_one_keeps_its_bound():
    weight = drawn(3, 8)
    weight[1], weight[2] = 0, weight[2] * 1e-41
    values, scale = quantize(weight)
    assert values[1].eq(0).all() and scale[1] == 0
    assert ((restored(weight) - weight.double()).abs() <= 0.51 * scale.double()[:, None]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_has_no_int8_form(value):
    weight = drawn(3, 8)
    weight[2, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize(weight)


# --- products --------------------------------------------------------------------------------------------------------


def amid(tensor, poison):
    """The tensor in the middle of a buffer of poison, which no product may read."""
    buffer = torch.full((tensor.numel() + 512,), poison, dtype=tensor.dtype)
    return buffer[256:-256].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])  # of two roundings
@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 3), (FEW_ROWS,), (FEW_ROWS + 1,)])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (7, 96), (33, 160), (5, 9), (64, 200)])
@pytest.mark.parametrize("compiling", [False, True])
def test_a_product_with_an_int8_weight(monkeypatch, dtype, tolerance, rows, outputs, inputs, compiling):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    hidden, (values, scale) = drawn(*rows, inputs, dtype=dtype, seed=1), quantize(drawn(outputs, inputs))
    expected = hidden.double() @ (values.double() * scale.double()[:, None]).t()
    found = project_int8(amid(hidden, float("nan")), amid(values, 127), amid(scale, float("nan")))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=1e-5)


def int8_linear(layer):
    values, layer.scale = quantize(layer.weight.detach())
    layer.weight = torch.nn.Parameter(values, requires_grad=False)
    return layer


def test_a_linear_map_adds_its_bias_after_the_scale():
    layer = Linear(24, 10)
    expected = torch.nn.functional.linear(
        drawn(3, 24).double(), restored(layer.weight.detach()), layer.bias.detach().double()
    )
    torch.testing.assert_close(int8_linear(layer)(drawn(3, 24)).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def experts():
    """Experts with int8 weights, and the same weights in float64."""
    made = Experts(5, 24, 16)
    gate_up, down = drawn(5, 32, 24), drawn(5, 24, 16, seed=1)
    values, made.gate_up_scale = quantize(gate_up)
    made.gate_up = torch.nn.Parameter(values, requires_grad=False)
    values, made.down_scale = quantize(down)
    made.down = torch.nn.Parameter(values, requires_grad=False)
    return made, restored(gate_up), restored(down)


@pytest.mark.parametrize("runs", [[3, 0, 4, 1, 2], [0, 0, 0, 0, 0], [0, 10, 0, 0, 0], [1, 0, 0, 0, 0]])
def test_experts_with_int8_weights_in_turn_and_grouped(experts, runs):
    made, gate_up, down = experts
    ends = torch.tensor(runs).cumsum(0).int()
    hidden, count = drawn(12, 24), int(ends[-1])
    expected = loop_experts(hidden.double(), gate_up, down, ends)[:count]
    with torch.inference_mode():
        torch.testing.assert_close(in_turn(hidden, ends, made.weights)[:count].double(), expected, rtol=1e-4, atol=1e-4)
    found = grouped_experts(hidden, made.gate_up, made.down, ends, made.gate_up_scale, made.down_scale)[:count]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made(hidden, ends)[:count].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_the_experts_of_one_token(experts, as_tensors):
    made, gate_up, down = experts
    chosen = [torch.tensor([4]), torch.tensor([1])] if as_tensors else [4, 1]
    hidden, weight = drawn(1, 24), torch.tensor([[0.25, 2.0]])
    ends = {4: [0, 0, 0, 0, 1], 1: [0, 1, 1, 1, 1]}
    outputs = [loop_experts(hidden.double(), gate_up, down, torch.tensor(ends[expert])) for expert in (4, 1)]
    found = of_one_token(hidden, chosen, weight, made.weights)
    torch.testing.assert_close(found.double(), 0.25 * outputs[0] + 2 * outputs[1], rtol=1e-4, atol=1e-4)


# --- a model ---------------------------------------------------------------------------------------------------------


def with_restored_weights(net):
    """The model in floating point whose weights are what int8 makes of them."""
    same = copy.deepcopy(net)
    for name, weight in same.named_parameters():
        if name.endswith(("_proj.weight", "experts.gate_up", "experts.down")):
            weight.data = restored(weight.data).float()
    return same


@pytest.mark.parametrize(
    "changes", [{}, {"num_experts": 1, "num_shared_expert": 0, "moe_topk": 1}, {"tie_word_embeddings": False}]
)
def test_a_model_computes_with_the_restored_weights(changes):
    net = Hunyuan(CONFIG.replace(**changes), torch.Generator().manual_seed(3)).eval()
    expected, made = with_restored_weights(net), to_int8(copy.deepcopy(net), "cpu")
    ids = torch.randint(96, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(made(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-5)
        assert (made(ids).logits - net(ids).logits).abs().max() > 1e-4  # and not with those it was made of
    greedy = {"max_new_tokens": 12, "sampling": Sampling()}
    assert list(generate(made, [1, 2, 3], **greedy)) == list(generate(expected, [1, 2, 3], **greedy))


def test_linear_maps_and_experts_are_int8_and_the_rest_is_as_it_was(net):
    half = copy.deepcopy(net).bfloat16()
    made = to_int8(copy.deepcopy(half), "cpu")
    before = dict(half.named_parameters())
    for name, weight in made.named_parameters():
        if name.endswith(("_proj.weight", "experts.gate_up", "experts.down")):
            assert weight.dtype == torch.int8 and not weight.requires_grad, name
        else:
            assert weight.equal(before[name]), name
    kept = {name.split(".")[-2] for name, weight in made.named_parameters() if weight.dtype != torch.int8}
    assert {"embed_tokens", "router", "norm"} <= kept


def test_an_untied_head_stays(net):
    untied = Hunyuan(CONFIG.replace(tie_word_embeddings=False), torch.Generator().manual_seed(3))
    assert to_int8(untied, "cpu").lm_head.weight.dtype == torch.float32


def test_the_memory_of_bfloat16_is_halved():
    """But for embedding, router and norms, and a scale of four bytes a channel."""
    config = HunyuanConfig.from_name("toy")
    half = Hunyuan(config, torch.Generator().manual_seed(0)).bfloat16().eval()

    def size(model):
        return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))

    before, outputs = size(half), 0
    maps = sum(w.numel() for n, w in half.named_parameters() if n.endswith(("_proj.weight", "gate_up", "down")))
    for name, weight in half.named_parameters():
        if name.endswith(("_proj.weight", "gate_up", "down")):
            outputs += weight.numel() // weight.shape[-1]
    assert size(to_int8(half, "cpu")) == before - maps + 4 * outputs
    assert maps > 0.95 * before / 2 and 4 * outputs < 0.05 * maps


def test_logits_of_bfloat16_stay_close(net):
    half = copy.deepcopy(net).bfloat16()
    made = to_int8(copy.deepcopy(half), "cpu")
    ids = torch.randint(96, (4, 30), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact, ours = net(ids).logits, made(ids).logits.float()
    assert (ours - exact).square().mean().sqrt() < 0.05 * exact.std()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_went_wrong_is_refused_by_the_name_of_its_weight(net, value):
    broken = copy.deepcopy(net)
    broken.layers[1].mlp.experts.down.data[2, 3, 4] = value
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.experts\.down has a value that is not finite"):
        to_int8(broken, "cpu")


def test_what_cannot_be_had_is_told_in_a_sentence(net):
    with pytest.raises(ConfigError, match="give --dtype bfloat16"):
        to_int8(copy.deepcopy(net).half(), "cpu")
    with pytest.raises(ConfigError, match="give --dtype bfloat16"):
        check_int8("float16", experts_on_disk=False)
    with pytest.raises(ConfigError, match="leave out --weights int8, or --experts disk"):
        check_int8(None, experts_on_disk=True)
    check_int8("bfloat16", experts_on_disk=False)
