"""The fine-tuning loss, batches of preferences, the average of the weights, and the choice of a pair: each on a few numbers."""

import math

import pytest
import torch

from model.posttraining.average import WeightAverage
from model.posttraining.batch import collate_preference
from model.posttraining.online import select_pair
from model.posttraining.sft import sft_loss

LOGPS = torch.tensor([[-1.0, -2.0, 0.0], [-4.0, 0.0, -3.0]])
MASK = torch.tensor([[True, True, True, False], [False, True, False, True]])
EXAMPLES = [
    {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6]},
    {"prompt_ids": [7], "chosen_ids": [8], "rejected_ids": [9, 10, 11, 12]},
    {"prompt_ids": [13, 14], "chosen_ids": [15], "rejected_ids": [16]},
]


def test_the_loss_is_the_mean_over_learned_tokens():
    assert float(sft_loss(LOGPS, MASK)) == 10 / 4
    assert float(sft_loss(LOGPS, MASK[:, 1:])) == 10 / 4  # the mask of the targets alone
    assert float(sft_loss(LOGPS - 5 * ~MASK[:, 1:], MASK)) == 10 / 4  # what is left out does not count


def test_micro_batches_add_up():
    parts = [sft_loss(LOGPS[row : row + 1], MASK[row : row + 1], num_tokens=4) for row in range(2)]
    assert float(sum(parts)) == 10 / 4 != float(sum(sft_loss(LOGPS[r : r + 1], MASK[r : r + 1]) for r in range(2)))


def test_without_a_learned_token_the_loss_is_zero():
    assert float(sft_loss(LOGPS, torch.zeros_like(MASK))) == 0


def test_log_probabilities_in_bfloat16_give_a_float32_loss():
    assert sft_loss(LOGPS.bfloat16(), MASK).dtype == torch.float32


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must fit log-probabilities"):
        sft_loss(LOGPS, torch.ones(2, 5))


def test_a_batch_has_the_chosen_rows_first():
    batch = collate_preference(EXAMPLES[:2], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [7, 8, 0, 0, 0], [1, 2, 3, 6, 0], [7, 9, 10, 11, 12]]
    assert batch.attention_mask.sum(dim=1).tolist() == [5, 2, 4, 5]
    assert batch.completion_mask.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 1, 1, 1]]
    assert batch.dropped == []


@pytest.mark.parametrize(("max_length", "dropped"), [(5, []), (4, [0, 1]), (3, [0, 1]), (2, [0, 1, 2])])
def test_a_pair_that_would_lose_an_end_is_dropped_whole(max_length, dropped):
    batch = collate_preference(EXAMPLES, pad_id=0, max_length=max_length)
    assert batch.dropped == dropped
    kept = [example for index, example in enumerate(EXAMPLES) if index not in dropped]
    answers = [e["chosen_ids"] for e in kept] + [e["rejected_ids"] for e in kept]
    found = [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.completion_mask, strict=True)]
    assert found == answers and batch.input_ids.shape[1] <= max_length


def test_the_first_update_copies_and_later_ones_average():
    net = torch.nn.Linear(3, 2)
    average = WeightAverage(net, decay=0.9)
    begin = [p.detach().clone() for p in net.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(average.parameters(), begin, strict=True))
    expected = []
    for step in range(3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 1 + step
        now = [p.detach().clone() for p in net.parameters()]
        expected = now if step == 0 else [0.9 * a + 0.1 * b for a, b in zip(expected, now, strict=True)]
        average.update(net)
        for one, other in zip(average.parameters(), expected, strict=True):
            torch.testing.assert_close(one, other) if step else torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not any(p.requires_grad for p in average.parameters())
    other = torch.nn.Linear(3, 2)
    average.copy_to(other)
    assert all(torch.equal(one, two) for one, two in zip(average.parameters(), other.parameters(), strict=True))


def test_an_average_goes_on_from_its_state_to_the_bit():
    net, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    average = WeightAverage(net, decay=0.99)
    average.update(net)
    restored = WeightAverage(other, decay=0.99)
    restored.load_state_dict({name: tensor.clone() for name, tensor in average.state_dict().items()}, average.updates)
    average.update(other)
    restored.update(other.named_parameters())  # weights by name do as well
    assert all(torch.equal(*pair) for pair in zip(average.parameters(), restored.parameters(), strict=True))


def test_bfloat16_weights_are_averaged_in_float32():
    net = torch.nn.Linear(4, 4, bias=False).bfloat16()
    average = WeightAverage(net, decay=0.999)
    average.update(net)
    before = next(average.parameters()).clone()
    with torch.no_grad():
        net.weight += 1
    average.update(net)
    assert next(average.parameters()).ne(before).all()  # a thousandth of 1 is lost beside some of bfloat16's weights


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        WeightAverage(torch.nn.Linear(1, 1), decay)


@pytest.mark.parametrize(
    ("rewards", "tokens", "options", "expected"),
    [
        ([0.1, 0.9, -0.5], [[1], [2], [3]], {}, (1, 2)),
        ([1.0, 1.0, 0.0, 0.0], [[1], [2], [3], [4]], {}, (0, 2)),  # of several the first
        ([0.5, 0.5], [[1], [2]], {}, None),  # a tie
        ([0.5], [[1]], {}, None),
        ([], [], {}, None),
        ([0.2, 0.1], [[1, 2], [1, 2]], {}, None),  # one text
        ([0.2, math.nan, 0.1], [[1], [2], [3]], {}, None),
        ([0.2, -math.inf], [[1], [2]], {}, (0, 1)),
        ([math.inf, math.inf], [[1], [2]], {}, None),
        ([0.75, 0.25], [[1], [2]], {"min_margin": 0.25}, (0, 1)),
        ([0.5, 0.25], [[1], [2]], {"min_margin": 0.25}, None),
    ],
)
def test_the_best_and_the_worst_or_none(rewards, tokens, options, expected):
    assert select_pair(rewards, tokens, **options) == expected
    assert select_pair(torch.tensor(rewards), [torch.tensor(ids) for ids in tokens], **options) == expected


def test_rewards_and_answers_must_be_as_many():
    with pytest.raises(ValueError, match="1 rewards for 2 answers"):
        select_pair([1.0], [[1], [2]])
