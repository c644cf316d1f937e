"""Cross-entropy from the last hidden state, without ever holding the logits of all tokens.

T tokens, D hidden, V vocabulary. The (T, V) logits are the largest tensor of a small model's step, and of a large
vocabulary's; in chunks of rows they stay in cache, and the gradients are made while they are there.
"""

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
    dtype = torch.float32 if onednn.onednn_applies(hidden, weight) else matmul_dtype(hidden)  # oneDNN rounds by itself
    return _LinearCrossEntropy.apply(hidden, weight, labels, dtype, torch.is_grad_enabled())


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype, grad_enabled: bool
    ) -> Tensor:
        needs_gradient = grad_enabled and any(ctx.needs_input_grad)  # the latter is True under no_grad as well
        values = CHUNK_VALUES if hidden.device.type == "cpu" else CHUNK_VALUES_DEVICE
        rows = max(1, values // weight.shape[0])
        count = (labels >= 0).sum().clamp(min=1)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rounds = dtype != matmul_dtype(hidden)
        rounding = onednn.of_autocast(rounds, len(labels), weight.numel())
        with torch.autocast(hidden.device.type, enabled=False), rounding:
            weight = weight.to(dtype)
            d_hidden = torch.empty_like(hidden) if needs_gradient else None
            d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_gradient else None
            buffer = torch.empty(min(rows, len(labels)), weight.shape[0], dtype=dtype, device=hidden.device)
            for start in range(0, len(labels), rows):
                part, label = hidden[start : start + rows].to(dtype), labels[start : start + rows]
                logits = torch.mm(part, weight.t(), out=buffer[: len(part)])
                losses, d_logits = _losses_of(logits, label, count, gradient=needs_gradient)
                total += losses.sum()
                if d_hidden is not None and d_weight is not None:
                    d_hidden[start : start + rows] = d_logits @ weight
                    _add_product(d_weight, d_logits.t(), part)
        ctx.save_for_backward(d_hidden, d_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grads[0], d_weight * grads[0], None, None, None


def _losses_of(logits: Tensor, labels: Tensor, count: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
    """The losses (T,) and, in the place and the precision of the logits (T, V), their gradient where it is wanted."""
    if uses_triton(logits):
        from model.kernels.cross_entropy_triton import loss_and_gradient_

        return loss_and_gradient_(logits, labels, count, gradient=gradient), logits
    return loss_and_gradient(logits, labels, count, gradient=gradient)


def loss_and_gradient(logits: Tensor, labels: Tensor, count: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
    """logits (T, V), labels (T,) -> losses (T,) in float32, 0 where a label is negative, and the gradient of sum / count.

    float32 logits are overwritten.
    """
    dtype, logits = logits.dtype, logits.float()
    counted = (labels >= 0)[:, None]
    target = labels.clamp(min=0)[:, None]
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    target_logit = logits.gather(1, target)
    normalizer = logits.exp_().sum(dim=-1, keepdim=True)
    losses = (normalizer.log() - target_logit).masked_fill(~counted, 0.0)[:, 0]
    if gradient:
        scale = counted / count  # (T, 1): zero for a label that is left out
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
