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
from model.parallel.layout import Layout
from model.parallel.weights import weights_of
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
        training_memory(SHAPES[name], batch=1, context=4096, precision="float32", layout=Layout(processes=devices))
        for devices in (1, 8)
    )
    params = total_params(SHAPES[name])
    assert (one.weights, one.gradients, one.optimizer) == (4 * params, 4 * params, 8 * params)
    assert one.state == memory.state_bytes(SHAPES[name]) == 16 * params
    small = sum(
        count * weight.values for weight, count in weights_of(SHAPES[name]).items() if weight.is_small
    )  # which everyone has
    shared = -(-(params - small) // 8) + small
    assert shared <= eight.weights // 4 < 1.001 * shared  # some parts are a row larger than others
    assert (eight.gradients, eight.optimizer) == (eight.weights, 2 * eight.weights)
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


def test_gathered_layers_by_hand():
    """Two layers of the toy in bfloat16 and the embedding in float32; of its experts, as many as a rank has."""
    attention, expert, embedding = 2 * 128 * 128 + 2 * 128 * 64, 3 * 128 * 256, 2048 * 128
    for parallel in (1, 2, 8):
        experts = 16 // parallel * expert if parallel < 8 else 0  # with 8 nobody else has the same experts
        layout = Layout(processes=8, expert_parallel=parallel)
        found = training_memory(SHAPES["toy"], batch=1, context=8, layout=layout)
        expected = 2 * 2 * (attention + expert + experts) + 4 * embedding
        assert found.compute_copies == found.compute_copies_recomputed == expected
    single = training_memory(SHAPES["toy"], batch=1, context=8, layout=Layout(processes=8), precision="float32")
    assert single.compute_copies == 4 * (2 * (attention + 17 * expert) + embedding)


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
        ("toy", {"precision": "int8"}, ["precision is 'int8': choose one of bfloat16, float32"]),
        (
            "toy",
            {"layout": Layout(processes=96, expert_parallel=3)},
            ["--expert-parallel is 3 and must divide the 16 experts: 1, 2, 4, 8 and 16 fit 96 processes"],
        ),
        (
            "llama-3.1-8b",
            {"layout": Layout(processes=8, expert_parallel=4)},
            ["--expert-parallel is 4 and the model has no routed experts: leave it out"],
        ),
        (
            "toy",
            {"layout": Layout(processes=4, context_parallel=4), "context": 36},
            ["--context-parallel is 4 and needs a sequence of a multiple of 8 tokens: training.sequence_length is 36"],
        ),
        (
            "toy",
            {"batch": True, "precision": "fp8"},
            [
                "precision is 'fp8': choose one of bfloat16, float32",
                "batch is True: it must be a whole number, 1 or more",
            ],
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_each(name, changes, problems):
    with pytest.raises(ConfigError) as caught:
        training_memory(SHAPES[name], **{"batch": 1, "context": 8} | changes)
    assert caught.value.problems == problems
