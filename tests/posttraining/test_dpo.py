"""Every kind of DPO against its formula, with gradients; exact values, extremes, and parts that add up."""

import math
from typing import get_args

import pytest
import torch

from model.posttraining.dpo import dpo_loss
from model.posttraining.dpo_config import Kind

DPO_KINDS = get_args(Kind)

# Nats of pairs: policy chosen, policy rejected, reference chosen, reference rejected; and the answers' lengths.
LOGPS = torch.tensor(
    [
        [-12.5, -9.0, -11.0, -10.0],
        [-30.0, -41.5, -33.0, -40.0],
        [-3.25, -3.25, -3.0, -3.5],
        [-80.0, -75.0, -81.0, -78.5],
        [-7.0, -20.0, -7.0, -20.0],
    ]
)
CHOSEN, REJECTED = torch.tensor([4, 9, 2, 30, 3]), torch.tensor([5, 12, 2, 25, 8])
LENGTHS = {"chosen_tokens": CHOSEN, "rejected_tokens": REJECTED}
CASES = [(kind, 0.0) for kind in DPO_KINDS] + [("sigmoid", 0.1), ("sigmoid", 0.5), ("robust", 0.2), ("hinge", 0.1)]


def columns(logps):
    return [column.clone().requires_grad_() for column in logps.unbind(1)]


def log_s(value):
    return -math.log1p(math.exp(-value)) if value > 0 else value - math.log1p(math.exp(value))


def formula(kind, smoothing, beta, row, lengths):
    """One pair, in Python's numbers."""
    chosen, rejected = row[0] - row[2], row[1] - row[3]
    d = chosen - rejected
    per_token = chosen / lengths[0] - rejected / lengths[1]
    right, wrong = -log_s(beta * d), -log_s(-beta * d)
    return {
        "sigmoid": (1 - smoothing) * right + smoothing * wrong,
        "robust": ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing) if smoothing < 0.5 else 0.0,
        "hinge": max(0.0, 1 - beta * d),
        "ipo": (per_token - 1 / (2 * beta)) ** 2,
        "sigmoid_norm": -log_s(beta * per_token),
    }[kind]


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(("kind", "smoothing"), CASES)
def test_losses_and_gradients_are_those_of_the_formula(kind, smoothing, beta):
    inputs = columns(LOGPS)
    found = dpo_loss(*inputs, kind=kind, beta=beta, label_smoothing=smoothing, **LENGTHS)
    rows, lengths = LOGPS.double().tolist(), list(zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True))
    expected = [formula(kind, smoothing, beta, *pair) for pair in zip(rows, lengths, strict=True)]
    torch.testing.assert_close(found.per_pair, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.loss, torch.tensor(sum(expected) / 5), rtol=1e-5, atol=1e-6)
    found.loss.backward()
    for column, tensor in enumerate(inputs):
        for pair, row in enumerate(rows):  # central differences
            up, down = ([value + (i == column) * step for i, value in enumerate(row)] for step in (1e-5, -1e-5))
            slope = (
                formula(kind, smoothing, beta, up, lengths[pair]) - formula(kind, smoothing, beta, down, lengths[pair])
            ) / 2e-5
            assert float(tensor.grad[pair]) == pytest.approx(slope / 5, abs=5e-5)


def test_rewards_accuracy_and_margin():
    found = dpo_loss(*columns(LOGPS), beta=0.5)
    torch.testing.assert_close(found.chosen_rewards, torch.tensor([-0.75, 1.5, -0.125, 0.5, 0.0]))
    torch.testing.assert_close(found.rejected_rewards, torch.tensor([0.5, -0.75, 0.125, 1.75, 0.0]))
    assert float(found.accuracy) == pytest.approx(1 / 5)  # the tie of the last pair is none
    assert float(found.margin) == pytest.approx((-1.25 + 2.25 - 0.25 - 1.25 + 0.0) / 5)
    assert not any(
        part.requires_grad for part in (found.chosen_rewards, found.rejected_rewards, found.accuracy, found.margin)
    )


@pytest.mark.parametrize("pairs", [1, 3, 5, 7])
@pytest.mark.parametrize("kind", ["sigmoid", "robust", "sigmoid_norm"])
def test_a_policy_that_is_the_reference_costs_log_2_exactly(kind, pairs):
    logps = torch.randn(2, pairs, generator=torch.Generator().manual_seed(pairs)) * 30
    lengths = {name: torch.arange(1, pairs + 1) for name in LENGTHS}
    found = dpo_loss(*logps, *logps, kind=kind, **lengths)
    assert torch.equal(found.loss, torch.tensor(math.log(2)))
    assert float(found.accuracy) == float(found.margin) == 0


@pytest.mark.parametrize("ratio", [4000.0, -4000.0])
@pytest.mark.parametrize(("kind", "smoothing"), CASES)
def test_large_log_ratios_have_finite_losses_and_gradients(kind, smoothing, ratio):
    inputs = columns(torch.tensor([[ratio, 0.0, 0.0, 0.0], [0.0, ratio, 0.0, 0.0]]))
    tokens = torch.ones(2, dtype=torch.int64)
    found = dpo_loss(*inputs, kind=kind, label_smoothing=smoothing, chosen_tokens=tokens, rejected_tokens=tokens)
    found.loss.backward()
    assert found.loss.isfinite() and all(tensor.grad.isfinite().all() for tensor in inputs)


def test_sums_in_bfloat16_give_a_float32_loss():
    rounded = LOGPS.bfloat16()
    found = dpo_loss(*rounded.unbind(1), sft_coefficient=0.2, **LENGTHS)
    expected = dpo_loss(*rounded.float().unbind(1), sft_coefficient=0.2, **LENGTHS)
    assert {part.dtype for part in found} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("normalization", "expected"), [("token", 132.75 / 48), ("sequence", 0.0)])
def test_the_fine_tuning_term(normalization, expected):
    found = dpo_loss(*columns(LOGPS), sft_coefficient=0.2, sft_normalization=normalization, **LENGTHS)
    if normalization == "sequence":
        expected = sum(n / t for n, t in zip([12.5, 30, 3.25, 80, 7], [4, 9, 2, 30, 3], strict=True)) / 5
    assert found.sft_loss.item() == pytest.approx(expected)
    torch.testing.assert_close(found.loss, found.preference_loss + 0.2 * found.sft_loss)


@pytest.mark.parametrize("normalization", ["token", "sequence"])
@pytest.mark.parametrize("kind", DPO_KINDS)
def test_micro_batches_add_up_to_the_batch(kind, normalization):
    options = {"kind": kind, "sft_coefficient": 0.3, "sft_normalization": normalization}
    whole_inputs, part_inputs = columns(LOGPS), columns(LOGPS)
    whole = dpo_loss(*whole_inputs, **LENGTHS, **options)
    whole.loss.backward()
    of_step = {"num_pairs": 5, "num_tokens": int(CHOSEN.sum())}
    parts = [
        dpo_loss(
            *(tensor[rows] for tensor in part_inputs), **{k: v[rows] for k, v in LENGTHS.items()}, **of_step, **options
        )
        for rows in (slice(0, 1), slice(1, 5))
    ]
    sum(part.loss for part in parts).backward()
    for name in ("loss", "preference_loss", "sft_loss", "accuracy", "margin"):
        torch.testing.assert_close(sum(getattr(part, name) for part in parts), getattr(whole, name))
    for one, other in zip(part_inputs, whole_inputs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_reference_is_taken_as_it_is_where_it_needs_no_gradient():
    inputs = columns(LOGPS)
    dpo_loss(*inputs[:2], *(tensor.detach() for tensor in inputs[2:])).loss.backward()
    assert inputs[0].grad.ne(0).all() and inputs[2].grad is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "kto"}, "choose one of sigmoid, ipo"),
        ({"kind": "ipo"}, "give chosen_tokens and rejected_tokens"),
        ({"beta": 0.0}, "beta is 0.0: it must be above 0"),
        ({"kind": "robust", "label_smoothing": 0.5}, "label_smoothing is 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"sft_normalization": "mean"}, "choose token or sequence"),
        ({"sft_coefficient": 0.1}, "give chosen_tokens"),
        ({"sft_coefficient": 0.1, "sft_normalization": "sequence", "num_tokens": 9}, "give chosen_tokens"),
    ],
)
def test_mistakes_are_told(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        dpo_loss(*LOGPS.unbind(1), **options)
