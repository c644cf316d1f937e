"""Steps of training on ranks, recorded piece by piece, and the same steps of one process."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.config.hunyuan import HunyuanConfig
from model.parallel.layout import Layout
from model.parallel.shard import initial_weights, pieces_of, shared_model
from model.parallel.start import ranks_of
from model.training.config import TrainingConfig
from model.training.optimizer import build_optimizer
from model.training.prepare import prepare
from model.training.settings import RunSettings
from model.training.step import TrainStep
from model.training.task import MicroBatch
from model.transformer import Hunyuan, Output

ROWS, TOKENS = 2, 16
CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "max_position_embeddings": 64, "cla_share_factor": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is trained: changes to the model and to its training, and the micro-batches of a step."""

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 4
    steps: int = 8
    together: int = 1  # so many of them are one micro-batch of the trainer's

    @property
    def settings(self) -> RunSettings:
        tokens = self.micro_batches * ROWS * TOKENS
        sizes = {"sequence_length": TOKENS, "micro_batch_size": self.together * ROWS}
        sizes["global_batch_tokens"] = tokens
        # Adam divides by the size of a gradient: with a small epsilon it makes rounding of gradients near 0 visible.
        training = (
            {"precision": "float32", "device": "cpu", "epsilon": 1e-3, "learning_rate": 1e-3} | sizes | self.training
        )
        return RunSettings(model=HunyuanConfig(**(SHAPE | self.model)), training=TrainingConfig(**training))


class Words:
    """A task of random tokens, of which the model learns which are frequent; some labels are left out."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def micro_batches(self, step: int) -> list[MicroBatch]:
        batches: list[tuple[Tensor, Tensor]] = []
        for index in range(self.case.micro_batches):
            generator = torch.Generator().manual_seed(1000 * step + index)
            ids = torch.randint(61, (ROWS, TOKENS + 1), generator=generator) ** 2 // 61
            labels = ids[:, 1:].clone()
            labels[0, : 3 * index] = -100
            batches.append((ids[:, :-1], labels))
        groups = (batches[first : first + self.case.together] for first in range(0, len(batches), self.case.together))
        merged = (tuple(map(torch.cat, zip(*group, strict=True))) for group in groups)
        return [MicroBatch((ids, y), targets=int((y >= 0).sum()), tokens=y.numel()) for ids, y in merged]

    def forward(self, net: Hunyuan, data: tuple[Tensor, Tensor], routing_key: Tensor) -> Output:
        return net(*data, routing_key=routing_key)

    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        return {}


@dataclass
class Recorded:
    """Of every step its numbers and the gradients as they are applied, by name."""

    numbers: list[tuple[float, float, float]] = field(default_factory=list)
    routing: list[list[list[float]]] = field(default_factory=list)
    noise: list[list[float]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, tuple[slice, ...]] = field(default_factory=dict)


def alone(case: Case) -> Recorded:
    """The steps of one process."""
    settings = case.settings
    net = Hunyuan(settings.model, torch.Generator().manual_seed(settings.training.seed))
    prepare(net, settings.training, CPU)
    optimizer = build_optimizer(net, settings.model, settings.training)
    step = TrainStep(net, optimizer, settings, Words(case), CPU, torch.float32)
    return _record(step, dict(net.named_parameters()), settings)


def on_ranks(rank: int, case: Case, layout: Layout) -> Recorded:
    """The same steps as one of several processes."""
    settings, ranks = case.settings, ranks_of(layout, rank, CPU)
    shards, optimizer = shared_model(settings.model, settings.training, ranks)
    weights = initial_weights(settings.model, settings.training.seed)
    shards.fill(pieces_of(shards, weights), optimizer.state)
    step = TrainStep(shards.net, optimizer, settings, Words(case), CPU, torch.float32, shards=shards)
    recorded = _record(step, shards.parts, settings)
    return dataclasses.replace(recorded, places={name: piece.slices for name, piece in shards.pieces.items()})


def _record(step: TrainStep, parameters: dict[str, Any], settings: RunSettings) -> Recorded:
    recorded, optimizer = Recorded(), step.optimizer
    apply = optimizer.step

    def applied() -> None:
        recorded.gradients.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        apply()

    optimizer.step = applied  # type: ignore[method-assign]
    for number, rate in zip(
        range(step.task.case.steps), itertools.cycle([settings.training.learning_rate]), strict=False
    ):
        result = step(number, rate).result()
        recorded.numbers.append((result.loss, result.aux_loss, result.grad_norm))
        recorded.noise.append(result.noise)
        if result.routing is not None:
            recorded.routing.append([part.double().flatten().tolist() for part in result.routing])
    recorded.weights = {name: p.detach().clone() for name, p in parameters.items()}
    return recorded
