"""The next token: greedy, and the literal distributions of temperature, top-k and top-p."""

import pytest
import torch

from model.errors import ConfigError
from model.generation.sampling import Sampling, distribution, next_token

PROBABILITIES = torch.tensor([[0.15, 0.5, 0.05, 0.3], [0.4, 0.1, 0.2, 0.3]])
LOGITS = PROBABILITIES.log() + 2.0  # a constant changes nothing


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1), [0.15, 0.5, 0.05, 0.3]),
        (Sampling(temperature=0.5), [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
        (Sampling(temperature=1, top_k=2), [0, 0.5 / 0.8, 0, 0.3 / 0.8]),
        (Sampling(temperature=1, top_k=9), [0.15, 0.5, 0.05, 0.3]),
        (Sampling(temperature=1, top_p=0.01), [0, 0.5, 0, 0]),  # the likeliest always stays
        (Sampling(temperature=1, top_p=0.45), [0, 0.5, 0, 0]),
        (Sampling(temperature=1, top_p=0.55), [0, 0.5, 0, 0.3]),
        (Sampling(temperature=1, top_p=0.85), [0.15, 0.5, 0, 0.3]),
        (Sampling(temperature=1, top_k=2, top_p=0.6), [0, 0.5 / 0.8, 0, 0]),  # top-p of what top-k left
    ],
    ids=str,
)
def test_distribution(sampling, expected):
    """Up to a constant, as it is sampled from."""
    expected, found = torch.tensor(expected), distribution(LOGITS, sampling)[0]
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found / found.sum(), expected / expected.sum())


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7, top_k=1), Sampling(temperature=2, top_p=1e-6)]
)
def test_one_token_to_choose_from_is_greedy(sampling):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(next_token(logits, sampling), logits.argmax(-1))


def test_draws_follow_the_distribution_and_the_seed():
    sampling = Sampling(temperature=1, top_k=3)

    def draw(seed):
        return next_token(LOGITS[:1].expand(4000, -1), sampling, torch.Generator().manual_seed(seed))

    shares = torch.bincount(draw(0), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.15, 0.5, 0, 0.3]) / 0.95, atol=0.03, rtol=0)
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_bad_values_are_one_error():
    with pytest.raises(ConfigError) as raised:
        Sampling(temperature=-1, top_k=-2, top_p=0)
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "temperature is -1", "top_k is -2", "top_p is 0"
    ]  # fmt: skip


@pytest.mark.parametrize("values", [{"temperature": float("nan")}, {"temperature": float("inf")}, {"top_p": 1.1}])
def test_a_bad_value_is_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        Sampling(**values)
