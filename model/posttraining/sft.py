"""Fine-tuning on answers: the mean negative log-likelihood of their tokens. B batch, S sequence."""

import torch
from torch import Tensor


def sft_loss(logps: Tensor, mask: Tensor, *, num_tokens: int | Tensor | None = None) -> Tensor:
    """logps (B, S - 1) of `token_logps` and its mask (B, S) -> nats per learned token, () float32.

    The mask may also be that of the targets alone, (B, S - 1). `num_tokens` are the learned tokens of the whole step, so that
    the losses of its micro-batches add up to that of the batch; without it they are those of the mask. 0 where there is none.
    """
    if mask.shape[1] == logps.shape[1] + 1:
        mask = mask[:, 1:]
    if mask.shape != logps.shape:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}: it must fit log-probabilities of {tuple(logps.shape)}"
        )
    learned = mask.bool()
    count = learned.sum() if num_tokens is None else torch.as_tensor(num_tokens, device=logps.device)
    return -logps.float().masked_fill(~learned, 0.0).sum() / count.clamp(min=1)
