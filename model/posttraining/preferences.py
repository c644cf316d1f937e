"""Preferences as a task for the loop: offline pairs and pairs of the policy's own answers in one step (DPO).

Hunyuan-Large, arXiv:2411.02265, section on RLHF: one stage mixes both kinds, a term of fine-tuning on the chosen answer goes
with the preference, and the weights are averaged. Every `online_every` steps is a round: the policy answers prompts, and the
best and the worst answer to each make a pair. Pairs that a round lacks are offline ones where there are any.
B pairs of a micro-batch, S tokens of its longest row.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.data.instructions.rendering import RenderedPair
from model.device import on_its_way
from model.errors import TrainingError
from model.posttraining.average import AveragedModel
from model.posttraining.batch import collate_preference
from model.posttraining.divergence import DivergenceWatch
from model.posttraining.dpo import dpo_loss
from model.posttraining.draws import PAIRS, PROMPTS, places, round_seed, shared
from model.posttraining.logps import answer_logps
from model.posttraining.measure import Measure
from model.posttraining.preference_data import PreferenceData
from model.posttraining.reference import Reference, Table
from model.posttraining.rewards import Reward
from model.posttraining.rollout import Round, play
from model.training.settings import RunSettings
from model.training.task import MicroBatch, Weights
from model.transformer import Hunyuan, Output

SUMS = (
    "pairs", "online", "chosen_reward", "rejected_reward", "accurate", "preference_loss", "chosen_nll",
    "chosen_tokens", "rejected_tokens",
)  # fmt: skip


class Drawn(NamedTuple):
    """A pair of a step."""

    pair: RenderedPair
    offline: int | None  # its place among the offline pairs


class Batch(NamedTuple):
    """What the forward pass of a micro-batch reads; chosen rows first."""

    input_ids: Tensor  # (2B, S)
    completion_mask: Tensor  # (2B, S)
    reference: Tensor | None  # (2B,) log-probabilities of the answers, where they are known
    online: Tensor  # () how many of the pairs
    num_tokens: Tensor  # () float64: the step's tokens of chosen answers, as much of them as this part is of its pairs


class Preferences:
    """A FollowingTask. `note` takes the sentences that the user should read."""

    def __init__(
        self,
        settings: RunSettings,
        data: PreferenceData,
        folder: Path,
        device: torch.device,
        note: Callable[[str], None],
        reward: Reward | None = None,
        true_reward: Reward | None = None,
    ) -> None:
        assert settings.dpo is not None, "the settings of a run of preferences"
        self.dpo, self.training, self.model = settings.dpo, settings.training, settings.model
        self.data, self.folder, self.device, self.note = data, folder, device, note
        self.reward, self.true_reward = reward, true_reward
        self.pairs_per_step = self.training.batch_sequences // 2
        self.online_per_step = shared(self.pairs_per_step, self.dpo.online_share)
        self.reference = Reference(Path(self.training.init_from), device, keep=self.dpo.keeps_reference)
        self.average = AveragedModel(self.model, self.dpo.average) if self.dpo.average else None
        self.measure = Measure(settings, data, self.reference, device, reward, true_reward)
        self.watch = DivergenceWatch(self.dpo.kl_bound)
        self.table: Table | None = None
        self.taken = 0  # offline pairs so far
        self.round: Round | None = None
        self.drawn: list[Drawn] = []
        self.start: dict[str, float] = {}  # what the reference's own answers are worth

    # --- the loop's hooks ------------------------------------------------------------------------------------------------

    def begin(self, net: Hunyuan) -> None:
        if self.average is not None:
            self.average.begin(net)
        if not self.dpo.keeps_reference:
            self.table = Table.of(self.folder, len(self.data.pairs), self._fill)
        self.note(self._cost())
        if not self.start:
            self.note(f"answering {self.measure.count:,} held-out prompts, to know what the reference is worth")
            with torch.no_grad():
                worth, _ = self.measure.of_answers(net.eval())
            self.start = {f"reference_{key}": value for key, value in worth.items() if key != "kl"}

    def before_step(self, net: Hunyuan, step: int) -> None:
        if self.online_per_step and step % self.dpo.online_every == 0:
            self.round = self._play(net, step // self.dpo.online_every)
        self.drawn = self._draw(step % self.dpo.online_every)
        if not self.drawn:
            raise TrainingError(
                f"step {step + 1} has no pair: all answers to each of its prompts have the same reward, and there are no "
                "offline pairs; raise --samples or --temperature, or look at the reward"
            )

    def after_step(self, weights: Weights) -> None:
        if self.average is not None:
            self.average.update(weights)

    def figures(self, measures: list[float]) -> dict[str, Any]:
        sums = dict(zip(SUMS, measures, strict=True))
        pairs = sums["pairs"]
        mean = {key: sums[key] / pairs for key in ("chosen_reward", "rejected_reward", "preference_loss")}
        found = mean | {
            "margin": mean["chosen_reward"] - mean["rejected_reward"],
            "accuracy": sums["accurate"] / pairs,
            "chosen_logp_change": mean["chosen_reward"] / self.dpo.beta,  # nats an answer, since the start
            "rejected_logp_change": mean["rejected_reward"] / self.dpo.beta,
            "sft_loss": sums["chosen_nll"] / sums["chosen_tokens"],  # nats per token
            "chosen_length": sums["chosen_tokens"] / pairs,
            "rejected_length": sums["rejected_tokens"] / pairs,
            "online_share": sums["online"] / pairs,
        }
        if self.round is not None:
            found |= {"unusable_share": self.round.unusable, "online_reward": self.round.reward}
            found |= {"online_length": self.round.length, "online_cut_share": self.round.cut}
            if self.round.true_reward is not None:
                found["online_true_reward"] = self.round.true_reward
        return _known(found)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = {"taken": self.taken, "start": self.start, "watch": self.watch.state()}
        state["round"] = None if self.round is None else asdict(self.round)
        tensors: dict[str, Tensor] = {}
        if self.average is not None:
            tensors, state["updates"] = self.average.state()
        return tensors, state

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.taken, self.start = state["taken"], state["start"]
        self.watch = DivergenceWatch(self.dpo.kl_bound, state["watch"])
        if state["round"] is not None:
            pairs = [RenderedPair(*pair) for pair in state["round"]["pairs"]]
            self.round = Round(**state["round"] | {"pairs": pairs})
        if self.average is not None:
            self.average.restore(tensors, state["updates"])

    # --- a step ----------------------------------------------------------------------------------------------------------

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        return self._batches(self.drawn)

    def forward(self, net: Hunyuan, data: Batch, routing_key: Tensor) -> Output:
        c = self.dpo
        dropless = c.moe_routing == "dropless"
        scored = answer_logps(net, data.input_ids, data.completion_mask, routing_key=routing_key, dropless=dropless)
        reference = data.reference
        if reference is None:
            reference = self.reference.answer_logps(data.input_ids, data.completion_mask)
        tokens = data.completion_mask[:, 1:].sum(dim=1)
        (chosen, rejected), (chosen_tokens, rejected_tokens) = scored.logps.chunk(2), tokens.chunk(2)
        found = dpo_loss(
            chosen,
            rejected,
            *reference.chunk(2),
            beta=c.beta,
            kind=c.kind,
            label_smoothing=c.label_smoothing,
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens,
            sft_coefficient=c.sft_coefficient,
            sft_normalization=c.sft_normalization,
            num_tokens=data.num_tokens,
        )
        sums = (
            torch.full_like(data.num_tokens, len(chosen)), data.online, found.chosen_rewards.sum(),
            found.rejected_rewards.sum(), found.accuracy * len(chosen), found.per_pair.sum(), -chosen.sum(),
            chosen_tokens.sum(), rejected_tokens.sum(),
        )  # fmt: skip
        return Output(
            None, found.loss, scored.aux_loss, scored.stats, torch.stack([each.detach().double() for each in sums])
        )

    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        """Held-out pairs and prompts, of the policy and of its averaged weights, and what the watch says of them."""
        found, error = self.measure(net)
        found |= self.start
        if self.average is not None:
            averaged, _ = self.measure(self.average.model(net))
            found |= {f"average_{key}": value for key, value in averaged.items()}
        for sentence in self.watch.check(found, error):
            self.note(sentence)
        return _known(found)

    def _play(self, net: Hunyuan, number: int) -> Round:
        count = self.online_per_step * self.dpo.online_every
        seed = self.training.seed
        prompts = [self.data.prompts[at] for at in places(count, number * count, len(self.data.prompts), seed, PROMPTS)]
        assert self.reward is not None, "online pairs need a reward"
        new = play(
            self.data.asking,
            net,
            prompts,
            self.dpo.samples,
            round_seed(seed, number),
            self.reward,
            self.true_reward,
            min_margin=self.dpo.min_margin,
        )
        if not new.pairs and not self.data.pairs and self.round is not None:
            new.pairs = self.round.pairs  # nothing else is there to learn from
        return new

    def _draw(self, part: int) -> list[Drawn]:
        """The pairs of a step, the `part`-th of its round."""
        found = [] if self.round is None else self.round.pairs
        online = found[part :: self.dpo.online_every]
        if not online and not self.data.pairs:  # fewer pairs than the round has steps, and nothing else to learn from
            online = found
        drawn = [Drawn(pair, None) for pair in online[: self.online_per_step]]
        if self.data.pairs:
            lacking = self.pairs_per_step - len(drawn)
            drawn = self._offline(lacking, self.taken) + drawn
            self.taken += lacking
        return drawn

    def _offline(self, count: int, first: int) -> list[Drawn]:
        at = places(count, first, len(self.data.pairs), self.training.seed, PAIRS)
        return [Drawn(self.data.pairs[place], place) for place in at]

    def _batches(self, drawn: list[Drawn]) -> Iterator[MicroBatch]:
        """The pairs in parts of micro_batch_size sequences."""
        size, width = max(1, self.training.micro_batch_size // 2), self.training.sequence_length
        step_tokens = sum(len(each.pair.chosen_ids) for each in drawn)
        for first in range(0, len(drawn), size):
            part = drawn[first : first + size]
            rows = collate_preference([each.pair._asdict() for each in part], pad_id=self.data.asking.tokenizer.eos_id)
            if rows.dropped or rows.input_ids.shape[1] > width:
                raise AssertionError(
                    "pairs that are too long are left out where they are read, and answers have no more room"
                )
            reference = None
            if self.table is not None:
                reference = torch.cat([self.table.values[[each.offline for each in part], side] for side in (0, 1)])
            parts = (
                rows.input_ids, rows.completion_mask, reference, torch.tensor(sum(each.offline is None for each in part)),
                torch.tensor(step_tokens * len(part) / len(drawn), dtype=torch.float64),
            )  # fmt: skip
            data = Batch(*(None if each is None else on_its_way(each, self.device) for each in parts))  # type: ignore[arg-type]
            yield MicroBatch(data, targets=len(part), tokens=int(rows.attention_mask.sum()))

    # --- the reference ---------------------------------------------------------------------------------------------------

    def _fill(self, values: Tensor) -> None:
        """Computes the table in the very batches of the first epoch: so the first step's log-ratios are 0 to the bit."""
        reference = self.reference.in_memory()
        count, size = self.pairs_per_step, len(self.data.pairs)
        for first in range(0, size, count):
            drawn = self._offline(count, first)
            known = [each.offline for each in drawn]
            rows = torch.cat([
                torch.stack(reference.answer_logps(*batch.data[:2]).cpu().chunk(2), dim=1)
                for batch in self._batches(drawn)
            ])  # fmt: skip
            for place, row in zip(known, rows, strict=True):
                if values[place].isnan().any():
                    values[place] = row

    def _cost(self) -> str:
        """Where the reference is and what that costs."""
        average = "" if self.average is None else f"; the average of the weights takes {_size(self.average.bytes)} more"
        if self.table is None:
            kept = _size(self.reference.bytes)
            why = "for online pairs are not known beforehand" if self.online_per_step else "as dpo.reference asks"
            return f"the reference stays in memory, {kept} (4 bytes a parameter), {why}{average}"
        return (
            f"the reference's log-probabilities of {len(self.data.pairs):,} pairs are computed once and kept ("
            f"{_size(self.table.values.nbytes)}): it is in memory only where the run is evaluated{average}"
        )


def _known(figures: dict[str, float]) -> dict[str, float]:
    """Without those that are no number, such as the mean reward of answers of which none has one: JSON has no NaN."""
    return {key: value for key, value in figures.items() if not math.isnan(value)}


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
