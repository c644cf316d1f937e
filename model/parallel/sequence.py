"""Context parallelism: the processes of a group share out each sequence, and exchange keys and values.

A sequence of S tokens is cut into 2 n chunks for n processes. Process i has the chunks i and 2 n - 1 - i: a later query sees
more keys, and so each process computes as many scores as any other (as for Llama 3, arXiv:2407.21783, section 3.3.2).
Everything but attention works on tokens by themselves. For attention each owner of keys and values (CLA: one of
cla_share_factor layers) has them gathered, all processes' in one collective; their gradient is summed and shared out again.
With recomputation an owner hands on its own part and every layer gathers anew, in the forward pass and when it is computed
again: else the gathered pair of each owner would wait for its backward pass.

    split_sequences(net, group, recompute=...)   has the model take whole sequences, and compute a part of each

The loss that a process gets is its share: those of all processes sum to the loss of the whole sequences, and so do gradients.
The oracle is the model that has the whole sequence (tests/parallel/test_sequence.py).

n processes, c = S / 2n tokens a chunk, B batch, S sequence, H heads, G key-value heads, P head size.
"""

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from model.kernels.cross_entropy import linear_cross_entropy
from model.layers.attention import KeysValues, causal_attention
from model.layers.documents import positions_within
from model.layers.dropout import Dropout
from model.transformer import Hunyuan, Output, Part

all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the first since torch 2.13
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
IGNORED = -100  # a label that is left out of the loss


def split_sequences(net: Hunyuan, group: dist.ProcessGroup, *, recompute: bool) -> "SequenceGroup":
    """Has the model share out each sequence among the processes of the group, in place; all of them call it, and all its steps.

    It is then given whole micro-batches as before, the same on each of these processes, and labels. `recompute` says whether
    blocks are computed again in the backward pass. Routing must be told of it too (model/parallel/places.py).
    """
    sequence = SequenceGroup(group)
    for layer in net.layers:
        if recompute:
            layer.self_attn.attend = sequence.gather_and_attend
        else:
            layer.self_attn.hand_on, layer.self_attn.attend = sequence.gather, sequence.attend
    net.forward = functools.partial(_forward, net, sequence)  # type: ignore[method-assign]
    return sequence


def _forward(
    net: Hunyuan, sequence: "SequenceGroup", input_ids: Tensor, labels: Tensor | None = None, **given: Any
) -> Output:
    """Hunyuan.forward on this process's part of input_ids and labels (B, S).

    Losses are its shares: sums over the labels of its part by the number of all labels, and an n-th of the routing losses.
    """
    if given.get("cache") is not None:
        return Hunyuan.forward(net, input_ids, **given)
    if labels is None or given.pop("reduction", "mean") != "mean" or given.pop("token_mask", None) is not None:
        raise ValueError(
            "with context parallelism the model gives the mean loss of whole rows: leave the other options out"
        )
    input_ids, labels, document_ids = sequence.filled(input_ids, labels, given.pop("document_ids", None))
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    if document_ids is not None:
        positions = positions_within(document_ids)
    sequence.sequences = len(input_ids)
    part = Part(sequence.part(positions), document_ids)
    hidden, aux_loss, stats = net.hidden_states(sequence.part(input_ids), part=part, **given)
    own = sequence.part(labels).flatten()
    loss = linear_cross_entropy(hidden.view(-1, hidden.shape[-1]), net.head_weight, own)
    share = (own >= 0).sum() / (labels >= 0).sum().clamp(min=1)
    return Output(None, loss * share, aux_loss / sequence.processes, stats)


def chunks_of(process: int, processes: int) -> tuple[int, int]:
    """Which of the 2 n chunks of a sequence a process has."""
    return process, 2 * processes - 1 - process


def part_of(whole: Tensor, process: int, processes: int, dim: int = 1) -> Tensor:
    """The tokens of one process, (..., S / n, ...), of whole (..., S, ...) along `dim`."""
    chunks = whole.chunk(2 * processes, dim=dim)
    return torch.cat([chunks[index] for index in chunks_of(process, processes)], dim=dim)


def parts_of(whole: Tensor, processes: int, dim: int = 1) -> Tensor:
    """The tokens of every process, (n, ..., S / n, ...)."""
    return torch.stack([part_of(whole, process, processes, dim) for process in range(processes)])


def in_order(parts: Tensor, dim: int = 1) -> Tensor:
    """parts (n, ..., S / n, ...) of every process -> (..., S, ...): what `parts_of` took apart."""
    early, late = zip(*(part.chunk(2, dim=dim) for part in parts.unbind()), strict=True)
    return torch.cat([*early, *reversed(late)], dim=dim)


class _Gather(torch.autograd.Function):
    """part (2, B, G, S / n, P) of each process -> (2, B, G, S, P); back go the sums of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = part.new_empty(group.size() * part.shape[0], *part.shape[1:])
        all_gather(parts, part.contiguous(), group=group)
        return in_order(parts.view(group.size(), *part.shape), dim=-2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        parts = parts_of(grads[0], ctx.group.size(), dim=-2)
        part = parts.new_empty(parts.shape[1:])
        reduce_scatter(part, parts.flatten(0, 1), group=ctx.group)
        return part, None


class SequenceGroup:
    """The processes that share out a sequence, as one of them sees them: what attention exchanges."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.process, self.processes = group, group.rank(), group.size()
        self.sequences = 0  # B of the micro-batch that is being computed

    def part(self, whole: Tensor) -> Tensor:
        """whole (B, S, ...) -> (B, S / n, ...), this process's tokens."""
        return part_of(whole, self.process, self.processes)

    def filled(self, ids: Tensor, labels: Tensor, documents: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, S) each, with columns after the text until S is a multiple of 2 n: no token sees them, they have no labels.

        Not in training, where they would take places of experts.
        """
        more = -ids.shape[1] % (2 * self.processes)
        if not more:
            return ids, labels, documents
        if torch.is_grad_enabled():
            raise ValueError(f"{ids.shape[1]} tokens cannot be shared out: take a multiple of {2 * self.processes}")
        ids, labels = F.pad(ids, (0, more)), F.pad(labels, (0, more), value=IGNORED)
        return ids, labels, None if documents is None else F.pad(documents, (0, more), value=-1)

    @torch.compiler.disable
    def gather(self, own: KeysValues) -> KeysValues:
        """Keys and values (B, G, S / n, P) -> (B, G, S, P), by one collective."""
        whole: Tensor = _Gather.apply(torch.stack(own), self.group)
        return KeysValues(*whole.unbind())

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """queries (B, H, 2c, P) of this process, keys and values (B, G, S, P) of all -> (B, H, 2c, P).

        `mask` are the document_ids (B, S) of the whole sequence: a query sees the keys of its own up to its own. None: all.
        """
        if dropout is not None and dropout.attention:
            raise ValueError("attention dropout is drawn for whole sequences: it does not go with context parallelism")
        size = queries.shape[2] // 2
        attended = []
        for chunk, rows in zip(chunks_of(self.process, self.processes), queries.split(size, dim=2), strict=True):
            end = (chunk + 1) * size
            seen = None if mask is None else _visible(mask[:, end - size : end], mask[:, :end])
            attended.append(causal_attention(rows, keys[:, :, :end], values[:, :, :end], seen).transpose(1, 2))
        return torch.cat(attended, dim=1).transpose(
            1, 2
        )  # in the order (B, 2c, H, P), in which the next product reads it

    def gather_and_attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """The same from keys and values (B, G, S / n, P) of this process."""
        whole = self.gather(KeysValues(keys, values))
        return self.attend(queries, whole.keys, whole.values, mask, dropout)


def _visible(rows: Tensor, columns: Tensor) -> Tensor:
    """document_ids of the last c tokens (B, c) and of all so far (B, S') -> (B, 1, c, S'): which a query sees."""
    same = rows[:, :, None] == columns[:, None, :]
    return same.tril(columns.shape[1] - rows.shape[1])[:, None]
