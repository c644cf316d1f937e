"""The chunked loss against torch's cross-entropy of all logits: value and gradients, wherever the chunks end."""

import pytest
import torch

from model.kernels import cross_entropy as loss
from model.kernels.cross_entropy import cross_entropy, linear_cross_entropy

T, D, V = 10, 6, 23


def operands(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, D, generator=generator, dtype=dtype).requires_grad_() for n in (T, V))
    labels = torch.randint(V, (T,), generator=generator)
    labels[[2, 9]] = -100
    return hidden, weight, labels


def value_and_gradients(function, hidden, weight, labels, **_):
    """The gradients of a multiple of the loss, as accumulation over micro-batches takes them."""
    value = function(hidden, weight, labels)
    return [value, *torch.autograd.grad(3 * value, [hidden, weight])]


def oracle(hidden, weight, labels):
    return cross_entropy(hidden @ weight.t(), labels)


@pytest.mark.parametrize("rows_per_chunk", [0.5, 1, 3, 5, 9, 10, 11])
def test_chunks_do_not_change_the_loss(rows_per_chunk, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_VALUES", int(rows_per_chunk * V))
    found = value_and_gradients(linear_cross_entropy, *operands())
    for one, other in zip(found, value_and_gradients(oracle, *operands()), strict=True):
        torch.testing.assert_close(one, other)


def test_the_logits_are_never_held_at_once(monkeypatch):
    """And without a backward pass to come, no product is made for one."""
    sizes = []
    monkeypatch.setattr(loss, "CHUNK_VALUES", 3 * V)
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda rows, weight, **out: sizes.append(len(rows)) or mm(rows, weight, **out))
    with torch.no_grad():
        value = linear_cross_entropy(*operands())
    assert sizes == [3, 3, 3, 1]
    torch.testing.assert_close(value, oracle(*operands()))


def test_without_a_label_the_loss_and_its_gradients_are_zero():
    hidden, weight, labels = operands()
    for tensor in value_and_gradients(linear_cross_entropy, hidden, weight, torch.full_like(labels, -100)):
        assert (tensor == 0).all()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_one_operand_may_need_no_gradient(frozen):
    hidden, weight, labels = operands()
    expected = dict(zip(("hidden", "weight"), value_and_gradients(oracle, hidden, weight, labels)[1:], strict=True))
    tensors = {"hidden": hidden, "weight": weight}
    tensors[frozen] = tensors[frozen].detach()
    (3 * linear_cross_entropy(**tensors, labels=labels)).backward()
    (name,) = set(tensors) - {frozen}
    torch.testing.assert_close(tensors[name].grad, expected[name])
    assert tensors[frozen].grad is None


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_products_keep_a_float32_loss(autocast, monkeypatch):
    """The oracle's logits are the same bfloat16 products; the rest is float32 in both."""
    monkeypatch.setattr("model.kernels.onednn.ROUNDS", False)  # see test_rounded_products.py
    hidden, weight, labels = operands()
    if not autocast:
        hidden, weight = (t.detach().bfloat16().requires_grad_() for t in (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = (value_and_gradients(f, hidden, weight, labels) for f in (linear_cross_entropy, oracle))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == hidden.dtype
        assert (one - other).float().norm() < 2e-2 * other.float().norm()


@pytest.mark.parametrize("label", [-1, -101, -(2**40)])
def test_every_negative_label_is_left_out(label):
    hidden, weight, labels = operands()
    expected = value_and_gradients(linear_cross_entropy, hidden, weight, labels)
    found = value_and_gradients(linear_cross_entropy, hidden, weight, labels.masked_fill(labels < 0, label))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    kept = [0, 1, 3, 4, 5, 6, 7, 8]
    torch.testing.assert_close(found[0], torch.nn.functional.cross_entropy((hidden @ weight.t())[kept], labels[kept]))


@pytest.mark.parametrize("label", [V, 2**40])
def test_a_label_beyond_the_vocabulary_is_an_error(label):
    hidden, weight, labels = operands()
    labels[4] = label
    with pytest.raises(RuntimeError, match=f"index {label} is out of bounds"):
        linear_cross_entropy(hidden, weight, labels)
