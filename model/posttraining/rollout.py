"""The policy answers prompts: in batches, with draws that follow from a seed and a prompt's place, and pairs of its answers.

A round's answers depend on the weights and its seed alone, so a run that goes on draws what it would have drawn.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from model.data.instructions.preferences import Question
from model.data.instructions.rendering import RenderedPair
from model.data.permutation import mix
from model.generation.generate import generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from model.posttraining.online import select_pair
from model.posttraining.rewards import Answer, Reward
from model.tokenizer.interface import TextTokenizer
from model.transformer import Hunyuan

SLOTS = 64  # answers that are generated at the same time


class Prompt(NamedTuple):
    """A question and the tokens that the policy is given."""

    question: Question
    ids: list[int]


@dataclass(frozen=True)
class Asking:
    """How prompts are answered."""

    tokenizer: TextTokenizer
    ends: Collection[int]  # tokens that end an answer
    length: int  # most tokens of prompt and answer
    max_new_tokens: int = 0  # of an answer; 0: what the length leaves
    temperature: float = 1.0

    def room(self, prompt: Sequence[int]) -> int:
        """Most new tokens of an answer to a prompt."""
        left = self.length - len(prompt)
        return min(left, self.max_new_tokens) if self.max_new_tokens else left

    def answers(self, net: Hunyuan, prompts: Sequence[Prompt], samples: int, seed: int) -> list[list[Answer]]:
        """`samples` answers of a model in evaluation mode to every prompt."""
        device = net.embed_tokens.weight.device
        requests = [
            Request(
                prompt.ids,
                self.room(prompt.ids),
                end_ids=self.ends,
                generator=torch.Generator(device).manual_seed(int(mix(seed, place, sample) >> 1)),
            )
            for place, prompt in enumerate(prompts)
            for sample in range(samples)
        ]
        by_length = sorted(requests, key=lambda request: len(request.prompt))  # prompts of one length are read together
        for _ in generate_batch(net, by_length, sampling=Sampling(self.temperature), slots=SLOTS):
            pass
        said = [self._answer(request) for request in requests]
        return [said[first : first + samples] for first in range(0, len(said), samples)]

    def _answer(self, request: Request) -> Answer:
        ended = request.end_id is not None
        ids = [*request.token_ids, request.end_id] if request.end_id is not None else list(request.token_ids)
        return Answer(ids, self.tokenizer.decode(request.token_ids), ended)


@dataclass
class Round:
    """What the policy said to a round's prompts, and the pairs of it."""

    pairs: list[RenderedPair]
    unusable: float  # share of the prompts without a pair
    reward: float  # mean over all answers
    true_reward: float | None
    length: float  # mean tokens of an answer
    cut: float  # share of the answers that came to no end


def play(
    asking: Asking,
    net: Hunyuan,
    prompts: Sequence[Prompt],
    samples: int,
    seed: int,
    reward: Reward,
    true_reward: Reward | None = None,
    *,
    min_margin: float = 0.0,
) -> Round:
    """A pair of the best and the worst answer to each prompt, where they differ."""
    answers = asking.answers(net, prompts, samples, seed)
    flat = [answer for group in answers for answer in group]
    questions = [prompt.question for prompt, group in zip(prompts, answers, strict=True) for _ in group]
    rewards = reward(questions, flat)
    pairs = []
    for place, (prompt, group) in enumerate(zip(prompts, answers, strict=True)):
        first = place * samples
        found = select_pair(
            _ranked(rewards[first : first + samples], group), [answer.ids for answer in group], min_margin=min_margin
        )
        if found is not None and group[found.best].ended:
            pairs.append(RenderedPair(prompt.ids, group[found.best].ids, group[found.worst].ids))
    return Round(
        pairs,
        unusable=1 - len(pairs) / len(prompts),
        reward=mean(rewards),
        true_reward=None if true_reward is None else mean(true_reward(questions, flat)),
        length=mean([len(answer.ids) for answer in flat]),
        cut=mean([not answer.ended for answer in flat]),
    )


def _ranked(rewards: Sequence[float], answers: Sequence[Answer]) -> list[float]:
    """The rewards, those of cut answers below all others: who learns an answer without an end learns not to end."""
    worst = min((reward for reward in rewards if not math.isnan(reward)), default=math.nan)
    return [reward if answer.ended else worst - 1.0 for reward, answer in zip(rewards, answers, strict=True)]


def mean(values: Sequence[float]) -> float:
    """Over those that are numbers: an answer may have no reward."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
