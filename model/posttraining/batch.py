"""Rows of tokens for preferences: every pair's chosen and rejected answer behind its prompt, padded at the end.

B pairs, S tokens of the longest row.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class PreferenceBatch(NamedTuple):
    """Rows 0 to B - 1 are the chosen answers, rows B to 2B - 1 the rejected ones of the same pairs."""

    input_ids: Tensor  # (2B, S) int64
    attention_mask: Tensor  # (2B, S) bool: prompt and answer, not padding
    completion_mask: Tensor  # (2B, S) bool: the answer
    dropped: list[int]  # positions among the examples of those that are not in the batch


def collate_preference(
    examples: Sequence[Mapping[str, Any]], *, pad_id: int, max_length: int | None = None
) -> PreferenceBatch:
    """A batch of examples with prompt_ids, chosen_ids and rejected_ids.

    A pair of which an answer would lose its end in `max_length` tokens is dropped, not cut: a model that learns from answers
    without their ends learns not to end.
    """
    rows: list[tuple[list[int], list[int], list[int]]] = []
    dropped = []
    for index, example in enumerate(examples):
        prompt, chosen, rejected = (list(example[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids"))
        if max_length is not None and len(prompt) + max(len(chosen), len(rejected)) > max_length:
            dropped.append(index)
        else:
            rows.append((prompt, chosen, rejected))
    answers = [(prompt, chosen) for prompt, chosen, _ in rows] + [(prompt, rejected) for prompt, _, rejected in rows]
    longest = max((len(prompt) + len(answer) for prompt, answer in answers), default=0)
    input_ids = torch.full((len(answers), longest), pad_id, dtype=torch.int64)
    attention_mask, completion_mask = (torch.zeros(input_ids.shape, dtype=torch.bool) for _ in range(2))
    for row, (prompt, answer) in enumerate(answers):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor(prompt + answer, dtype=torch.int64)
        attention_mask[row, :end] = True
        completion_mask[row, len(prompt) : end] = True
    return PreferenceBatch(input_ids, attention_mask, completion_mask, dropped)
