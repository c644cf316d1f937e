"""What generation allocates: a cache once, for the layers that own keys; of a long prompt never all at once.

Every tensor that an operation puts out is seen, also inside attention and other operations that torch composes of smaller ones.
"""

from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.generation.generate import generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from tests.oracles.small_models import SMALL, VARIANTS, build

VOCABULARY = SMALL.vocab_size  # a prime that no other size is


class Made(NamedTuple):
    operation: str
    shape: tuple[int, ...]
    values: int


class Recorder(TorchDispatchMode):
    """Every tensor that an operation makes; views of another one are not among them."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            result = operation.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = operation(*args, **kwargs)
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.untyped_storage().data_ptr() not in given:
                self.made.append(Made(str(operation), tuple(leaf.shape), leaf.numel()))
        return result


def record(name, lengths, chunk, new=1, slots=8):
    net = build(name, max_position_embeddings=4096)
    asked = [Request([index % VOCABULARY for index in range(length)], new) for length in lengths]
    with Recorder() as recorder:
        for _ in generate_batch(net, asked, sampling=Sampling(), slots=slots, prefill_chunk=chunk):
            pass
    return recorder.made


def largest(length, chunk, name):
    """The largest tensor, but for the cache."""
    return max(made.values for made in record(name, [length], chunk) if made.operation != "aten.zeros.default")


@pytest.mark.parametrize("name", ["MHA", "many"])
def test_what_a_long_prompt_makes_grows_with_the_chunk_and_never_with_its_square(name):
    """It is the mask of the last chunk, a value for each of its tokens and each token before it."""
    length, chunk = 256, 32
    base = largest(length, chunk, name)
    assert base == pytest.approx(chunk * length, rel=0.1)
    assert base < largest(2 * length, chunk, name) <= 2 * base
    assert base < largest(length, 2 * chunk, name) <= 2 * base
    assert largest(length, length, name) < length**2 / 2  # in one pass there is no mask


@pytest.mark.parametrize("chunk", [7, 512])
def test_no_logits_are_made_but_those_of_a_last_position(chunk):
    """Of three prompts that are prefilled together: the choice of the next token takes a few tensors of that size."""
    made = record("many", [40, 40, 40, 11], chunk, new=3)
    sizes = {entry.shape for entry in made if VOCABULARY in entry.shape}
    assert (3, 1, VOCABULARY) in sizes or (3, VOCABULARY) in sizes
    assert all(entry.values <= 4 * VOCABULARY for entry in made if VOCABULARY in entry.shape)


@pytest.mark.parametrize("name", ["GQA", "MHA", "CLA 3", "MQA and CLA", "many", "dense, untied"])
def test_the_cache_is_allocated_once_and_for_owners_alone(name):
    config, slots = SMALL.replace(**VARIANTS[name]), 2
    made = record(name, [5, 17, 5], chunk=8, new=2, slots=slots)
    shape = (slots, config.num_key_value_heads, 19, config.head_dim)
    keys_and_values = [entry for entry in made if entry.shape == shape]
    assert [entry.operation for entry in keys_and_values] == ["aten.zeros.default"] * len(keys_and_values)
    owners = -(-config.num_hidden_layers // config.cla_share_factor)
    assert len(keys_and_values) == 2 * owners
