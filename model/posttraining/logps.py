"""Log-probabilities of given tokens: what fine-tuning raises, and what preferences are measured by.

B batch, S sequence, V vocabulary. The (B, S, V) logits are never held (model/kernels/cross_entropy.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.layers.documents import count_within
from model.moe.layer import MoEStats
from model.transformer import Hunyuan


class TokenLogps(NamedTuple):
    logps: Tensor  # (B, S - 1) float32
    aux_loss: Tensor  # () weighted routing losses of the tokens that matter, to be added to the loss


class AnswerLogps(NamedTuple):
    logps: Tensor  # (B,) float32
    aux_loss: Tensor  # ()
    stats: MoEStats | None


def token_logps(
    net: Hunyuan,
    input_ids: Tensor,
    mask: Tensor,
    *,
    document_ids: Tensor | None = None,
    routing_key: Tensor | None = None,
    dropless: bool = True,
) -> TokenLogps:
    """The log-probability of input_ids[:, 1:], exactly 0 where mask[:, 1:] is False; input_ids and mask (B, S).

    With `document_ids` (B, S) a token sees the tokens of its own id alone, and each document's positions count from 0. The
    first token of a document follows nothing, and its log-probability is 0 as well.

    Tokens that nothing in the mask comes after, as padding at the end of a row, have no part in it: experts and routing
    losses are spared them. Experts take every token that chose them, unless `dropless` is off: then a model in training
    routes as its own config says. `routing_key` is what `Hunyuan.forward` needs where something in it is random.
    """
    logps, aux_loss, _ = _scored(net, input_ids, mask, document_ids, routing_key, dropless)
    return TokenLogps(logps, aux_loss)


def answer_logps(
    net: Hunyuan, input_ids: Tensor, mask: Tensor, *, routing_key: Tensor | None = None, dropless: bool = True
) -> AnswerLogps:
    """The same of each row's answer as a whole, the sum of its tokens', and what routing did."""
    logps, aux_loss, stats = _scored(net, input_ids, mask, None, routing_key, dropless)
    return AnswerLogps(logps.sum(dim=1), aux_loss, stats)


def _scored(
    net: Hunyuan,
    input_ids: Tensor,
    mask: Tensor,
    document_ids: Tensor | None,
    routing_key: Tensor | None,
    dropless: bool,
) -> tuple[Tensor, Tensor, MoEStats | None]:
    scored = mask[:, 1:].bool()
    if document_ids is not None:
        scored = scored & (document_ids[:, 1:] == document_ids[:, :-1])
    labels = torch.full_like(input_ids, -100)
    labels[:, :-1] = torch.where(scored, input_ids[:, 1:], -100)
    output = net(
        input_ids,
        labels,
        routing_key=routing_key,
        dropless=dropless,
        document_ids=document_ids,
        token_mask=tokens_that_matter(mask, document_ids),
        reduction="none",
    )
    assert output.loss is not None and output.aux_loss is not None, "labels were given"
    return -output.loss[:, :-1], output.aux_loss, output.stats


def tokens_that_matter(mask: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """mask (B, S) of the learned tokens -> (B, S) bool: those, and all that come before one of them in its document."""
    ids = torch.zeros_like(mask, dtype=torch.int64) if document_ids is None else document_ids
    return count_within(ids.flip(1), mask.bool().flip(1)).flip(1) > 0
