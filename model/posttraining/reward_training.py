"""The reward model as a task for the loop: pairs of answers, ranked; how it does on held-out pairs is kept in the run folder.

RUN/held_out.jsonl: {"chosen", "rejected"}, the rewards of each held-out pair at the last validation, in the order of the data.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.data.instructions.examples import PairExamples, Progress, prepare_pairs
from model.data.instructions.packing import ShuffledOrder
from model.data.instructions.rendering import RenderedPair, Renderer
from model.device import on_its_way
from model.errors import ConfigError
from model.files import write_file
from model.posttraining.batch import collate_preference
from model.posttraining.reward import RewardModel, reward_loss
from model.posttraining.reward_config import RewardConfig
from model.posttraining.stage import Stage, run_stage
from model.tokenizer.folder import CHAT_TEMPLATE, check_tokenizer_fits
from model.training.events import Reporter
from model.training.run_folder import DataRecord
from model.training.settings import RunSettings
from model.training.task import MicroBatch
from model.transformer import Hunyuan, Output

HELD_OUT = "held_out.jsonl"
SHAPED = ("compile", "graph")  # settings of [training] for batches of one shape
UNRECORDED = (
    "a batch of pairs is as long as its longest answer, so steps are neither compiled nor recorded as a CUDA graph: set "
    "training.compile to have it otherwise"
)


class PairBatch(NamedTuple):
    """P pairs on the device: their chosen answers, then their rejected ones."""

    input_ids: Tensor  # (2P, S)
    lengths: Tensor  # (2P,)
    margins: Tensor  # (P,)


class RewardTraining:
    """Batches are a pure function of the step, so a resumed run reads on exactly where it stopped."""

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        config: RewardConfig,
        pairs: PairExamples,
        pad_id: int,
        device: torch.device,
    ) -> None:
        self.folder, self.config, self.pairs, self.pad_id, self.device = folder, config, pairs, pad_id, device
        self.training = settings.training
        self.order = ShuffledOrder(len(pairs.train), settings.training.seed)
        lengths = (2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p, _ in pairs.validation)
        within = sum(total <= settings.training.evaluation_tokens for total in accumulate(lengths))
        self.held_out = pairs.validation[: max(1, within)]

    def extend(self, net: Hunyuan) -> None:
        """The head becomes a part of the model, under the name of REWARD_HEAD."""
        self.model = RewardModel(net, torch.Generator().manual_seed(self.training.seed))
        net.reward_head = self.model.head

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """The batch of step `step` (from 0): a pair for every two sequences."""
        size = self.training.micro_batch_size // 2
        first = step * size * self.training.micro_batches
        for micro in range(self.training.micro_batches):
            yield self._batch([self.pairs.train[index] for index in self.order.indices(first + micro * size, size)])

    def forward(self, net: Hunyuan, data: PairBatch, routing_key: Tensor) -> Output:
        rewards, aux_loss, stats = self.model.score(data.input_ids, data.lengths, routing_key=routing_key)
        chosen, rejected = rewards.chunk(2)
        found = reward_loss(chosen, rejected, margin=data.margins, center_coefficient=self.config.center_coefficient)
        return Output(None, found.loss, aux_loss, stats)

    @torch.no_grad()
    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        """val_loss in nats per held-out pair, val_accuracy, and val_margin: how far the chosen answers lead."""
        size = self.training.micro_batch_size // 2
        firsts = range(0, len(self.held_out), size)
        batches = [self._batch(self.held_out[first : first + size]).data for first in firsts]
        if not batches:
            return {}
        scored = torch.cat(
            [torch.stack(self.model(batch.input_ids, batch.lengths).chunk(2)) for batch in batches], dim=1
        )
        chosen, rejected = scored.double().cpu()
        rows = zip(chosen.tolist(), rejected.tolist(), strict=True)
        lines = (json.dumps({"chosen": better, "rejected": worse}) + "\n" for better, worse in rows)
        write_file(self.folder / HELD_OUT, "".join(lines))
        found = reward_loss(chosen, rejected)
        return {"val_loss": float(found.loss), "val_accuracy": float(found.accuracy), "val_margin": float(found.margin)}

    def _batch(self, pairs: Sequence[tuple[RenderedPair, float]]) -> MicroBatch:
        rows = collate_preference([pair._asdict() for pair, _ in pairs], pad_id=self.pad_id)
        lengths = rows.attention_mask.sum(dim=1)
        margins = torch.tensor([margin for _, margin in pairs])
        data = PairBatch(*(on_its_way(part, self.device) for part in (rows.input_ids, lengths, margins)))
        return MicroBatch(data, targets=len(pairs), tokens=int(lengths.sum()))


def train_reward(
    folder: Path,
    settings: RunSettings,
    reporter: Reporter,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains `settings`, which have a section [reward], into a run folder; returns the run's summary. See `run_stage`."""
    assert settings.reward is not None, "a reward model has a section of its own"
    config = settings.reward
    if settings.training.micro_batch_size % 2:
        size = settings.training.micro_batch_size
        raise ConfigError([f"training.micro_batch_size is {size}: a pair is two sequences, so give an even number"])

    def prepare(trained: RunSettings, home: Path, device: torch.device) -> Stage:
        renderer = Renderer.from_folder(home)
        check_tokenizer_fits(renderer.tokenizer, settings.model.vocab_size)
        pairs = prepare_pairs(
            trained.data.sources,
            renderer,
            encoding=trained.data.encoding,
            length=trained.training.sequence_length,
            validation_fraction=trained.data.validation_fraction,
            progress=progress,
        )
        return _stage(folder, trained, config, renderer, pairs, device)

    return run_stage(folder, settings, prepare, reporter, resume=resume, should_stop=should_stop)


def _stage(
    folder: Path,
    settings: RunSettings,
    config: RewardConfig,
    renderer: Renderer,
    pairs: PairExamples,
    device: torch.device,
) -> Stage:
    task = RewardTraining(folder, settings, config, pairs, renderer.tokenizer.eos_id, device)
    steps = math.ceil(config.epochs * len(pairs.train) / (settings.training.batch_sequences // 2))
    notes = pairs.left_out.sentences()
    if not pairs.validation:
        notes.append("every pair has the same question, so none is held out: there is no accuracy")
    training = settings.training
    if device.type == "cuda" and "auto" in (training.compile, training.graph):
        notes.append(UNRECORDED)
        chosen = {name: False if getattr(training, name) == "auto" else getattr(training, name) for name in SHAPED}
        training = dataclasses.replace(training, compile=chosen["compile"], graph=chosen["graph"])
    counts: dict[str, Any] = {"pairs": len(pairs.train), "validation_pairs": len(pairs.validation)}
    counts |= {"left_out": {reason: len(rows) for reason, rows in pairs.left_out.rows.items()}}
    assert renderer.template is not None, "pairs are rendered by a template"
    return Stage(
        task,
        DataRecord(renderer.tokenizer, pairs.fingerprint, counts, ""),
        f"{', '.join(settings.data.sources)}: {len(pairs.train):,} pairs for training and {len(pairs.validation):,} held out",
        max(1, steps),
        f"{settings.training.batch_sequences // 2:,} pairs",
        {CHAT_TEMPLATE: renderer.template.source} | pairs.left_out.files(),
        notes,
        training,
    )
