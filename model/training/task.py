"""What the loop is given to learn: micro-batches, a loss for each, and how much each weighs in its step.

Pre-training, fine-tuning on instructions and learning from preferences differ in these alone. A step's loss is the mean over
all its targets, wherever they lie: a micro-batch of few targets weighs little, and gradients are those of one big batch.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from model.transformer import Hunyuan, Output

Weights = Iterable[tuple[str, Tensor]]  # by their names in the model, in float32


class MicroBatch(NamedTuple):
    """A part of a step's batch that goes through the model at once. The counts are known without asking the device."""

    data: Any  # what the task's forward pass reads
    targets: int  # what its loss is the mean over: tokens that have a label, or pairs
    tokens: int  # tokens that go through the model, among which its routing is balanced


class Task(Protocol):
    """What is learnt. Batches are a pure function of the step, so that a resumed run reads on where it stopped."""

    def micro_batches(self, step: int) -> Iterable[MicroBatch]:
        """The batch of step `step` (from 0), in parts."""

    def forward(self, net: Hunyuan, data: Any, routing_key: Tensor) -> Output:
        """The Output of one micro-batch; its loss is the mean over the micro-batch's targets, 0 where it has none."""

    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        """Keys of the evaluated lines of metrics.jsonl, val_loss among them: means over targets, however batched."""


@runtime_checkable
class ExtendingTask(Task, Protocol):
    """A task that learns parameters beside the model's."""

    def extend(self, net: Hunyuan) -> None:
        """Adds them to the model, before anything is made of it. They are saved with it."""


@runtime_checkable
class FollowingTask(Task, Protocol):
    """A task whose batches or figures come from the weights as they move. The loop tells it of every step and keeps its state.

    A step may report sums beside its loss: `Output.measures` (M,) of each micro-batch, which are added up.
    """

    def begin(self, net: Hunyuan) -> None:
        """The weights to begin with are in place; a run that goes on has had its state restored."""

    def before_step(self, net: Hunyuan, step: int) -> None:
        """Step `step` is about to ask for its micro-batches."""

    def after_step(self, weights: Weights) -> None:
        """A step has moved the weights."""

    def figures(self, measures: list[float]) -> dict[str, Any]:
        """Keys of a line of metrics.jsonl, from the sums that its step reported."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps, as tensors and as JSON."""

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""


class SameBatch:
    """A task whose every batch is ids (B, S + 1), for those who measure."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def micro_batches(self, step: int) -> list[MicroBatch]:
        tokens = self.ids[:, 1:].numel()
        return [MicroBatch(self.ids, targets=tokens, tokens=tokens)]

    def forward(self, net: Hunyuan, data: Tensor, routing_key: Tensor) -> Output:
        return net(data[:, :-1], data[:, 1:], routing_key=routing_key)

    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        return {}


class SameBatches(SameBatch):
    """The same of ids (M, B, S + 1): M micro-batches, of which each process of several takes its own."""

    def micro_batches(self, step: int) -> list[MicroBatch]:
        tokens = self.ids[0, :, 1:].numel()
        return [MicroBatch(part, targets=tokens, tokens=tokens) for part in self.ids]


def share(value: Tensor, part: int, whole: int) -> Tensor:
    """What a mean over `part` targets adds to the mean over `whole`; equal parts are divided by their number, exactly."""
    return value / (whole / part) if part else value * 0.0
