"""What a policy is worth: its own answers to held-out prompts by every reward, how far it is from the reference, and the loss
of held-out pairs.

    kl            nats an answer: mean of log pi(y) - log pi_ref(y) over answers y ~ pi, at temperature 1
    val_loss      the preference loss of held-out pairs; val_accuracy and val_margin beside it
B rows, S tokens.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from model.data.instructions.preferences import Question
from model.data.instructions.rendering import RenderedPair
from model.posttraining.batch import collate_preference
from model.posttraining.dpo import dpo_loss
from model.posttraining.draws import EVALUATION, round_seed
from model.posttraining.logps import answer_logps
from model.posttraining.preference_data import PreferenceData
from model.posttraining.reference import Reference
from model.posttraining.rewards import Answer, Reward
from model.posttraining.rollout import Prompt, mean
from model.training.settings import RunSettings
from model.transformer import Hunyuan


class Measure:
    """measure(net) -> figures, and the standard error of the true reward. The same draws at every evaluation."""

    def __init__(
        self,
        settings: RunSettings,
        data: PreferenceData,
        reference: Reference,
        device: torch.device,
        reward: Reward | None,
        true_reward: Reward | None,
    ) -> None:
        assert settings.dpo is not None, "the settings of a run of preferences"
        self.dpo, self.training = settings.dpo, settings.training
        self.data, self.reference, self.device = data, reference, device
        self.reward, self.true_reward = reward, true_reward
        self.asking = dataclasses.replace(data.asking, temperature=1.0)  # the policy's own distribution: KL is of it
        self.size = max(2, self.training.micro_batch_size)  # rows of a forward pass
        most = max(1, self.training.evaluation_tokens // (2 * self.training.sequence_length))
        self.pairs = data.held_out_pairs[:most]
        self.prompts = data.held_out_prompts or data.prompts[: self.dpo.evaluation_prompts]
        self.has_rows = bool(self.prompts)  # what a check needs beside the prompt
        if not self.prompts:  # offline pairs alone: their prompts
            asked = [pair.prompt_ids for pair in data.held_out_pairs or data.pairs]
            asked = [ids for ids in asked if self.asking.room(ids) > 0][: self.dpo.evaluation_prompts]
            self.prompts = [Prompt(Question("a pair's prompt", []), ids) for ids in asked]

    @property
    def count(self) -> int:
        return len(self.prompts) + len(self.data.other_prompts)

    @torch.no_grad()
    def __call__(self, net: Hunyuan) -> tuple[dict[str, float], float]:
        answers, error = self.of_answers(net)
        return self._of_pairs(net) | answers, error

    @torch.no_grad()
    def of_answers(self, net: Hunyuan) -> tuple[dict[str, float], float]:
        """KL, rewards and lengths of answers to the held-out prompts, and the reward of other skills."""
        seed = round_seed(self.training.seed, 0, EVALUATION)
        answers = [group[0] for group in self.asking.answers(net, self.prompts, 1, seed)]
        found = {
            "kl": self._kl(net, answers),
            "answer_length": mean([len(answer.ids) for answer in answers]),
            "cut_share": mean([not answer.ended for answer in answers]),
        }
        error = 0.0
        questions = [prompt.question for prompt in self.prompts]
        if self.has_rows and self.reward is not None:
            found["proxy_reward"] = mean(self.reward(questions, answers))
        if self.has_rows and self.true_reward is not None:
            rewards = self.true_reward(questions, answers)
            found["true_reward"] = mean(rewards)
            known = [reward for reward in rewards if not math.isnan(reward)]
            error = statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else 0.0
        judge = self.true_reward or self.reward
        if self.data.other_prompts and judge is not None:
            others = [group[0] for group in self.asking.answers(net, self.data.other_prompts, 1, seed)]
            found["other_reward"] = mean(judge([prompt.question for prompt in self.data.other_prompts], others))
        return found, error

    def _kl(self, net: Hunyuan, answers: Sequence[Answer]) -> float:
        # As pairs of the same answer twice they go the way of all pairs.
        pairs = [RenderedPair(p.ids, a.ids, a.ids) for p, a in zip(self.prompts, answers, strict=True) if a.ids]
        with self.reference.model() as reference:
            sums = [policy - other for policy, other in self._scored(net, reference, pairs, sides=1)]
        return float(torch.cat(sums).double().mean()) if sums else 0.0

    def _of_pairs(self, net: Hunyuan) -> dict[str, float]:
        if not self.pairs:
            return {}
        c, losses, accurate, margins = self.dpo, 0.0, 0.0, 0.0
        with self.reference.model() as reference:
            scored = list(self._scored(net, reference, self.pairs, sides=2))
        for first, (policy, other) in zip(range(0, len(self.pairs), self.size // 2), scored, strict=True):
            part = self.pairs[first : first + self.size // 2]
            lengths = [
                torch.tensor([len(ids) for ids in side], device=self.device)
                for side in ([pair.chosen_ids for pair in part], [pair.rejected_ids for pair in part])
            ]
            found = dpo_loss(
                *policy.chunk(2),
                *other.chunk(2),
                beta=c.beta,
                kind=c.kind,
                label_smoothing=c.label_smoothing,
                chosen_tokens=lengths[0],
                rejected_tokens=lengths[1],
            )
            losses += float(found.per_pair.double().sum())
            accurate += float(found.accuracy) * len(part)
            margins += float(found.margin) * len(part)
        count = len(self.pairs)
        return {"val_loss": losses / count, "val_accuracy": accurate / count, "val_margin": margins / count}

    def _scored(
        self, net: Hunyuan, reference: Hunyuan, pairs: Sequence[RenderedPair], *, sides: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Log-probabilities of the answers by the policy and by the reference, micro-batch by micro-batch.

        `sides` 1 scores the chosen answers alone, (B,); 2 both, (2B,).
        """
        found, size = [], self.size // 2
        for first in range(0, len(pairs), size):
            part = pairs[first : first + size]
            rows = collate_preference([pair._asdict() for pair in part], pad_id=self.asking.tokenizer.eos_id)
            count = len(part) * sides
            ids, mask = rows.input_ids[:count].to(self.device), rows.completion_mask[:count].to(self.device)
            found.append((answer_logps(net, ids, mask).logps, answer_logps(reference, ids, mask).logps))
        return found
