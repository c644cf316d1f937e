"""The bytes that a rank sends in a step, by hand, and the weights that it holds, by the pieces that it has."""

from math import prod

import pytest

from model.config import HunyuanConfig
from model.config.load import load_shape
from model.config.shape import shape_of
from model.counts import total_params
from model.parallel.layout import Layout
from model.parallel.pieces import piece_of
from model.parallel.traffic import traffic
from model.parallel.weights import held_values, weights_of
from model.transformer import Hunyuan

TOY = HunyuanConfig.from_name(
    "toy"
)  # 4 layers, hidden 128, 16 experts of 256, 4 heads and 2 key-value heads of 32, CLA 2
LARGE = load_shape("hunyuan-large")
DENSE = 4 * (2 * 128 * 128 + 3 * 128 * 256) + 2 * (2 * 64 * 128)  # weights of all blocks: queries, outputs, shared; CLA
EXPERTS = 4 * 16 * 3 * 128 * 256
EMBEDDING = 2048 * 128
SMALL = 4 * (16 * 128 + 2 * 128 + 2 * 32) + 128


def sent(layout, **step):
    found = traffic(TOY, Layout(**layout), **{"batch": 2, "context": 64} | step)
    return {exchange.name: exchange.bytes for exchange in found}


def test_fully_sharded_by_hand():
    assert sent({"processes": 4}) == {
        "dense weights": (2 * 2 * DENSE + 4 * EMBEDDING) * 3 // 4,
        "expert weights": 2 * 2 * EXPERTS * 3 // 4,
        "dense gradients": (2 * DENSE + 4 * EMBEDDING) * 3 // 4,
        "expert gradients": 2 * EXPERTS * 3 // 4,
        "small gradients, losses, counts": 2 * (4 * SMALL + 8 * (4 * 35 + 3)) * 3 // 4,
    }
    twice, once = (
        sent({"processes": 4}, micro_batches=2, precision="float32"),
        sent({"processes": 4}, precision="float32"),
    )
    once.pop("small gradients, losses, counts")
    assert {name: 2 * size for name, size in once.items()}.items() <= twice.items()


def test_expert_parallel_by_hand():
    """Rows of 128 values go to 3 of 4 ranks and back, forward and backward; and twice again when recomputed."""
    alone = sent({"processes": 4, "expert_parallel": 4})
    assert "expert weights" not in alone and "expert gradients" not in alone
    rows = 2 * 64 * 128 * 4  # of all layers, values
    assert alone["rows to experts and back"] == 2 * rows * 4 * 3 // 4
    assert (
        sent({"processes": 4, "expert_parallel": 4}, recompute=True)["rows to experts and back"]
        == 2 * rows * 6 * 3 // 4
    )
    both = sent({"processes": 4, "expert_parallel": 2})
    assert both["rows to experts and back"] == 2 * rows * 4 // 2
    assert both["expert weights"] == 2 * 2 * EXPERTS // 2 // 2


def test_context_parallel_by_hand():
    """Keys and values of 2 owners, or of all 4 layers twice when recomputed: 2 tensors, 2 heads of 32, of 2 x 64 tokens."""
    pair = 2 * 2 * 32 * 128 * 2
    kept, again = (sent({"processes": 4, "context_parallel": 4}, recompute=recompute) for recompute in (False, True))
    assert (kept["keys and values"], kept["their gradients"]) == (2 * pair * 3 // 4, 2 * pair * 3 // 4)
    assert (again["keys and values"], again["their gradients"]) == (8 * pair * 3 // 4, 4 * pair * 3 // 4)
    apart = sent({"processes": 4, "context_parallel": 2, "expert_parallel": 2})
    assert apart["rows to experts and back"] == 2 * (64 * 128 * 4) * 4 // 2  # each has half of the tokens


def test_copies_sum_their_gradients():
    found = sent({"processes": 8, "shard": 2, "expert_parallel": 2})
    assert found["copies' gradients"] == 2 * ((2 * DENSE + 4 * EMBEDDING) // 2) * 3 // 4
    assert found["expert copies' gradients"] == 2 * (2 * EXPERTS // 2) * 3 // 4


def test_one_process_sends_nothing():
    assert traffic(LARGE, Layout(), batch=1, context=8192) == []


@pytest.mark.parametrize(
    "sizes",
    [
        {"processes": 1},
        {"processes": 4},
        {"processes": 8, "expert_parallel": 2},
        {"processes": 32, "expert_parallel": 4},
        {"processes": 16, "expert_parallel": 8, "shard": 8},
        {"processes": 12, "expert_parallel": 4, "context_parallel": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "attention_bias": True}, {"num_experts": 1}])
def test_the_weights_of_the_first_rank_are_its_pieces(sizes, changes):
    config, layout = TOY.replace(**changes), Layout(**sizes)
    if config.is_dense and layout.expert_parallel > 1:
        return
    if config.intermediate_size % layout.expert_shard and layout.expert_shard_dim(16):
        return
    pieces = [piece_of(layout, 0, name, tuple(p.shape)) for name, p in Hunyuan(config).named_parameters()]
    found = sum(times * held_values(weight, layout) for weight, times in weights_of(shape_of(config)).items())
    assert found == sum(prod(piece.shape) for piece in pieces)


@pytest.mark.parametrize("name", ["toy", "hunyuan-large", "deepseek-v3", "llama-3.1-8b", "mixtral-8x22b"])
def test_the_weights_are_all_parameters(name):
    shape = load_shape(name)
    assert sum(times * weight.values for weight, times in weights_of(shape).items()) == total_params(shape)
