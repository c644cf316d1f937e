"""The random order of recycle routing: a pure function, the same everywhere, and as good as a fair shuffle.

E experts, C places per expert.
"""

import itertools

import numpy as np
import pytest
import torch

from model.moe.place_keys import place_keys, routing_key
from model.moe.router import recycle


def lowbias32(word: np.ndarray) -> np.ndarray:
    """The published hash, in the unsigned words that it was made for."""
    word = word ^ (word >> np.uint32(16))
    word = word * np.uint32(0x7FEB352D)
    word = word ^ (word >> np.uint32(15))
    word = word * np.uint32(0x846CA68B)
    return word ^ (word >> np.uint32(16))


def keys_by_numpy(seed: int, step: int, micro_batch: int, layers: int, places: int) -> np.ndarray:
    golden, words = np.uint32(0x9E3779B9), []
    for value in (seed, step, micro_batch):
        words += [np.array([value & 0xFFFFFFFF], np.uint32), np.array([value >> 32], np.uint32)]
    low = np.zeros(1, np.uint32)
    for word in words:
        low = lowbias32(low + word + golden)
    high = low
    for word in words:
        high = lowbias32(high + word + golden)
    high &= np.uint32(0x7FFFFFFF)
    first = lowbias32(np.arange(layers, dtype=np.uint32)[:, None] + low)
    return lowbias32(lowbias32(np.arange(places, dtype=np.uint32) + first) ^ lowbias32(first ^ high))


NUMBERS = [(0, 0, 0), (7, 3, 1), (2**63 - 1, 2**40, 4095)]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_keys_equal_unsigned_arithmetic(numbers):
    found = place_keys(routing_key(*numbers), 3, 1000)
    assert found.numpy().tolist() == keys_by_numpy(*numbers, 3, 1000).tolist()


def test_keys_are_these():
    """Another function would change every run with recycle routing."""
    assert int(routing_key(7, 3, 1)) == 339343264631222595
    assert place_keys(routing_key(7, 3, 1), 2, 3).tolist() == [
        [2339850080, 2190184068, 1221769958],
        [2712680738, 2327195322, 3699969332],
    ]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_step_may_be_a_tensor_in_one_graph_without_a_wait(numbers):
    """As a captured graph needs it; the backend leaves the operations as they are, so no compiler is needed."""
    seed, step, micro_batch = numbers

    def order(step: torch.Tensor, micro_batch: torch.Tensor) -> torch.Tensor:
        return place_keys(routing_key(seed, step, micro_batch), 2, 40).argsort()

    compiled = torch.compile(order, backend="aot_eager", fullgraph=True)
    expected = place_keys(routing_key(*numbers), 2, 40).argsort()
    assert compiled(torch.tensor(step), torch.tensor(micro_batch)).equal(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_kernel_of_a_cuda_device_has_the_same_places():
    """Its indices are 32 bits wide, where a product of hashes would overflow."""
    compiled = torch.compile(lambda step: place_keys(routing_key(5, step, device="cuda"), 3, 40), fullgraph=True)
    for step in (3, 2**40):
        found = compiled(torch.tensor(step, device="cuda")).cpu()
        assert found.equal(place_keys(routing_key(5, step), 3, 40))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("numbers", NUMBERS)
def test_every_device_has_the_same_places(numbers):
    keys = [place_keys(routing_key(*numbers, device=device), 4, 5000) for device in ("cpu", "cuda")]
    assert keys[1].device.type == "cuda" and keys[0].equal(keys[1].cpu())
    assert keys[0].argsort().equal(keys[1].argsort().cpu())


def test_a_layer_with_less_room_has_the_first_keys_of_one_with_more():
    key = routing_key(1)
    assert place_keys(key, 4, 100)[:2, :60].equal(place_keys(key, 2, 60))


def test_no_two_places_tie():
    rows = place_keys(routing_key(5, 6), 3, 300_000)  # of 300,000 draws of 32 bits about ten would
    assert all(len(row.unique()) == 300_000 for row in rows)
    assert rows.min() >= 0 and rows.max() < 2**32


# --- statistics: each limit is exceeded by a fair shuffle once in 100,000 tries ---------------------------------------


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def neighbours(vary: str, count: int) -> torch.Tensor:
    """Keys (count, 12) of 12 places, where one number alone runs from 0: what a weak hash would show."""
    if vary == "layer":
        return place_keys(routing_key(3, 1), count, 12)
    numbers = [{"seed": 3, "step": 1, "micro_batch": 0} | {vary: n} for n in range(count)]
    return torch.cat([place_keys(routing_key(**n), 1, 12) for n in numbers])


VARIED = ["seed", "step", "micro_batch", "layer"]


@pytest.mark.parametrize("vary", VARIED)
def test_every_place_is_as_often_at_every_turn(vary):
    order = neighbours(vary, 12_000).argsort()
    for turn in range(12):
        assert chi_square(torch.bincount(order[:, turn], minlength=12).float()) < 43.2  # 11 degrees of freedom


@pytest.mark.parametrize("vary", VARIED)
def test_the_first_two_places_are_independent_of_each_other_and_of_the_next_order(vary):
    order = neighbours(vary, 13_200).argsort()
    pairs = torch.bincount(order[:, 0] * 12 + order[:, 1], minlength=144).view(12, 12).float()
    assert (pairs.diagonal() == 0).all()
    assert chi_square(pairs[~torch.eye(12, dtype=torch.bool)]) < 212  # 131 degrees of freedom
    following = torch.bincount(order[:-1, 0] * 12 + order[1:, 0], minlength=144).float()
    assert chi_square(following) < 227  # 143 degrees of freedom


def test_every_bit_of_the_keys_is_fair_and_independent_of_the_others():
    keys = place_keys(routing_key(0), 20, 5000).flatten()
    bits = (keys[:, None] >> torch.arange(32)) & 1  # (100,000, 32)
    sign = (2 * bits - 1).double()
    assert (sign.mean(0).abs() < 4.9 / 100_000**0.5).all()
    correlation = sign.t() @ sign / len(sign)
    assert (correlation - torch.eye(32)).abs().max() < 5.6 / 100_000**0.5
    neighbour = (sign[1:] * sign[:-1]).mean(0)
    assert (neighbour.abs() < 4.9 / 100_000**0.5).all()


def test_recycled_tokens_go_to_every_order_of_the_free_places_alike():
    """Three tokens too many for expert 0, one place free in each of experts 1 to 3: 6 orders, 5 degrees of freedom."""
    chosen = torch.tensor([0] * 5 + [1, 2, 3])[:, None]
    orders = dict.fromkeys(itertools.permutations((1, 2, 3)), 0)
    for step in range(2400):
        index = recycle(chosen, 4, 2, place_keys(routing_key(11, step), 1, 8)[0])
        orders[tuple(index[2:5, 0].tolist())] += 1
    assert chi_square(torch.tensor(list(orders.values())).float()) < 30.9
