"""How a run holds its model: whole, in one process, or in pieces, in each of several.

The loop asks for what differs between the two, by the same names: where the weights begin, what is restored and what is saved.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.run import newest_intact, restore, save_checkpoint
from model.checkpoint.sharded import restore_sharded, save_sharded
from model.config.hunyuan import HunyuanConfig
from model.errors import ConfigError
from model.parallel.agree import of_first, together
from model.parallel.layout import Layout
from model.parallel.shard import Shards, initial_weights, pieces_of, shared_model
from model.parallel.start import Ranks
from model.training.initial import load_weights, read_weights
from model.training.optimizer import build_optimizer
from model.training.prepare import prepare
from model.training.settings import RunSettings
from model.training.task import ExtendingTask, FollowingTask, Task
from model.transformer import Hunyuan


class Whole:
    """The model of one process."""

    shards: Shards | None = None
    ranks: Ranks | None = None

    def __init__(self, settings: RunSettings, task: Task, device: torch.device) -> None:
        model, config = settings.model, settings.training
        # Drawn on the processor, so that a seed means the same weights on every device.
        self.net = Hunyuan(model, torch.Generator().manual_seed(config.seed)).to(device)
        if isinstance(task, ExtendingTask):
            task.extend(self.net)
        self.optimizer = build_optimizer(self.net, model, config, begin=False)
        prepare(self.net, config, device)

    def draw(self) -> None:
        """Random weights: they are there."""

    def load(self, weights: Path) -> None:
        """Given weights instead."""
        load_weights(self.net, weights)

    def newest(self, folder: Path) -> tuple[Path, list[str]]:
        """The checkpoint to go on with, and a sentence on each that is passed over."""
        return newest_intact(folder)

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        return restore(checkpoint, self.net, self.optimizer)

    def save(
        self,
        folder: Path,
        step: int,
        state: dict[str, Any],
        keep: int,
        task: dict[str, Tensor] | None,
        *,
        config: HunyuanConfig | None = None,
        boundaries: Collection[int] = (),
    ) -> None:
        save_checkpoint(folder, step, self.net, self.optimizer, state, keep, task, config=config, boundaries=boundaries)


class Shared:
    """The pieces of a process among several."""

    def __init__(self, settings: RunSettings, task: Task, ranks: Ranks) -> None:
        if isinstance(task, ExtendingTask | FollowingTask):
            raise ConfigError(["this kind of training runs in one process: start it without --processes or torchrun"])
        self.ranks, self._model, self._seed = ranks, settings.model, settings.training.seed
        self.shards, self.optimizer = shared_model(settings.model, settings.training, ranks)
        self.net = self.shards.net

    def draw(self) -> None:
        weights = initial_weights(self._model, self._seed)
        self.shards.fill(pieces_of(self.shards, weights), self.optimizer.state)

    def load(self, weights: Path) -> None:
        self.draw()  # what they lack begins as in a new model
        found = read_weights(weights)
        buffers = dict(self.net.named_buffers())
        for name in buffers.keys() & found.keys():
            buffers[name].copy_(found.pop(name))
        self.shards.fill(
            pieces_of(self.shards, ((n, w) for n, w in found.items() if n in self.shards.parts)), self.optimizer.state
        )

    def newest(self, folder: Path) -> tuple[Path, list[str]]:
        """One process looks through the files for all."""
        found, notes = Path(), list[str]()
        with together(self.ranks):
            if self.ranks.is_first:
                found, notes = newest_intact(folder)
        return Path(of_first(self.ranks, str(found))), notes

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        with together(self.ranks):
            return restore_sharded(checkpoint, self.shards, self.optimizer)

    def save(
        self,
        folder: Path,
        step: int,
        state: dict[str, Any],
        keep: int,
        task: dict[str, Tensor] | None,
        *,
        config: HunyuanConfig | None = None,
        boundaries: Collection[int] = (),
    ) -> None:
        assert not task, "a task of several processes follows nothing"
        save_sharded(folder, step, self.shards, self.optimizer, state, keep, config=config, boundaries=boundaries)


def hold(settings: RunSettings, task: Task, device: torch.device, ranks: Ranks | None) -> Whole | Shared:
    """The model of a run as this process holds it, its weights still to be drawn, loaded or restored."""
    return Whole(settings, task, device) if ranks is None else Shared(settings, task, ranks)


def check_shared(settings: RunSettings, layout: Layout) -> None:
    """Refuses what several processes cannot do, or cannot share out so."""
    training, model, problems = settings.training, settings.model, []
    if training.graph is True:
        problems.append("training.graph records the step of one process: leave it at auto")
    if training.measure_noise_scale and layout.context_parallel > 1:
        problems.append(
            "training.measure_noise_scale needs the gradient of each micro-batch, and --context-parallel leaves it in parts on "
            "several processes: leave one of them out"
        )
    if problems:
        raise ConfigError(problems)
    layout.check_fits(
        micro_batches=training.micro_batches,
        num_experts=model.num_experts if not model.is_dense else 0,
        expert_rows=(2 * model.intermediate_size, model.hidden_size),
        sequence_length=training.sequence_length,
    )
