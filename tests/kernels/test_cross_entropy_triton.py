"""The kernel of the loss against float64: values, gradients, and what lies beyond the end of a row."""

import pytest
import torch

from model.kernels.cross_entropy import loss_and_gradient

TOLERANCE = {torch.float32: (2e-6, 1e-7), torch.bfloat16: (8e-3, 1e-7)}  # relative, absolute
SIZES = [(1, 1), (3, 100), (5, 257), (2, 8192), (2, 8193), (1, 20_000)]  # rows, vocabulary


def operands(rows, size, dtype, device):
    generator = torch.Generator().manual_seed(size)
    wide = torch.full((rows, size + 5), float("nan"))  # NaN beyond the rows' ends
    wide[:, :size] = 3 * torch.randn(rows, size, generator=generator)
    labels = torch.randint(size, (rows,), generator=generator)
    if rows > 1:
        labels[1] = -100
    return wide.to(device, dtype), labels.to(device), torch.randn(rows, generator=generator).to(device)


def expected(logits, labels, scale):
    """By autograd in float64."""
    logits = logits.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    (losses @ scale.double()).backward()
    return losses.detach(), logits.grad


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_losses_and_gradients(kernels, device, rows, size, dtype):
    wide, labels, scale = operands(rows, size, dtype, device)
    losses, gradient = expected(wide[:, :size], labels, scale)
    found = kernels("cross_entropy").loss_and_gradient_(wide[:, :size], labels, scale, gradient=True)
    torch.testing.assert_close(found.double(), losses, rtol=2e-6, atol=2e-6)
    relative, absolute = TOLERANCE[dtype]
    torch.testing.assert_close(wide[:, :size].double(), gradient, rtol=relative, atol=absolute)
    assert wide[:, size:].isnan().all()


def test_without_a_gradient_the_logits_stay(kernels, device):
    wide, labels, scale = operands(5, 257, torch.float32, device)
    before = wide.clone()
    found = kernels("cross_entropy").loss_and_gradient_(wide[:, :257], labels, scale, gradient=False)
    assert wide.equal(before) or wide[:, :257].equal(before[:, :257])
    torch.testing.assert_close(found, loss_and_gradient(before[:, :257].clone(), labels, scale, gradient=False)[0])


def test_every_label_left_out(kernels, device):
    wide, labels, _ = operands(4, 33, torch.float32, device)
    found = kernels("cross_entropy").loss_and_gradient_(
        wide[:, :33], labels.fill_(-100), torch.ones(4, device=device), gradient=True
    )
    assert not found.any() and not wide[:, :33].any()


def test_a_label_that_is_no_token_makes_its_loss_nan(kernels, device):
    wide, labels, scale = operands(4, 33, torch.float32, device)
    labels[2], labels[3] = 33, 34
    wide[:, 33:] = 0.0  # what lies behind a row is a number, and must not be taken for its logit
    found = kernels("cross_entropy").loss_and_gradient_(wide[:, :33], labels, scale, gradient=True)
    assert found.isnan().tolist() == [False, False, True, True]
