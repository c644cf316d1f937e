"""Direct preference optimization (DPO): raises chosen answers over rejected ones, without leaving a reference model.

With log-ratios r = log pi(answer) - log pi_ref(answer), d = r(chosen) - r(rejected) and s the logistic function, a pair costs

    sigmoid        -log s(beta d)                                            DPO, arXiv:2305.18290
                   -(1 - e) log s(beta d) - e log s(-beta d)                 conservative DPO: a label errs with probability e
    robust         (-(1 - e) log s(beta d) + e log s(-beta d)) / (1 - 2e)    unbiased under such labels, arXiv:2403.00409
    hinge          max(0, 1 - beta d)                                        SLiC, arXiv:2305.10425
    ipo            (d' - 1 / (2 beta))^2                                     arXiv:2310.12036, equation 17
    sigmoid_norm   -log s(beta d')

where e is label_smoothing, which the others do not read, and d' is made of log-ratios per token. The term of fine-tuning on
the chosen answer keeps its probability up, which the preference alone lets fall (Hunyuan-Large, arXiv:2411.02265).
B pairs.
"""

from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from model.posttraining.dpo_config import Kind, Normalization

PER_TOKEN = ("ipo", "sigmoid_norm")


class DPOLoss(NamedTuple):
    """The scalars are sums over these pairs, divided by the pairs or tokens of the whole step: micro-batches add up."""

    loss: Tensor  # () float32: preference_loss + sft_coefficient * sft_loss
    preference_loss: Tensor  # ()
    sft_loss: (
        Tensor  # () negative log-likelihood of the chosen answers; 0 where it is not asked for and no lengths are given
    )
    per_pair: Tensor  # (B,) the preference losses
    chosen_rewards: Tensor  # (B,) beta * log-ratio, without a gradient
    rejected_rewards: Tensor  # (B,)
    accuracy: Tensor  # () share of pairs whose chosen reward is the higher one; a tie is none
    margin: Tensor  # () mean of chosen - rejected reward


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    kind: Kind = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_tokens: Tensor | None = None,
    rejected_tokens: Tensor | None = None,
    num_pairs: int | Tensor | None = None,
    sft_coefficient: float = 0.0,
    sft_normalization: Normalization = "token",
    num_tokens: int | Tensor | None = None,
) -> DPOLoss:
    """Log-probabilities (B,), each summed over its answer, in any precision -> losses in float32.

    `chosen_tokens` and `rejected_tokens` (B,) are the lengths of the answers; ipo and sigmoid_norm divide by them.
    `num_pairs` and `num_tokens` (of the chosen answers) are those of the whole step, of which these pairs may be a part.
    The fine-tuning term is normalised by "token", over all tokens of the chosen answers, or by "sequence", the mean over
    answers of their means.
    """
    _check(kind, beta, label_smoothing, sft_normalization)
    policy_chosen = policy_chosen_logps.float()
    chosen = policy_chosen - reference_chosen_logps.float()
    rejected = policy_rejected_logps.float() - reference_rejected_logps.float()
    if kind in PER_TOKEN:
        if chosen_tokens is None or rejected_tokens is None:
            raise ValueError(f"{kind} is made of log-probabilities per token: give chosen_tokens and rejected_tokens")
        difference = chosen / chosen_tokens.clamp(min=1) - rejected / rejected_tokens.clamp(min=1)
    else:
        difference = chosen - rejected
    per_pair = _per_pair(difference, beta, kind, label_smoothing)
    pairs = len(per_pair) if num_pairs is None else num_pairs
    preference_loss = loss = _share(per_pair, pairs)
    sft_loss = _sft_loss(policy_chosen, chosen_tokens, pairs, num_tokens, sft_normalization)
    if sft_coefficient:
        if sft_loss is None:
            raise ValueError("the fine-tuning term is divided by the lengths of the chosen answers: give chosen_tokens")
        loss = loss + sft_coefficient * sft_loss
    chosen_rewards, rejected_rewards = beta * chosen.detach(), beta * rejected.detach()
    return DPOLoss(
        loss=loss,
        preference_loss=preference_loss,
        sft_loss=torch.zeros_like(loss) if sft_loss is None else sft_loss,
        per_pair=per_pair,
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        accuracy=_share((chosen_rewards > rejected_rewards).float(), pairs),
        margin=_share(chosen_rewards - rejected_rewards, pairs),
    )


def _check(kind: str, beta: float, label_smoothing: float, sft_normalization: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"the kind of DPO is {kind!r}: choose one of {', '.join(get_args(Kind))}")
    if sft_normalization not in get_args(Normalization):
        raise ValueError(f"sft_normalization is {sft_normalization!r}: choose token or sequence")
    if not beta > 0:
        raise ValueError(f"beta is {beta}: it must be above 0")
    if not 0 <= label_smoothing <= 0.5 or (kind == "robust" and label_smoothing == 0.5):
        raise ValueError(f"label_smoothing is {label_smoothing}: it must lie in [0, 0.5), or at 0.5 for sigmoid alone")


def _per_pair(difference: Tensor, beta: float, kind: Kind, label_smoothing: float) -> Tensor:
    if kind == "hinge":
        return F.relu(1 - beta * difference)
    if kind == "ipo":
        return (difference - 1 / (2 * beta)).square()
    right = -F.logsigmoid(beta * difference)
    if kind == "sigmoid_norm" or not label_smoothing:
        return right
    wrong = -F.logsigmoid(-beta * difference)
    if kind == "robust":
        return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def _sft_loss(
    policy_chosen: Tensor,
    chosen_tokens: Tensor | None,
    pairs: int | Tensor,
    num_tokens: int | Tensor | None,
    normalization: Normalization,
) -> Tensor | None:
    """None where it would be divided by what is not known."""
    if normalization == "sequence":
        return None if chosen_tokens is None else _share(-policy_chosen / chosen_tokens.clamp(min=1), pairs)
    if num_tokens is None and chosen_tokens is not None:
        num_tokens = chosen_tokens.sum()
    return None if num_tokens is None else _share(-policy_chosen, num_tokens)


def _share(values: Tensor, count: int | Tensor) -> Tensor:
    """What the values (B,) add to a mean over `count` of them; in float64, so that the mean of equal values is their value."""
    count = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
    return (values.sum(dtype=torch.float64) / count).float()
