"""Training memory in closed form: what follows from sizes alone, and the state beside the optimizer's own tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import SMALL, VARIANTS

from model import memory
from model.config.load import load_shape
from model.config.presets import COMPARED
from model.counts import total_params
from model.errors import ConfigError
from model.kernels.adamw import Rates
from model.memory import training_memory
from model.training.config import TrainingConfig
from model.training.optimizer import parameter_groups
from model.training.split_adamw import SplitAdamW
from model.transformer import Hunyuan

PRECISIONS = ("float32", "bfloat16")
SHAPES = {name: load_shape(name) for name in ("toy", "hunyuan-large", *COMPARED)}
PARTS = "weights gradients optimizer activations activations_recomputed head".split()


@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 64), st.integers(1, 1 << 17), st.sampled_from(PRECISIONS))
def test_more_tokens_take_more_memory(name, batch, context, precision):
    here, more, longer = (
        training_memory(SHAPES[name], batch=b, context=c, precision=precision)
        for b, c in ((batch, context), (batch + 1, context), (batch, context + 1))
    )
    for other in (more, longer):
        assert here.total <= other.total and here.total_recomputed <= other.total_recomputed
        assert here.activations < other.activations and here.head <= other.head
        assert (here.state, here.compute_copies) == (other.state, other.compute_copies)
    assert here.activations_recomputed < here.activations


@pytest.mark.parametrize("name", SHAPES)
def test_the_parts_add_up_and_the_state_is_shared_out(name):
    one, eight = (
        training_memory(SHAPES[name], batch=1, context=4096, precision="float32", devices=devices) for devices in (1, 8)
    )
    params = total_params(SHAPES[name])
    assert (one.weights, one.gradients, one.optimizer) == (4 * params, 4 * params, 8 * params)
    assert one.state == memory.state_bytes(SHAPES[name]) == 16 * params
    assert (eight.weights, eight.gradients, eight.optimizer) == tuple(-(-params // 8) * n for n in (4, 4, 8))
    assert (one.activations, one.head) == (eight.activations, eight.head)
    assert one.total == one.state + one.compute_copies + one.activations + max(one.head, one.in_flight)
    assert min(getattr(one, part) for part in PARTS) > 0


@pytest.mark.parametrize("moments", PRECISIONS)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("variant", ["GQA", "dense", "untied", "bias"])
def test_the_state_of_split_weights_is_that_of_their_optimizer(variant, several, moments):
    """Weights, halves, moments and the gradients of one step, as SplitAdamW has them."""
    config = SMALL.replace(**VARIANTS[variant])
    net = Hunyuan(config)
    training = TrainingConfig(moments=moments)
    groups = parameter_groups(dict(net.named_parameters()), config, training)
    kind = getattr(torch, moments)
    optimizer = SplitAdamW(groups, rates=Rates(0.9, 0.95, 1e-8), max_grad_norm=1.0, split_weights=True, moments=kind)
    optimizer.begin()
    parameters = list(net.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    if several:
        optimizer.collect()
    weights = sum(parameter.nbytes for parameter in parameters)
    kept = sum(t.nbytes for state in optimizer.state.values() for key, t in state.items() if key != "step")
    sums = optimizer._sums.values() if several else ()
    gradients = sum(t.nbytes for t in (*sums, *(p.grad for p in parameters if p.grad is not None)))
    expected = training_memory(config, batch=3, context=9, moments=moments, several=several)
    assert (expected.weights, expected.gradients, expected.optimizer) == (weights, gradients, kept)
    state = memory.state_bytes(config, precision="bfloat16", moments=moments, several=several)
    assert state == expected.state == weights + gradients + kept


def test_a_gathered_layer_by_hand():
    """Two layers of the toy in bfloat16 and the embedding; of its experts, as many as a device has."""
    attention = 2 * 128 * 128 + 2 * 128 * 64 + 2 * 32
    expert, router, norms, embedding = 3 * 128 * 256, 16 * 128, 2 * 128, 2048 * 128
    for parallel in (1, 2, 8):
        layer = attention + expert + router + norms + 16 // parallel * expert
        found = training_memory(SHAPES["toy"], batch=1, context=8, devices=8, expert_parallel=parallel)
        assert found.compute_copies == found.compute_copies_recomputed == 2 * (2 * layer + embedding)
    single = training_memory(SHAPES["toy"], batch=1, context=8, devices=8, precision="float32")
    assert single.compute_copies == 4 * (2 * (attention + 17 * expert + router + norms) + embedding)


def test_latent_attention_by_hand():
    """One token more in DeepSeek-V3, whose 61 layers are counted as they would be written here."""
    shorter, longer = (training_memory(SHAPES["deepseek-v3"], batch=1, context=context) for context in (999, 1000))
    ranks, heads, hidden = 1536 + 512, 128, 7168
    attention = 2 * 2 * hidden + 4 * (ranks + 2) + 2 * ranks + 2 * heads * (192 + 192 + 128 + 128) + 4 * heads
    norms = (4 + 2) * hidden + 2 * 4
    dense = 2 * hidden + 4 * 2 * 18_432
    shared, router = 2 * hidden + 2 * 2 * 2048, 4 * 256
    routed = 8 * (5 * 4 + 2 * hidden + 2 * 2 * 2048)
    layers = 61 * (attention + norms) + 3 * dense + 58 * (shared + router + routed)
    assert longer.activations - shorter.activations == layers + 8 + 4 * (hidden + 1) + 2 * 4 * 64


@pytest.mark.parametrize(
    ("name", "changes", "problems"),
    [
        ("toy", {"batch": 0}, ["batch is 0: it must be a whole number, 1 or more"]),
        ("toy", {"context": 1.5}, ["context is 1.5: it must be a whole number, 1 or more"]),
        ("toy", {"devices": -8}, ["devices is -8: it must be a whole number, 1 or more"]),
        ("toy", {"precision": "int8"}, ["precision is 'int8': choose one of bfloat16, float32"]),
        ("toy", {"expert_parallel": 2}, ["expert_parallel is 2: it must divide the number of devices, 1"]),
        ("toy", {"devices": 96, "expert_parallel": 3}, ["expert_parallel is 3: it must divide the 16 experts"]),
        (
            "llama-3.1-8b",
            {"devices": 8, "expert_parallel": 4},
            ["expert_parallel is 4: the model has no routed experts, so take 1"],
        ),
        (
            "toy",
            {"batch": True, "precision": "fp8", "devices": 4, "expert_parallel": 0},
            [
                "precision is 'fp8': choose one of bfloat16, float32",
                "batch is True: it must be a whole number, 1 or more",
                "expert_parallel is 0: it must be a whole number, 1 or more",
            ],
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_each(name, changes, problems):
    with pytest.raises(ConfigError) as caught:
        training_memory(SHAPES[name], **{"batch": 1, "context": 8} | changes)
    assert caught.value.problems == problems
