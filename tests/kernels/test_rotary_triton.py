"""The kernels that turn and normalise heads, against float64: queries, keys, values, and every gradient."""

import pytest
import torch

from model.kernels.rotary import split_and_turn
from model.layers.norm import rms_normalize
from model.layers.rope import rotate

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2}  # of the norm of what is compared
SHAPES = [(1, 1, 1, 1, 2), (2, 5, 3, 1, 6), (1, 37, 4, 2, 8), (3, 3, 2, 0, 16), (2, 9, 1, 1, 128)]  # B, S, H, G, P
EPS = 1e-5


def plain(projected, rope, weight, eps, *, heads, kv_heads):
    """Rotation and norms written out."""
    size = rope[0].shape[-1]
    parts = projected.split([heads * size, *[kv_heads * size] * (2 if kv_heads else 0)], dim=-1)
    queries, *rest = (part.unflatten(-1, (-1, size)) for part in parts)
    queries = rotate(queries, *rope)
    keys = rotate(rest[0], *rope) if rest else None
    if weight is not None:
        queries = weight * queries / (queries.square().mean(-1, keepdim=True) + eps).sqrt()
        keys = None if keys is None else keys / (keys.square().mean(-1, keepdim=True) + eps).sqrt()
    return queries, keys, rest[1] if rest else None


def operands(shape, dtype, device, with_norm):
    batch, tokens, heads, kv_heads, size = shape
    generator = torch.Generator().manual_seed(sum(shape))
    projected = torch.randn(batch, tokens, (heads + 2 * kv_heads) * size, generator=generator)
    angles = 3 * torch.randn(tokens, 1, size // 2, generator=generator)
    rope = torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)
    weight = 1 + 0.5 * torch.randn(size, generator=generator) if with_norm else None
    cotangents = [
        torch.randn(batch, count, tokens, size, generator=generator)
        .to(device, dtype)
        .transpose(1, 2)  # as attention's are
        for count in (heads, kv_heads, kv_heads)[: 3 if kv_heads else 1]
    ]
    weight = None if weight is None else weight.to(device)
    return projected.to(device, dtype), tuple(table.to(device) for table in rope), weight, cotangents


def through(function, shape, projected, rope, weight, cotangents):
    leaves = [None if value is None else value.detach().clone().requires_grad_() for value in (projected, weight)]
    outputs = function(leaves[0], rope, leaves[1], EPS, heads=shape[2], kv_heads=shape[3])[: len(cotangents)]
    torch.autograd.backward(outputs, cotangents)
    return [*(output.detach() for output in outputs), *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize("with_norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_heads_and_gradients(device, shape, dtype, with_norm):
    projected, rope, weight, cotangents = operands(shape, dtype, device, with_norm)
    found = through(split_and_turn, shape, projected, rope, weight, cotangents)
    exact = through(
        plain, shape, projected.double(), tuple(table.double() for table in rope),
        None if weight is None else weight.double(), [cotangent.double() for cotangent in cotangents],
    )  # fmt: skip
    assert [one.shape for one in found] == [other.shape for other in exact]
    for index, (one, other) in enumerate(zip(found, exact, strict=True)):
        scale = other.norm().clamp(
            min=1e-2 * projected.numel() ** 0.5
        )  # of a head of one pair the gradient is almost 0
        assert (one.double() - other).norm() <= TOLERANCE[dtype] * scale, index


def test_a_gradient_that_nobody_asked_for_is_zero(device):
    shape = SHAPES[2]
    projected, rope, weight, cotangents = operands(shape, torch.float32, device, True)
    leaf = projected.clone().requires_grad_()
    queries, _, _ = split_and_turn(leaf, rope, weight, EPS, heads=shape[2], kv_heads=shape[3])
    queries.backward(cotangents[0])
    first = shape[2] * shape[4]
    assert leaf.grad[..., first:].abs().max() == 0 and leaf.grad[..., :first].abs().min() > 0


def test_the_norm_is_that_of_the_layer(device):
    """The oracle above against the one that the model uses."""
    shape = SHAPES[2]
    projected, rope, weight, _ = operands(shape, torch.float32, device, True)
    queries, keys, _ = plain(projected, rope, weight, EPS, heads=shape[2], kv_heads=shape[3])
    heads = projected.unflatten(-1, (-1, shape[4]))
    torch.testing.assert_close(queries, rms_normalize(rotate(heads[..., : shape[2], :], *rope), EPS, weight))
    torch.testing.assert_close(keys, rms_normalize(rotate(heads[..., shape[2] : shape[2] + shape[3], :], *rope), EPS))
