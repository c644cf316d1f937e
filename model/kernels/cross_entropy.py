"""Cross-entropy from the last hidden state, without ever holding the logits of all tokens.

T tokens, D hidden, V vocabulary. The (T, V) logits are the largest tensor of a small model's step, and of a large
vocabulary's; in chunks of rows they stay in cache, and the gradients are made while they are there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.device import matmul_dtype

CHUNK_VALUES = 1 << 21  # logits per chunk on a processor: 8 MiB in float32
CHUNK_VALUES_DEVICE = 1 << 27  # on an accelerator: enough rows to fill it


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of labels (T,) under softmax(hidden (T, D) @ weight (V, D).T), in float32.

    Negative labels, such as -100, are left out of the mean. A label of V or more is torch's error of an index out
    of bounds.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, matmul_dtype(hidden), torch.is_grad_enabled())


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
        with torch.autocast(hidden.device.type, enabled=False):
            weight = weight.to(dtype)
            d_hidden = torch.empty_like(hidden) if needs_gradient else None
            d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_gradient else None
            buffer = torch.empty(min(rows, len(labels)), weight.shape[0], dtype=dtype, device=hidden.device)
            for start in range(0, len(labels), rows):
                part, label = hidden[start : start + rows].to(dtype), labels[start : start + rows]
                logits = torch.mm(part, weight.t(), out=buffer[: len(part)]).float()  # (rows, V), overwritten below
                counted = (label >= 0)[:, None]
                target = label.clamp(min=0)[:, None]
                logits.sub_(logits.amax(dim=-1, keepdim=True))
                target_logit = logits.gather(1, target)
                normalizer = logits.exp_().sum(dim=-1, keepdim=True)
                total += (normalizer.log() - target_logit).masked_fill(~counted, 0.0).sum()
                if d_hidden is None or d_weight is None:
                    continue
                scale = counted / count  # (rows, 1): zero for a label that is left out
                d_logits = logits.mul_(scale / normalizer).scatter_add_(1, target, -scale).to(dtype)
                d_hidden[start : start + rows] = d_logits @ weight
                if dtype == torch.float32:
                    torch.addmm(d_weight, d_logits.t(), part, out=d_weight)
                else:
                    d_weight += d_logits.t() @ part
        ctx.save_for_backward(d_hidden, d_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grads[0], d_weight * grads[0], None, None, None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The same from logits (T, V): the oracle."""
    return F.cross_entropy(logits.float(), labels.masked_fill(labels < 0, -100), ignore_index=-100)
