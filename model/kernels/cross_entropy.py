"""Cross-entropy from the last hidden state, without ever holding the logits of all tokens.

T tokens, D hidden, V vocabulary. The (T, V) logits are the largest tensor of a small model's step, and of a large
vocabulary's; in chunks of rows they stay in cache. The gradients of the mean are made while they are there. Those of each
token's loss wait for what is made of it, a preference of pairs for example: the backward pass computes the logits again.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.device import matmul_dtype
from model.kernels import onednn
from model.kernels.choice import uses_triton

CHUNK_VALUES = 1 << 21  # logits per chunk on a processor: 8 MiB in float32
CHUNK_VALUES_DEVICE = 1 << 27  # on an accelerator: enough rows to fill it


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of labels (T,) under softmax(hidden (T, D) @ weight (V, D).T), in float32.

    Negative labels, such as -100, are left out of the mean. A label of V or more is torch's error of an index out
    of bounds; in the kernel, which cannot raise, it makes the loss NaN.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, _products(hidden, weight), torch.is_grad_enabled())


def linear_cross_entropies(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The same of each token, (T,) float32 and 0 where its label is negative; each may be weighed in its own way."""
    return _LinearCrossEntropies.apply(hidden, weight, labels, _products(hidden, weight))


def _products(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The precision of the logits' operands; oneDNN takes float32 and rounds by itself."""
    return torch.float32 if onednn.onednn_applies(hidden, weight) else matmul_dtype(hidden)


class _Chunks:
    """The logits of some rows at a time, all in one buffer, by products as autocast has them in the forward pass."""

    def __init__(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype, rounds: bool) -> None:
        self._hidden, self._dtype, self._rounds, self._values = hidden, dtype, rounds, weight.numel()
        self.weight = weight.to(dtype)
        values = CHUNK_VALUES if hidden.device.type == "cpu" else CHUNK_VALUES_DEVICE
        self._rows = max(1, values // weight.shape[0])

    def context(self) -> AbstractContextManager[object]:
        """Where the products are to be made."""
        stack = ExitStack()
        stack.enter_context(torch.autocast(self._hidden.device.type, enabled=False))
        stack.enter_context(onednn.of_autocast(self._rounds, len(self._hidden), self._values))
        return stack

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which rows, their hidden states and their logits."""
        count, size = len(self._hidden), self.weight.shape[0]
        buffer = torch.empty(min(self._rows, count), size, dtype=self._dtype, device=self._hidden.device)
        for start in range(0, count, self._rows):
            part = self._hidden[start : start + self._rows].to(self._dtype)
            yield slice(start, start + self._rows), part, torch.mm(part, self.weight.t(), out=buffer[: len(part)])


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype, grad_enabled: bool
    ) -> Tensor:
        needs_gradient = grad_enabled and any(ctx.needs_input_grad)  # the latter is True under no_grad as well
        count = (labels >= 0).sum().clamp(min=1)
        scale = (labels >= 0) / count  # (T,)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunks = _Chunks(hidden, weight, dtype, rounds=dtype != matmul_dtype(hidden))
        with chunks.context():
            d_hidden = torch.empty_like(hidden) if needs_gradient else None
            d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_gradient else None
            for rows, part, logits in chunks:
                losses, d_logits = _losses_of(logits, labels[rows], scale[rows], gradient=needs_gradient)
                total += losses.sum()
                if d_hidden is not None and d_weight is not None:
                    d_hidden[rows] = d_logits @ chunks.weight
                    _add_product(d_weight, d_logits.t(), part)
        ctx.save_for_backward(d_hidden, d_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grads[0], d_weight * grads[0], None, None, None


class _LinearCrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype, ctx.rounds = dtype, dtype != matmul_dtype(hidden)
        ctx.save_for_backward(hidden, weight, labels)
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        chunks = _Chunks(hidden, weight, dtype, ctx.rounds)
        with chunks.context():
            for rows, _, logits in chunks:
                losses[rows], _ = _losses_of(logits, labels[rows], losses[rows], gradient=False)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, labels = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        chunks = _Chunks(hidden, weight, ctx.dtype, ctx.rounds)
        with chunks.context():
            for rows, part, logits in chunks:
                _, d_logits = _losses_of(logits, labels[rows], grads[0][rows], gradient=True)
                d_hidden[rows] = d_logits @ chunks.weight
                _add_product(d_weight, d_logits.t(), part)
        return d_hidden, d_weight.to(weight.dtype), None, None


def _losses_of(logits: Tensor, labels: Tensor, scale: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
    """The losses (T,) and, in the place and the precision of the logits (T, V), their gradient where it is wanted."""
    if uses_triton(logits):
        from model.kernels.cross_entropy_triton import loss_and_gradient_

        return loss_and_gradient_(logits, labels, scale, gradient=gradient), logits
    return loss_and_gradient(logits, labels, scale, gradient=gradient)


def loss_and_gradient(logits: Tensor, labels: Tensor, scale: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
    """logits (T, V), labels (T,) -> losses (T,) in float32, 0 where a label is negative, and the gradient of scale . losses.

    scale (T,) is what each loss weighs. float32 logits are overwritten.
    """
    dtype, logits = logits.dtype, logits.float()
    counted = (labels >= 0)[:, None]
    target = labels.clamp(min=0)[:, None]
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    target_logit = logits.gather(1, target)
    normalizer = logits.exp_().sum(dim=-1, keepdim=True)
    losses = (normalizer.log() - target_logit).masked_fill(~counted, 0.0)[:, 0]
    if gradient:
        scale = scale[:, None].masked_fill(~counted, 0.0)  # (T, 1)
        logits.mul_(scale / normalizer).scatter_add_(1, target, -scale)
    return losses, logits.to(dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total (M, N) float32 += left (M, K) @ right (K, N), whose products are summed in float32."""
    if left.dtype == torch.float32:
        torch.addmm(total, left, right, out=total)
    elif left.is_cuda:  # the sum leaves the product's kernel unrounded
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total += left @ right


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The same from logits (T, V): the oracle."""
    return F.cross_entropy(logits.float(), labels.masked_fill(labels < 0, -100), ignore_index=-100)
