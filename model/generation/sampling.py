"""The next token from its logits: greedy, or drawn from what temperature, top-k, top-p and min-p leave of them.

The order is transformers': repetition penalty (arXiv:1909.05858), temperature, top-k, top-p, min-p (arXiv:2407.01082);
only the penalty acts on a greedy choice too. B batch, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ConfigError, HunyuanError

INFINITY = float("inf")
GOLDEN = -0x61C8864680B583EB  # 2^64 over the golden ratio, as int64
SMALLEST, LARGEST = 1e-30, 1e30  # of the settings as computed with: 1e-300 means the same, but is 0 to float32


@dataclass(frozen=True)
class Sampling:
    """How to choose; the defaults are greedy and leave every token as it is."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # the k likeliest tokens; 0 is off
    top_p: float = 1.0  # the likeliest tokens that hold this probability; 1 is off
    min_p: float = 0.0  # tokens of at least this share of the likeliest one's probability; 0 is off
    repetition_penalty: float = 1.0  # divides the logits of tokens seen before, multiplies negative ones; 1 is off

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature < INFINITY:
            problems.append(f"temperature is {self.temperature}: give 0 (greedy) or above")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            problems.append(f"top_k is {self.top_k}: give a whole number, 0 (off) or above")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p is {self.top_p}: give a share above 0 and up to 1 (off)")
        if not 0 <= self.min_p < 1:
            problems.append(f"min_p is {self.min_p}: give a share from 0 (off) to below 1")
        if not 0 < self.repetition_penalty < INFINITY:
            problems.append(f"repetition_penalty is {self.repetition_penalty}: give a number above 0, where 1 is off")
        if problems:
            raise ConfigError(problems)


def next_token(
    logits: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None] | torch.Generator | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """logits (B, V) -> token ids (B,).

    With one generator a row, a row draws what it would draw alone. A single generator serves the rows in turn, and
    None is torch's global one. `seen` (B, V) bool marks the tokens of the prompt and those generated so far.
    """
    if not torch.stack(logits.aminmax()).isfinite().all():  # NaN goes through both
        raise HunyuanError(
            "the model's logits are not finite: try --dtype float32, or a checkpoint from before training went wrong"
        )
    if sampling.temperature == 0:
        return penalised(logits, sampling, seen).argmax(dim=-1)
    rows = list(generators) if isinstance(generators, Sequence) else [generators] * len(logits)
    if len(rows) != len(logits):
        raise ConfigError([f"{len(rows)} generators were given for {len(logits)} rows of logits: give one a row"])
    return draw(distribution(logits, sampling, seen), rows)


def penalised(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    """logits (B, V) with those of seen tokens brought down, as far as the repetition penalty says."""
    if sampling.repetition_penalty == 1:
        return logits
    if seen is None:
        raise ConfigError([f"repetition_penalty is {sampling.repetition_penalty} but no tokens are marked: give seen"])
    logits, penalty = logits.float(), _bounded(sampling.repetition_penalty)
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def distribution(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """logits (B, V) -> the probabilities (B, V) that are sampled from, up to a factor a row, at a temperature above 0."""
    limit = torch.finfo(torch.float32).max
    logits = penalised(logits.float(), sampling, seen) / _bounded(sampling.temperature)
    logits = logits.clamp(-limit, limit)  # a large penalty over a small temperature overflows
    if 0 < sampling.top_k < logits.shape[-1]:
        index = logits.topk(sampling.top_k, dim=-1).indices  # by index: of equal logits no more than top_k stay
        logits = torch.full_like(logits, -INFINITY).scatter(-1, index, logits.gather(-1, index))
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p < 1:  # the smallest set of tokens that holds top_p: those before which less was reached
        ordered, index = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= _bounded(sampling.top_p)
        probabilities = probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities


def draw(probabilities: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """One token a row (B,) by an exponential race: arrival times of rate p, the first wins with probability p.

    On a CPU torch.multinomial draws the same tokens, but has one generator for all rows. Nothing is summed over the
    vocabulary, so the winner of a row hardly depends on rounding. A probability of 0 has score 0 and never wins.
    """
    place, size = probabilities.device, probabilities.shape[-1]
    times = [
        torch.empty(size, dtype=torch.float64, device=place if generator is None else generator.device)
        .exponential_(generator=generator)
        .to(place)
        for generator in generators
    ]
    return (probabilities / torch.stack(times).clamp(min=2.0**-60)).argmax(dim=-1)


def counter_token(
    logits: Tensor, sampling: Sampling, seeds: Tensor, positions: Tensor, seen: Tensor | None = None
) -> Tensor:
    """logits (B, V), seeds and positions (B,) int64 -> token ids (B,), -1 where logits are not finite.

    The noise of a row is a function of its seed and its token's position alone: no generator, no wait for the device, and
    no dependence on the other rows. The same distribution as `next_token`, but other draws than a torch.Generator's.
    """
    if sampling.temperature == 0:
        chosen = penalised(logits, sampling, seen).argmax(dim=-1)
    else:
        times = counter_times(seeds, positions, logits.shape[-1])
        chosen = (distribution(logits, sampling, seen) / times).argmax(dim=-1)
    return torch.where(logits.isfinite().all(dim=-1), chosen, -1)


def counter_times(seeds: Tensor, positions: Tensor, size: int) -> Tensor:
    """Exponential arrival times (B, size) in float64 from seeds and positions (B,), by SplitMix64 (Steele et al., 2014)."""
    key = _mixed(_mixed(seeds) + positions)[:, None]
    bits = _mixed(key + GOLDEN * torch.arange(1, size + 1, device=seeds.device))
    uniform = ((bits >> 11 & (1 << 53) - 1).double() + 0.5) * 2.0**-53
    return -uniform.log()


def _mixed(bits: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64, whose products wrap around."""
    bits = (bits ^ (bits >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return bits ^ (bits >> 31 & (1 << 33) - 1)


def top_logprobs(logits: Tensor, chosen: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The log probability of the chosen tokens (B,), and the k likeliest tokens with theirs, likeliest first.

    logits (B, V), chosen (B,) -> chosen_logprob (B,), top_ids (B, k), top_logprobs (B, k), in float32 and in nats.
    They are the model's own: of its logits before repetition penalty, temperature and any top-k, top-p or min-p.
    """
    if not 0 <= k <= logits.shape[-1]:
        raise ConfigError(
            [f"{k} log probabilities a token were asked for: give 0 to {logits.shape[-1]}, the vocabulary"]
        )
    logprobs = logits.float().log_softmax(dim=-1)
    top = logprobs.topk(k, dim=-1)
    return logprobs.gather(-1, chosen[:, None])[:, 0], top.indices, top.values


def _bounded(value: float) -> float:
    return min(max(value, SMALLEST), LARGEST)
