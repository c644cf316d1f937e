"""The kernel of the embedding's gradient against float64, with tokens that are never there and some that are often."""

import pytest
import torch

from model.kernels import embedding

SIZES = [(1, 3, 8), (37, 11, 24), (100, 5, 520)]  # tokens, vocabulary, hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "vocabulary", "size"), SIZES)
def test_rows_and_their_gradient(kernels, device, monkeypatch, tokens, vocabulary, size, dtype):
    kernels("embedding")
    monkeypatch.setattr(embedding, "uses_triton", lambda _: True)
    generator = torch.Generator().manual_seed(tokens)
    weight = torch.randn(vocabulary, size, generator=generator).to(device).requires_grad_()
    ids = torch.randint(vocabulary, (tokens, 1), generator=generator).to(device)
    gradient = torch.randn(tokens, 1, size, generator=generator).to(device, dtype)
    embedded = embedding.embed(weight, ids, dtype)
    assert embedded.equal(weight[ids].to(dtype))
    embedded.backward(gradient)
    expected = torch.zeros(vocabulary, size, dtype=torch.float64, device=device)
    expected.index_add_(0, ids.flatten(), gradient.flatten(0, 1).double())
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad.double(), expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_read_behind_the_rows(kernels, device):
    rows = torch.full((9, 24), float("nan"), device=device)
    rows[:5] = 1.0
    found = kernels("embedding").sum_rows(rows[:5], torch.tensor([2, 2, 2, 0, 2], device=device), 4)
    assert found[:, 0].tolist() == [1, 0, 4, 0]
