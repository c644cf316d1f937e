"""Several documents in one row: what a token sees of it, and where in its own document it stands.

A document is the tokens of a row that have one id, in their order; they need not stand together. The oracle is each document
alone (tests/model/test_documents.py). B batch, S sequence.
"""

import torch
from torch import Tensor


def documents_of(ids: Tensor, end: int) -> Tensor:
    """ids (B, S) of rows of documents that the token `end` ends, each -> document_ids (B, S), counted from 0 in each row."""
    ends = ids == end
    return ends.cumsum(dim=1) - ends.long()


def count_within(document_ids: Tensor, counted: Tensor) -> Tensor:
    """document_ids and counted (B, S) -> (B, S) int64: how many are counted of a token's document, up to the token itself."""
    ordered, order = document_ids.sort(dim=1, stable=True)
    values = counted.long().gather(1, order)
    total = values.cumsum(dim=1)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    before = torch.where(begins, total - values, 0).cummax(dim=1).values  # of the documents that are sorted ahead
    return torch.empty_like(total).scatter(1, order, total - before)


def positions_within(document_ids: Tensor) -> Tensor:
    """document_ids (B, S) -> (B, S): how many tokens of the same document come before."""
    return count_within(document_ids, torch.ones_like(document_ids)) - 1


def visible_within(document_ids: Tensor) -> Tensor:
    """document_ids (B, S) -> (B, 1, S, S): a token sees those of its document up to its own."""
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return same.tril()[:, None]
