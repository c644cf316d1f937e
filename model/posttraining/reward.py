"""The reward model: a language model whose head gives one number for a conversation, and the loss that ranks two of them.

Bradley and Terry's model of comparisons: P(chosen before rejected) = s(reward of chosen - reward of rejected), s the logistic
function. B batch, S sequence, D hidden.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.moe.layer import MoEStats
from model.transformer import Hunyuan


class RewardLoss(NamedTuple):
    loss: Tensor  # () float32
    accuracy: Tensor  # () share of pairs whose chosen answer has the higher reward; a tie is none
    margin: Tensor  # () mean of reward of chosen - reward of rejected


def reward_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float | None = None, center_coefficient: float = 0.0
) -> RewardLoss:
    """Mean of -log s(chosen - rejected - margin) + center_coefficient * mean of (chosen + rejected)^2; rewards (B,).

    `margin` (B,) or a number is by how much the chosen answer should lead (Llama 2, arXiv:2307.09288, equation 2). The second
    term holds rewards near 0, which the first leaves open (arXiv:2312.09244).
    """
    chosen, rejected = chosen.float(), rejected.float()
    lead = chosen - rejected
    loss = -F.logsigmoid(lead if margin is None else lead - margin).mean()
    if center_coefficient:
        loss = loss + center_coefficient * (chosen + rejected).square().mean()
    return RewardLoss(loss, (lead.detach() > 0).float().mean(), lead.detach().mean())


class RewardModel(nn.Module):
    """input_ids (B, S) and lengths (B,) -> rewards (B,) float32, read at each row's last token.

    The last token is told by its length, never by an id: padding may be an end token as well. `generator` draws the head.
    """

    def __init__(self, net: Hunyuan, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.net = net
        size, device = net.config.hidden_size, net.embed_tokens.weight.device
        self.head = nn.Linear(size, 1, bias=False)
        # 1 / sqrt(D + 1), as Stiennon et al., arXiv:2009.01325: rewards begin near 0. Drawn on the processor, as the model is.
        nn.init.normal_(self.head.weight, std=(size + 1) ** -0.5, generator=generator)
        self.head.to(device)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return self.score(input_ids, lengths)[0]

    def score(
        self, input_ids: Tensor, lengths: Tensor, *, routing_key: Tensor | None = None, dropless: bool = True
    ) -> tuple[Tensor, Tensor, MoEStats | None]:
        """The rewards (B,), the routing losses () of the tokens within the lengths, and what routing did with them.

        Experts take every token that chose them, unless `dropless` is off. `routing_key` is what `Hunyuan.forward` needs where
        something in it is random.
        """
        within = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
        hidden, aux_loss, stats = self.net.hidden_states(
            input_ids, routing_key=routing_key, token_mask=within, dropless=dropless
        )
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]  # (B, D)
        with torch.autocast(last.device.type, enabled=False):
            return F.linear(last.float(), self.head.weight.float())[:, 0], aux_loss, stats
